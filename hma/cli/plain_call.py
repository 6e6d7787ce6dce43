"""One plain chat call, for comparison: no agents, no retrieval, the same budget.

Documents come first and are cut where prompt plus `max_tokens` would leave the budget
or the model's context; the server's tokenizer decides where that is. Speaks to any
OpenAI-compatible server with the standard library alone.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from hma.errors import DeadlinePassed, HmaError, Unavailable

_SYSTEM = (
    "Answer each question from the documents. Write one line for each: its number, its answer."
)
_TOKENS_PER_ANSWER = 24
# Chat templates wrap every message in a few tokens of their own.
_TEMPLATE_TOKENS = 64
_DEFAULT_CONTEXT = 4096
_TRIES = 4


@dataclass(frozen=True, slots=True)
class PlainReply:
    """What came of the call.

    Attributes:
        text: The reply.
        prompt_tokens: As the server counted them.
        completion_tokens: As the server counted them.
        seconds: How long it took.
        shown: Share of the documents that fitted, 0 to 1.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    shown: float


@dataclass(frozen=True, slots=True)
class ModelServer:
    """An OpenAI-compatible server.

    Attributes:
        base_url: Up to and with "/v1".
        model: The model's name; empty: the server's first.
        api_key: Empty: none is sent.
        timeout: Seconds that the reply may take.
    """

    base_url: str
    model: str = ""
    api_key: str = ""
    timeout: float = 120.0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], timeout: float) -> ModelServer:
        """The server that HMA uses: HMA_LLM_BASE_URL, else the embedded one."""
        port = environ.get("HMA_LLM_PORT") or "8090"
        return cls(
            environ.get("HMA_LLM_BASE_URL") or f"http://127.0.0.1:{port}/v1",
            environ.get("HMA_LLM_MODEL", ""),
            environ.get("HMA_LLM_API_KEY", ""),
            timeout,
        )

    @property
    def root(self) -> str:
        """Where the server keeps what is not OpenAI's."""
        return self.base_url.rstrip("/").removesuffix("/v1")

    def request(self, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """Sends JSON, returns JSON.

        Raises:
            urllib.error.HTTPError: The server refused.
            OSError: It did not answer.
            ValueError: It answered with something else.
        """
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"{url} is not an http URL")
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers)  # noqa: S310 - checked above
        with urllib.request.urlopen(request, timeout=self.timeout) as reply:  # noqa: S310
            return json.load(reply)


def ask_plainly(
    server: ModelServer, documents: Sequence[tuple[str, str]], questions: Sequence[str], budget: int
) -> PlainReply:
    """Asks all questions in one call.

    Args:
        server: Whom to ask.
        documents: Names and contents.
        questions: In order; they are numbered from 1.
        budget: Most tokens, prompt plus completion.

    Raises:
        HmaError: The call did not work; the message says why.
    """
    try:
        return _Asking(server, documents, questions, budget).ask()
    except urllib.error.HTTPError as error:
        raise HmaError(f"{server.base_url} answers {error.code} to a plain call") from error
    except TimeoutError as error:
        raise DeadlinePassed(f"no reply within {server.timeout:g} s") from error
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise Unavailable(f"{server.base_url} did not answer a plain call") from error


class _Asking:
    def __init__(
        self,
        server: ModelServer,
        documents: Sequence[tuple[str, str]],
        questions: Sequence[str],
        budget: int,
    ) -> None:
        self.server = server
        self.questions = "\n".join(f"{n}. {text}" for n, text in enumerate(questions, 1))
        self.text = "\n\n".join(f"# {name}\n{content}" for name, content in documents)
        found = server.request(f"{server.base_url.rstrip('/')}/models")["data"]
        entry = next((e for e in found if e["id"] == server.model), found[0])
        self.model = str(server.model or entry["id"])
        room = min(budget, self.context(entry))
        self.answer = min(_TOKENS_PER_ANSWER * len(questions), room // 2)
        self.room = room - self.answer

    def context(self, entry: Mapping[str, Any]) -> int:
        """The context of one request: vLLM says it with the model, llama.cpp in /props."""
        if entry.get("max_model_len"):
            return int(entry["max_model_len"])
        try:
            props = self.server.request(f"{self.server.root}/props")
            return int(props["default_generation_settings"]["n_ctx"])
        except (OSError, ValueError, KeyError, TypeError):
            return _DEFAULT_CONTEXT

    def count(self, text: str) -> int:
        """Tokens of `text`: exact where the server tells, else a cautious guess."""
        for body in ({"content": text}, {"model": self.model, "prompt": text}):
            try:
                reply = self.server.request(f"{self.server.root}/tokenize", body)
                return int(reply["count"]) if "count" in reply else len(reply["tokens"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return len(text.encode()) // 2

    def ask(self) -> PlainReply:
        spare = self.count(_SYSTEM + self.questions) + _TEMPLATE_TOKENS
        text = self.cut(self.text, max(0, self.room - spare))
        for _ in range(_TRIES - 1):
            try:
                return self.call(text)
            except urllib.error.HTTPError as error:
                # The context was smaller than thought; a refused call costs nothing.
                if error.code != 400 or not text:
                    raise
                text = text[: len(text) // 2]
        return self.call(text)

    def cut(self, text: str, tokens: int) -> str:
        """The longest beginning of `text`, roughly, that has at most `tokens` tokens."""
        have = self.count(text) if text else 0
        while have > tokens:
            text = text[: int(len(text) * tokens / have * 0.98)]
            have = self.count(text) if text else 0
        return text

    def call(self, text: str) -> PlainReply:
        began = time.monotonic()
        reply = self.server.request(
            f"{self.server.base_url.rstrip('/')}/chat/completions",
            {
                "model": self.model,
                "messages": [
                    {"role": "system", "content": _SYSTEM},
                    {"role": "user", "content": f"{text}\n\n{self.questions}"},
                ],
                "temperature": 0,
                "max_tokens": self.answer,
            },
        )
        return PlainReply(
            text=str(reply["choices"][0]["message"]["content"] or ""),
            prompt_tokens=int(reply["usage"]["prompt_tokens"]),
            completion_tokens=int(reply["usage"]["completion_tokens"]),
            seconds=time.monotonic() - began,
            shown=len(text) / len(self.text) if self.text else 1.0,
        )
