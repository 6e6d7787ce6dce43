"""Which words of the source go into a prompt: as many as help, as few as pay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hma.text.retrieval import Unit
from hma.text.tokens import BYTES_PER_TOKEN, approximate_tokens
from hma.v1 import task_pb2
from services.worker.reading import Excerpt, Source

_FINER: dict[Unit, tuple[Unit, ...]] = {
    "section": ("section", "paragraph", "sentence"),
    "paragraph": ("paragraph", "sentence"),
    "sentence": ("sentence",),
}
_PER_ITEM = 3
_LEAST_SHARE = 48
_LEAST_TEXT = 24


async def find_excerpts(
    source: Source, items: Sequence[task_pb2.Item], unit: Unit, room: int, depth: int = _PER_ITEM
) -> list[Excerpt]:
    """The passages that match the items best, in document order.

    Each item gets its best passage before any gets its second; an item whose best passage
    is too long gets finer ones.

    Args:
        source: What may be read.
        items: The questions.
        unit: The size of passage that suits the route's model.
        room: Estimated tokens for all passages together.
        depth: Most passages per item.
    """
    if source.tokens <= room:
        return list(source.sections)
    chosen: dict[tuple[str, str], Excerpt] = {}
    for size in _FINER[unit]:
        ranked = [await source.best(item.text, depth, size) for item in items]
        served = [False] * len(items)
        for rank in range(depth):
            for number, found in enumerate(ranked):
                if rank < len(found):
                    fits, room = _choose(chosen, found[rank], room)
                    served[number] |= fits
        items = [item for item, done in zip(items, served, strict=True) if not done]
        if not items or room <= 0:
            break
    return _in_order(chosen.values(), source)


def leading_excerpts(source: Source, room: int) -> list[Excerpt]:
    """The source from its beginning; when it does not fit, each section's beginning.

    For tasks that are about the whole (a summary), where no passage matches best.
    """
    if source.tokens <= room:
        return list(source.sections)
    sections = source.sections
    excerpts: list[Excerpt] = []
    for number, section in enumerate(sections):
        # What short sections leave over goes to those that follow.
        share = max(room // (len(sections) - number), _LEAST_SHARE)
        excerpt = _shorten(section, share)
        if excerpt.tokens > room:
            break
        excerpts.append(excerpt)
        room -= excerpt.tokens
    return excerpts


def _choose(
    chosen: dict[tuple[str, str], Excerpt], excerpt: Excerpt, room: int
) -> tuple[bool, int]:
    """Adds `excerpt` if it fits; says whether it is in, and the room left."""
    key = (excerpt.section_id, excerpt.text)
    if key in chosen:
        return True, room
    if excerpt.tokens > room:
        return False, room
    chosen[key] = excerpt
    return True, room - excerpt.tokens


def _in_order(excerpts: Iterable[Excerpt], source: Source) -> list[Excerpt]:
    order = {section.section_id: number for number, section in enumerate(source.sections)}
    return sorted(excerpts, key=lambda excerpt: order.get(excerpt.section_id, len(order)))


def _shorten(excerpt: Excerpt, tokens: int) -> Excerpt:
    if excerpt.tokens <= tokens:
        return excerpt
    overhead = excerpt.tokens - approximate_tokens(excerpt.text)
    # One token is for the mark at the end.
    size = max(tokens - overhead - 1, _LEAST_TEXT) * BYTES_PER_TOKEN
    text = excerpt.text.encode()[:size].decode(errors="ignore")
    text = text[: text.rfind(" ")] if " " in text else text
    return Excerpt(
        excerpt.document_id, excerpt.name, excerpt.section_id, excerpt.heading, text + " …"
    )
