"""What is used in ways that vulture cannot see. Each entry says how."""

from typing import Any

from services.meta_agent.job.apply import fold_events

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

# Settings of the local stack that are read by their names (ports_of).
_.meta_agent_port
_.meta_agent_metrics_port
# What a log means, whole: tests compare drivers and golden logs with it.
fold_events

# Methods of grpc.aio.Channel, called by generated stubs; what its tests count.
_.unary_unary
_.unary_stream
_.stream_unary
_.connections

# A method of grpc.health.v1, called by grpc.
_.Watch
