"""An OpenAI-compatible server for tests that says what its script tells it.

In a test:

    async with ScriptedLLM([Rule(refuse(429, retry_after=1), nth=1)]) as llm:
        routes = llm.routes()                  # `fast` and `reasoning` of this server
        ...
        assert llm.total_tokens == ledger      # what the server counted, aborts included

From a process: `python -m tests.scripted_llm --port 8090`, then POST rules to `/_script`
and read `/_calls`. See `Reply` for every fault, `Rule` for matching, `ScriptedLLM` for
the rest. Its tokenizer is `count(text)`; `usage` equals `/tokenize` exactly.
"""

from tests.scripted_llm.call import Call
from tests.scripted_llm.script import Reply, Rule, Script, refuse, say
from tests.scripted_llm.server import ScriptedLLM
from tests.scripted_llm.tokenizer import count, prompt_text

__all__ = [
    "Call",
    "Reply",
    "Rule",
    "Script",
    "ScriptedLLM",
    "count",
    "prompt_text",
    "refuse",
    "say",
]
