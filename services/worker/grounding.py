"""From what a model said to an answer that names its source, or to an extract.

Whether the answer stands in the source is the best sign of a good answer that costs no
token. A weak model's answer that does not stand there is worth less than the words of the
best sentence without the question's (F1 0.324 against 0.353, facts in `bench/`).
"""

from __future__ import annotations

from collections.abc import Sequence

from hma.text.grounding import extract_answer, find_verbatim
from hma.text.sentences import passage_spans
from hma.v1 import common_pb2, task_pb2
from services.worker.reading import Excerpt, Source
from services.worker.structured import Draft

_MAX_EVIDENCE = 400


def ground(draft: Draft, excerpts: Sequence[Excerpt], logprob: float) -> task_pb2.ItemAnswer:
    """A model's answer with the evidence that the source really holds.

    Args:
        draft: What the model said. Evidence that does not stand in the source is dropped.
        excerpts: What it was shown.
        logprob: Mean log-probability of its call.
    """
    answer = task_pb2.ItemAnswer(
        item_id=draft.item_id,
        answer=draft.answer,
        origin=common_pb2.ORIGIN_MODEL,
        mean_logprob=logprob,
    )
    quoted = [e for e in excerpts if draft.evidence and find_verbatim(draft.evidence, e.text)]
    for excerpt in [*quoted, *excerpts]:
        if find_verbatim(draft.answer, excerpt.text):
            answer.grounded = True
            _cite(answer, excerpt, draft.evidence if excerpt in quoted else draft.answer)
            return answer
    if quoted:
        _cite(answer, quoted[0], draft.evidence)
    return answer


async def extract(item: task_pb2.Item, source: Source) -> task_pb2.ItemAnswer | None:
    """What answers an item without a model: the words of the sentence that matches best."""
    best = await source.best(item.text, 1, "sentence")
    return extract_from(item, best[0]) if best else None


def extract_from(item: task_pb2.Item, sentence: Excerpt) -> task_pb2.ItemAnswer:
    """The words of `sentence` that answer an item, labelled as an extract."""
    words = extract_answer(item.text, sentence.text)
    return task_pb2.ItemAnswer(
        item_id=item.item_id,
        answer=words,
        evidence=sentence.text[:_MAX_EVIDENCE],
        section_id=sentence.section_id,
        grounded=find_verbatim(words, sentence.text) is not None,
        origin=common_pb2.ORIGIN_EXTRACT,
    )


def _cite(answer: task_pb2.ItemAnswer, excerpt: Excerpt, words: str) -> None:
    """Names the source's own words: the quote, or the sentence that the answer stands in."""
    answer.section_id = excerpt.section_id
    span = find_verbatim(words, excerpt.text)
    if span is None:
        return
    quote = span.of(excerpt.text)
    if words == answer.answer:
        holding = (
            sentence.of(excerpt.text)
            for sentence in passage_spans(excerpt.text)
            if sentence.start <= span.start and span.end <= sentence.end
        )
        quote = next(holding, quote)
    answer.evidence = (
        quote if len(quote) <= _MAX_EVIDENCE else span.of(excerpt.text)[:_MAX_EVIDENCE]
    )
