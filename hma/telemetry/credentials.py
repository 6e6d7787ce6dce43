"""Finds credentials in texts that are written down, whoever put them there."""

from __future__ import annotations

import re

# HMA's own keys (`hma_<id>_<secret>`: the id is public), and JSON Web Tokens, which begin
# with the base64 of '{"'. What else is secret has no shape of its own.
_KEY = re.compile(r"(hma_[0-9A-Za-z]{1,64}_)[0-9A-Za-z]{16,}")
_TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]{4,}(\.[\w-]*)*")


def without_credentials(text: str) -> str:
    """`text` with "***" for what can be used to call in another's name."""
    if "hma_" in text:
        text = _KEY.sub(r"\1***", text)
    return _TOKEN.sub("***", text) if "eyJ" in text else text
