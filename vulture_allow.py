"""What is used in ways that vulture cannot see. Each entry says how."""

from typing import Any

_: Any = None

# Attributes of xllamacpp.CommonParams, read by llama.cpp.
_.model_alias
_.n_ctx
_.n_parallel
_.kv_unified
_.hostnames
_.endpoint_metrics
_.n_threads
_.poll

# Attributes of http.server and socketserver classes, read by the library.
_.block_on_close
_.daemon_threads
_.server_bind
_.server_name

# Of re2.Options, read by the library.
_.log_errors

# The bound on the cache that its tests prove.
_.kept_bytes

# Part of a passage's contract: how well it matched.
_.score

# Part of a profile's contract: what judges answers reads it, `hma probe` writes it.
_.calibration
