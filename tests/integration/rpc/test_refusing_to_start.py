"""No service starts that would be open by mistake."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("role", ["analyst", "meta_agent", "reducer", "worker"])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "HMA_INTERNAL_KEY_FILE: is required with HMA_AUTH=on; make one with"),
        ({"HMA_AUTH": "none", "HMA_HOST": "0.0.0.0"}, "HMA_AUTH_NONE_ANYWHERE"),
        ({"HMA_AUTH": "none", "HMA_TLS_CERT_FILE": "cert.pem"}, "HMA_TLS_KEY_FILE, HMA_TLS_CA_FI"),
    ],
)
def test_a_service_says_what_it_lacks_and_does_not_start(
    role: str, settings: dict[str, str], said: str
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HMA_")}
    done = subprocess.run(
        [sys.executable, "-m", f"services.{role}"],
        env={**clean, "HMA_LLM_BASE_URL": "http://127.0.0.1:1/v1", **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
