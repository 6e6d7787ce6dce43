"""Counters of real servers' pages, as they were seen."""

from __future__ import annotations

import pytest

from hma.llm.counters import ServerCounters, parse_counters

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="qwen"} 1.0
vllm:num_requests_waiting{engine="0",model_name="qwen"} 2.0
# HELP vllm:prefix_cache_hits_total Prefix cache hits, in terms of number of cached tokens.
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="qwen"} 96.0
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="qwen"} 323.0
vllm:prompt_tokens_total{engine="1",model_name="qwen"} 100.0
vllm:prompt_tokens_total{engine="0",model_name="other"} 7.0
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0",model_name="qwen"} 1.7e+09
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="qwen"} 39.0
vllm:generation_tokens_total{engine="0",model_name="other"} 1.0
"""
LLAMA = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 53
# HELP llamacpp:prompt_tokens_cached_total Number of prompt tokens reused from the cache
# TYPE llamacpp:prompt_tokens_cached_total counter
llamacpp:prompt_tokens_cached_total 51
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 10
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 0
llamacpp:requests_deferred 1
"""


def test_vllm_s_counters_are_summed_over_engines_and_models() -> None:
    assert parse_counters(VLLM) == ServerCounters(430, 96, 40, running=3)


def test_one_model_s_counters_can_be_had_alone() -> None:
    assert parse_counters(VLLM, "qwen") == ServerCounters(423, 96, 39, running=3)
    with pytest.raises(ValueError, match="no token counters"):
        parse_counters(VLLM, "third")


def test_vllm_s_own_cached_tokens_win_over_its_cache_s_hits() -> None:
    page = VLLM + 'vllm:prompt_tokens_cached_total{engine="0",model_name="qwen"} 80.0\n'
    assert parse_counters(page).cached == 80


def test_llama_cpp_counts_cached_prompt_tokens_apart() -> None:
    # Two calls of 52 prompt tokens, of which the second found 51 in the cache.
    assert parse_counters(LLAMA) == ServerCounters(104, 51, 10, running=1)


def test_an_older_llama_cpp_does_not_count_cached_tokens_at_all() -> None:
    page = "\n".join(line for line in LLAMA.splitlines() if "cached" not in line) + "\n"
    assert parse_counters(page) == ServerCounters(53, None, 10, running=1, fresh_only=True)


@pytest.mark.parametrize("page", ["", "<html>hello</html>", "a 1\n", "llamacpp:prompt_tokens 3"])
def test_a_page_without_counters_is_none(page: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_counters(page)


def test_what_was_counted_since_is_a_difference_and_a_fall_is_a_restart() -> None:
    before, after = ServerCounters(100, 10, 20), ServerCounters(150, 15, 30, running=0)
    assert after.since(before) == ServerCounters(50, 5, 10, running=0)
    assert before.since(after) is None
    assert ServerCounters(500, 0, 20).since(before) is None
    assert ServerCounters(150, None, 30).since(before) == ServerCounters(50, None, 10)
