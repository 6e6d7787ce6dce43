"""Settings of the LLM layer, shared by every role that calls or knows models."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from hma.settings import Seconds, Secret, at_least, is_port, one_of, setting


def url_fault(value: str) -> str | None:
    """What is wrong with a server's URL; None when nothing is."""
    parts = urlsplit(value)
    if parts.scheme in ("http", "https") and parts.hostname:
        return None
    return f'expected a URL such as "http://my-vllm:8000/v1", got {value!r}'


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast failed calls are tried again.

    Attributes:
        tries: All tries, the first one included.
        backoff: How waits grow: "exponential" (x, 2x, 4x) or "linear" (x, 2x, 3x).
        initial: The first wait, in seconds; up to as much again is added at random.
        longest: The longest wait that is not asked for by the server, in seconds.
    """

    tries: int = 3
    backoff: str = "exponential"
    initial: float = 0.5
    longest: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmSettings:
    """Where the models are and how patiently they are called."""

    base_url: str = setting(
        "HMA_LLM_BASE_URL",
        "",
        'Root of the OpenAI-compatible server, such as "http://my-vllm:8000/v1"; '
        "unset: the embedded llama.cpp server on HMA_LLM_PORT.",
        check=lambda value: url_fault(value) if value else None,
    )
    port: int = setting("HMA_LLM_PORT", 8090, "Port of the embedded server.", check=is_port)
    model: str = setting(
        "HMA_LLM_MODEL", "", "Model as the server names it; unset: the first that it serves."
    )
    api_key: Secret = setting("HMA_LLM_API_KEY", Secret(""), "Bearer token for the server.")
    profile: str = setting(
        "HMA_LLM_PROFILE",
        "",
        "What the model can do: smollm2 or standard; "
        "unset: smollm2 for the embedded server, else standard.",
        check=one_of("", "smollm2", "standard"),
    )
    routes_file: str = setting(
        "HMA_ROUTES_FILE", "", "TOML file with the full table of routes; overrides HMA_LLM_*."
    )
    context_tokens: int = setting(
        "HMA_LLM_CONTEXT_TOKENS",
        8192,
        "Most tokens of one call, prompt and completion together.",
        check=at_least(256),
    )
    priority: bool = setting(
        "HMA_LLM_PRIORITY",
        False,
        "Send `priority` with each call (vLLM with --scheduling-policy priority).",
    )
    price_prompt: float | None = setting(
        "HMA_LLM_PRICE_PROMPT",
        None,
        "Money per million prompt tokens; 0: free. Unset with all other prices: what a known "
        "hosted model costs, else unknown.",
        check=at_least(0),
    )
    price_cached_prompt: float | None = setting(
        "HMA_LLM_PRICE_CACHED_PROMPT",
        None,
        "Money per million cached prompt tokens; unset: as HMA_LLM_PRICE_PROMPT.",
        check=at_least(0),
    )
    price_completion: float | None = setting(
        "HMA_LLM_PRICE_COMPLETION", None, "Money per million completion tokens.", check=at_least(0)
    )
    price_gpu_hour: float | None = setting(
        "HMA_LLM_PRICE_GPU_HOUR",
        None,
        "Money per GPU and hour, instead of money per million tokens.",
        check=at_least(0),
    )
    price_gpus: float | None = setting(
        "HMA_LLM_PRICE_GPUS", None, "GPUs that serve the model; unset: 1.", check=at_least(0)
    )
    price_prompt_tokens_per_second: float | None = setting(
        "HMA_LLM_PRICE_PROMPT_TOKENS_PER_SECOND",
        None,
        "Prompt tokens that the GPUs read per second, all together; `hma probe` measures it.",
        check=at_least(0),
    )
    price_cached_prompt_tokens_per_second: float | None = setting(
        "HMA_LLM_PRICE_CACHED_PROMPT_TOKENS_PER_SECOND",
        None,
        "Cached prompt tokens per second; unset: as other prompt tokens.",
        check=at_least(0),
    )
    price_completion_tokens_per_second: float | None = setting(
        "HMA_LLM_PRICE_COMPLETION_TOKENS_PER_SECOND",
        None,
        "Completion tokens that the GPUs write per second, all together; `hma probe` measures it.",
        check=at_least(0),
    )
    tries: int = setting(
        "HMA_LLM_TRIES", 3, "Tries per call, the first one included.", check=at_least(1)
    )
    backoff: str = setting(
        "HMA_LLM_BACKOFF",
        "exponential",
        "How the wait between tries grows: exponential or linear.",
        check=one_of("exponential", "linear"),
    )
    backoff_initial: Seconds = setting(
        "HMA_LLM_BACKOFF_INITIAL", Seconds(0.5), "First wait between tries.", check=at_least(0)
    )
    backoff_max: Seconds = setting(
        "HMA_LLM_BACKOFF_MAX", Seconds(10), "Longest wait between tries.", check=at_least(0)
    )
    connect_timeout: Seconds = setting(
        "HMA_LLM_CONNECT_TIMEOUT", Seconds(5), "Longest wait for a connection.", check=at_least(0)
    )
    stall_timeout: Seconds = setting(
        "HMA_LLM_STALL_TIMEOUT",
        Seconds(120),
        "Longest silence of a call, the wait for its first token included.",
        check=at_least(0),
    )
    count_timeout: Seconds = setting(
        "HMA_LLM_COUNT_TIMEOUT",
        Seconds(1),
        "Longest wait for the size of a prompt; then the bound from its bytes stands.",
        check=at_least(0),
    )
    stop_timeout: Seconds = setting(
        "HMA_LLM_STOP_TIMEOUT",
        Seconds(2),
        "Longest wait for the server to confirm that it has stopped a call.",
        check=at_least(0),
    )

    @property
    def url(self) -> str:
        """The server's OpenAI root, no slash at the end."""
        return (self.base_url or f"http://127.0.0.1:{self.port}/v1").rstrip("/")

    @property
    def retry_policy(self) -> RetryPolicy:
        """How often and how fast failed calls are tried again."""
        return RetryPolicy(self.tries, self.backoff, self.backoff_initial, self.backoff_max)
