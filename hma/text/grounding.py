"""Does an answer stand in its source, and what can be answered without a model."""

from __future__ import annotations

import re

from hma.text.sentences import Span

_WORD = re.compile(r"\w+(?:[-.,'’/]\w+)*")
_QUOTES = "\"'“”‘’«»`*_ \t\r\n"
MAX_EXTRACT = 400

# Words that carry no answer, question words included.
_STOP_WORDS_TEXT = (
    "a an and are as at be been being but by can could did do does doing done for from had has "
    "have having he her him his how i if in into is it its itself me might must my no nor not of "
    "on or our out over own she should so some such than that the their them themselves then "
    "there these they this those to too under until up was we were what when where which while "
    "who whom whose why will with would you your yours name many much kind type also one two "
    "about after all am any because before both down during each few further just more most "
    "other same through very s t"
)
STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())


def find_verbatim(answer: str, text: str) -> Span | None:
    """Where `answer` stands in `text`, or None.

    Case, the amount of white space, and quotes or a full stop around the answer do not
    matter; whole words do ("10" does not stand in "2010").

    Returns:
        The span in `text`, in characters.
    """
    bare = answer.strip(_QUOTES)
    for words in dict.fromkeys((bare, bare.rstrip(".!?;:,…").strip(_QUOTES))):
        if not any(character.isalnum() for character in words):
            continue
        match = _verbatim(words).search(text)
        if match:
            return Span(match.start(), match.end())
    return None


def extract_answer(question: str, sentence: str) -> str:
    """The words of `sentence` that `question` does not already hold, without stop words.

    What is left of a sentence that was retrieved for the question is often close to
    its answer. When nothing is left, the sentence itself is returned.
    """
    known = {word.casefold() for word in _WORD.findall(question)} | STOP_WORDS
    kept = [word for word in _WORD.findall(sentence) if word.casefold() not in known]
    return " ".join(kept)[:MAX_EXTRACT].rstrip() or sentence[:MAX_EXTRACT].rstrip()


def _verbatim(words: str) -> re.Pattern[str]:
    body = r"\s+".join(re.escape(word) for word in words.split())
    before = r"(?<!\w)" if _bounded(words[0]) else ""
    after = r"(?!\w)" if _bounded(words[-1]) else ""
    return re.compile(before + body + after, re.IGNORECASE)


def _bounded(character: str) -> bool:
    # CJK is written without spaces: there a word ends anywhere.
    return character.isalnum() and character < "\u2e80"
