"""What a MetaAgent's process does not need, it does not carry."""

from __future__ import annotations

import subprocess
import sys


def test_a_meta_agent_does_not_import_the_library_that_calls_models() -> None:
    code = "import sys, services.meta_agent.__main__; print('openai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
