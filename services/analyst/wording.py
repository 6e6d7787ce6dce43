"""Text that a model or a client wrote, made fit for a plan's fields."""

from __future__ import annotations

ELLIPSIS = "…"
MAX_TITLE = 80
MAX_INSTRUCTION = 8_000


def line(value: object, limit: int) -> str:
    """`value` as one line of at most `limit` characters; empty when it is no text.

    Control characters and lone surrogates, which a model can write as JSON escapes
    and protobuf cannot carry, are left out.
    """
    if not isinstance(value, str):
        return ""
    # Cut before cleaning, so that a huge value costs no more than a long one.
    sound = value[: 4 * limit].encode("utf-8", "ignore").decode()
    words = " ".join("".join(c if c.isprintable() else " " for c in sound).split())
    return shorten(words, limit)


def shorten(text: str, limit: int) -> str:
    """`text`, cut at a space where possible and marked, to at most `limit` characters."""
    if len(text) <= limit:
        return text
    head = text[: limit - len(ELLIPSIS)]
    space = head.rfind(" ")
    return (head[:space] if space > limit // 2 else head).rstrip(" ,;:.") + ELLIPSIS


def lines(value: object, count: int, limit: int) -> list[str]:
    """The texts of a list as lines; at most `count`, none empty; [] when it is no list."""
    if not isinstance(value, list):
        return []
    return [text for text in (line(entry, limit) for entry in value[:count]) if text]
