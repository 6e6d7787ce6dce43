"""Files that only their owner may read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hma.local.settings import StackSettings
from hma.rpc.callers import ROLES
from hma.secrecy import CLOSE_FILE, exposure


def write_secret(path: Path, text: str) -> None:
    """Writes a file that only its owner may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)


def exposed_files(settings: StackSettings) -> Iterator[str]:
    """Says of each secret file of the stack that everybody can open it, and what to do."""
    keys = dict.fromkeys(settings.tls.of(role).key_file for role in ROLES)
    files = [
        ("HMA_INTERNAL_KEY_FILE", str(settings.internal_keys)),
        *(("HMA_TLS_KEY_FILE", path) for path in keys),
        ("HMA_GATEWAY_TLS_KEY_FILE", settings.tls.gateway_key_file),
    ]
    for variable, path in files:
        if path and (fault := exposure(variable, path)):
            yield f"{fault}: {CLOSE_FILE}"
