"""Text of strangers, made inert: it cannot end the place where a prompt puts it.

A prompt puts what is data between marks (`<source>…</source>`), the same for all tasks of
a job, so that servers cache what stands before them. Instead of marks that nobody can
guess, which would differ from prompt to prompt, the data loses the power to write them.
"""

from __future__ import annotations

import re

_MARK = re.compile(r"<(?=\s*/?\s*(?:source|result|findings?)\b)", re.IGNORECASE)

# What chat templates are made of. Servers read these as tokens of their own wherever they
# stand, so a document could end the user's turn and begin the system's: <|im_end|>,
# <｜User｜>, </s>, <start_of_turn>, <extra_id_1>, [INST], [gMASK], [|user|], <<SYS>>, <think>,
# <tool_call>.
_TEMPLATE = re.compile(
    r"<(?=[|｜][^<>\s]{1,64}[|｜]>"
    r"|/?(?:s|bos|eos|pad|unk|mask|sep|cls|think|thinking|tool_call|tool_calls|tool_response"
    r"|tools|start_of_turn|end_of_turn|end_of_utterance|endoftext|fim_\w{1,16}"
    r"|start_of_image|end_of_image|start_header_id|end_header_id"
    r"|sop|eop|extra_id_\d{1,4}|reserved_\d{1,4}|unused\d{1,4})>"
    r"|</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS"
    r"|CALL_ID|THINK|IMG|IMG_BREAK|IMG_END|PREFIX|MIDDLE|SUFFIX|[gs]?MASK|BOS|EOS|EOT)\]"
    r"|\|[a-z]{2,16}\|\])"
)


def unmarked(text: str) -> str:
    """`text` that can write none of the marks around data."""
    return _MARK.sub("&lt;", text)


def untemplated(text: str) -> str:
    """`text` that can write nothing of a chat template: a space breaks each such token."""
    return _TEMPLATE.sub(lambda match: f"{match[0]} ", text)
