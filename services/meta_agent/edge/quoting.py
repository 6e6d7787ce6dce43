"""Words of a caller inside our own messages."""

from __future__ import annotations


def quote(text: str, limit: int = 40) -> str:
    """`text` as it may stand in a message: short, in quotes, printable ASCII."""
    return ascii(text if len(text) <= limit else text[: limit - 3] + "...")
