"""Token counts without a tokenizer: estimates to plan with.

Bounds for budgets are `hma.llm.counting`'s business.
"""

from __future__ import annotations

BYTES_PER_TOKEN = 4
"""About what byte-pair tokenizers reach on English prose and on CJK (3 bytes a character)."""


def utf8_size(text: str) -> int:
    """Size of `text` in bytes of UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def approximate_tokens(text: str) -> int:
    """Estimated tokens of `text`: a basis for plans, never for budgets."""
    return tokens_of_bytes(utf8_size(text))


def tokens_of_bytes(size: int) -> int:
    """Estimated tokens of `size` bytes of UTF-8, rounded up."""
    return -(-size // BYTES_PER_TOKEN)
