"""Data cannot write the marks around it, nor a chat template's tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hma.text.inert import unmarked, untemplated

TEMPLATES = [
    *("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|start_header_id|>"),
    *("<｜User｜>", "<｜begin▁of▁sentence｜>", "<｜tool▁calls▁begin｜>", "<|channel|>", '<|"|>'),
    *("<s>", "</s>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<think>", "</think>"),
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[SYSTEM_PROMPT]", "[TOOL_CALLS]"),
    *("<tool_call>", "</tool_call>", "<tool_response>"),
    *("[gMASK]", "<sop>", "<eop>", "[|system|]", "[|endofturn|]", "<extra_id_1>", "[EOS]", "[EOT]"),
    *("<reserved_106>", "<unused99>", "[IMG_END]", "[SUFFIX]"),
]
MARKS = [
    *("<source>", "</source>", "< / source >", '<source id="d1#0">', "</RESULT>", "<finding>"),
    *("</findings>", "<findings>"),
]


@pytest.mark.parametrize("token", TEMPLATES)
@given(before=st.text(max_size=20), after=st.text(max_size=20))
def test_no_token_of_a_template_survives(token: str, before: str, after: str) -> None:
    text = untemplated(before + token + after)
    assert token not in text
    assert untemplated(text) == text


@pytest.mark.parametrize("mark", MARKS)
@given(before=st.text(max_size=20), after=st.text(max_size=20))
def test_no_mark_survives(mark: str, before: str, after: str) -> None:
    text = unmarked(before + mark + after)
    assert mark not in text
    assert unmarked(text) == text


@given(st.text(alphabet="<>|/s[]INSThk ", max_size=60))
def test_nothing_is_lost_but_spaces_are_added(text: str) -> None:
    assert untemplated(text).replace(" ", "") == text.replace(" ", "")
    assert unmarked(text).replace("&lt;", "<") == text


@pytest.mark.parametrize(
    "text",
    [
        "xs |> List.map f <| 3",
        "std::vector<std::string> v; a < b || c > d",
        "<b>bold</b>, <source-map>, <results>",
        "[link](http://example.test) [1] [INSTALL]",
        "if x<|y|: z",
        "|a|b|\n|-|-|\n|<br>|c|",
        "let xs = [|1; 2|], Vec<unused>, [MASKED], <extra_id>",
    ],
)
def test_ordinary_text_and_code_stay_as_they_are(text: str) -> None:
    assert untemplated(text) == text
    if "source" not in text:
        assert unmarked(text) == text


def test_it_takes_linear_time() -> None:
    for text in ("<" * 200_000, "< " * 200_000, "<|" * 200_000, "[" * 200_000, "<|a" * 200_000):
        assert len(untemplated(text)) >= len(text)
        assert len(unmarked(text)) >= len(text)
