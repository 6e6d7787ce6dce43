"""What the name of a tenant looks like. Pure."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
NAME_RULE = "letters, digits, '-' and '_', at most 64"


def is_tenant(name: str) -> bool:
    """Whether a text is the name of a tenant: ASCII letters, digits, "-" and "_"."""
    return _NAME.fullmatch(name) is not None
