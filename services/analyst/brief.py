"""The brief: the request, compressed to what every Worker has to know."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hma.v1 import common_pb2, task_pb2
from services.analyst.inputs import Inputs
from services.analyst.wording import line, lines, shorten

MAX_OBJECTIVE = 600
MAX_AUDIENCE = 120
MAX_ENTRY = 200
MAX_ENTRIES = 8

_CONSTRAINT = re.compile(
    r"\b(must|should|shall|only|at most|at least|no more than|not|never|avoid|keep|cite|format|"
    r"json|markdown|table|words|sentences?|brief|concise|short|language|in english)\b",
    re.IGNORECASE,
)
_ACCEPTANCE = re.compile(
    r"\b(acceptance|accepted|success|good answer|correct if|done when|criteria|verif)",
    re.IGNORECASE,
)
_AUDIENCE = re.compile(
    r"\b(?:audience is|audience:|aimed at|addressed to|written for|readers? (?:is|are)|"
    r"for (?=(?:the |our |my |a |an )?"
    r"(?:board|management|manager|executive|customer|client|engineer|developer|student|"
    r"child|expert|beginner|team|user|reader|public|layperson|lawyer|doctor)s?\b))"
    r"\s*([^.;,\n]{2,100})",
    re.IGNORECASE,
)


def brief_by_code(inputs: Inputs) -> task_pb2.Brief:
    """The brief that can be had without a token: the request's own sentences, sorted."""
    request = inputs.request
    objective: list[str] = []
    constraints = list(request.constraints)
    acceptance: list[str] = []
    for sentence in request.prose:
        if _ACCEPTANCE.search(sentence):
            acceptance.append(sentence)
        elif objective and _CONSTRAINT.search(sentence):
            constraints.append(sentence)
        elif not sentence.endswith(":") or not objective:
            objective.append(sentence)
    kept, left = _fit(objective, MAX_OBJECTIVE)
    dropped = [f"Background of {left} characters in the request."] if left else []
    for name, entries in (("constraints", constraints), ("acceptance criteria", acceptance)):
        if len(entries) > MAX_ENTRIES:
            dropped.append(f"{len(entries) - MAX_ENTRIES} further {name}.")
    if request.left_out:
        dropped.append(f"{request.left_out} items beyond the first {len(request.items)}.")
    audience = _AUDIENCE.search(inputs.description[:20_000])
    return task_pb2.Brief(
        objective=kept or _objective_of_items(inputs),
        audience=line(audience[1], MAX_AUDIENCE) if audience else "",
        constraints=lines(constraints, MAX_ENTRIES, MAX_ENTRY),
        acceptance=lines(acceptance, MAX_ENTRIES, MAX_ENTRY),
        dropped=dropped,
        origin=common_pb2.ORIGIN_MERGE,
    )


def brief_of_model(raw: Mapping[str, object], inputs: Inputs) -> task_pb2.Brief:
    """The model's brief; the one made by code when it does not say what is asked."""
    objective = line(raw.get("objective"), MAX_OBJECTIVE)
    if not objective:
        return brief_by_code(inputs)
    return task_pb2.Brief(
        objective=objective,
        audience=line(raw.get("audience"), MAX_AUDIENCE),
        constraints=lines(raw.get("constraints"), MAX_ENTRIES, MAX_ENTRY),
        acceptance=lines(raw.get("acceptance"), MAX_ENTRIES, MAX_ENTRY),
        dropped=lines(raw.get("dropped"), MAX_ENTRIES, MAX_ENTRY),
        origin=common_pb2.ORIGIN_MODEL,
    )


def _fit(sentences: list[str], limit: int) -> tuple[str, int]:
    """As many sentences from the front as fit, and how many characters do not."""
    whole = " ".join(sentences)
    if len(whole) <= limit:
        return line(whole, limit), 0
    kept = ""
    for sentence in sentences:
        if len(kept) + len(sentence) + 1 > limit:
            break
        kept = f"{kept} {sentence}".strip()
    kept = kept or shorten(sentences[0], limit)
    return line(kept, limit), len(whole) - len(kept)


def _objective_of_items(inputs: Inputs) -> str:
    if len(inputs.items) == 1:
        return line(inputs.items[0].text, MAX_OBJECTIVE)
    if inputs.items:
        source = " from the documents" if inputs.documents else ""
        return f"Answer {len(inputs.items)} questions{source}."
    return line(inputs.description, MAX_OBJECTIVE) or "Do what the request asks."
