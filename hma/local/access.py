"""Keys of the local stack: the one its services share, and the first one for its user."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import grpc

from hma.client.credentials import bearer
from hma.errors import HmaError, Unauthenticated, Unavailable
from hma.local.connecting import open_channel, to_gateway
from hma.local.secret_files import write_secret
from hma.local.settings import StackSettings
from hma.rpc.callers import CLI
from hma.rpc.direct import create_key_directly
from hma.rpc.internal_keys import read_internal_keys
from hma.rpc.status import from_rpc_error
from hma.rpc.tokens import TokenKeys
from hma.v1 import admin_pb2, admin_pb2_grpc

_NOTE = "first key of the local stack"
_TIMEOUT_S = 5.0
_TRIES = 5


def key_path(settings: StackSettings) -> Path:
    """Where the stack's own user finds a key."""
    return settings.data / "access" / "key"


def make_internal_key(settings: StackSettings) -> Path:
    """The file with the key that the services share; made when it is the stack's own.

    Raises:
        SettingsError: It is somebody's own and cannot be read.
    """
    path = settings.internal_keys
    if not settings.access.internal_key_file and not path.exists():
        write_secret(path, secrets.token_hex(32) + "\n")
    read_internal_keys(path)
    return path


def make_first_key(settings: StackSettings, environ: Mapping[str, str]) -> Path:
    """A file with a key that works; the one from the last start when it still does.

    Raises:
        HmaError: The MetaAgent did not make one.
    """
    path = key_path(settings)
    if path.exists() and _works(settings, path.read_text().strip()):
        return path
    tenant = environ.get("HMA_DEFAULT_TENANT", "").strip() or "default"
    request = admin_pb2.CreateKeyRequest(
        tenant=tenant, role=admin_pb2.CALLER_ROLE_OPERATOR, note=_NOTE
    )
    keys = TokenKeys(read_internal_keys(settings.internal_keys))
    address = f"{settings.connect_host}:{settings.meta_agent_port}"
    made = create_key_directly(address, keys, request, tls=settings.tls.of(CLI))
    write_secret(path, made.secret + "\n")
    return path


def _works(settings: StackSettings, key: str) -> bool:
    failure: HmaError | None = None
    for left in reversed(range(_TRIES)):
        with open_channel(settings.gateway_address, to_gateway(settings.tls)()) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            request = admin_pb2.ListKeysRequest(page_size=1)
            try:
                stub.ListKeys(request, timeout=_TIMEOUT_S, metadata=bearer(key))
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
            else:
                return True
        if not isinstance(failure, Unavailable):
            break
        if left:
            time.sleep(0.5)
    if isinstance(failure, Unauthenticated):
        return False
    raise failure or HmaError("The key could not be tried.")
