"""Calls to a MetaAgent past the gateway, as who has the installation's key may make them."""

from __future__ import annotations

import grpc

from hma.rpc.callers import META_AGENT, certificate_name
from hma.rpc.status import from_rpc_error
from hma.rpc.tls import TlsSettings, channel_credentials
from hma.rpc.tokens import TokenKeys
from hma.v1 import admin_pb2, admin_pb2_grpc

# services/meta_agent/access/identity.py reads them.
_IDENTITY = "x-hma-identity"
_AUDIENCE = "meta-agent"
_SUBJECT = "service:cli"


def create_key_directly(
    address: str,
    keys: TokenKeys,
    request: admin_pb2.CreateKeyRequest,
    *,
    tls: TlsSettings | None = None,
    timeout: float = 10.0,
) -> admin_pb2.CreateKeyResponse:
    """Makes a key before there is one that could make it.

    Args:
        address: host:port of a MetaAgent itself.
        keys: The internal keys.
        request: What key.
        tls: The caller's certificate, where services speak TLS with each other.
        timeout: Seconds.

    Raises:
        SettingsError: The certificate's files are no good.
        HmaError: The MetaAgent did not make it.
    """
    operator = int(admin_pb2.CALLER_ROLE_OPERATOR)
    identity = keys.sign(_SUBJECT, _AUDIENCE, tenant=request.tenant, role=operator)
    with _open(address, tls or TlsSettings()) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        try:
            return stub.CreateKey(request, timeout=timeout, metadata=((_IDENTITY, identity),))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error


def _open(address: str, tls: TlsSettings) -> grpc.Channel:
    if not tls.on:
        return grpc.insecure_channel(address)
    named = [("grpc.ssl_target_name_override", certificate_name(META_AGENT))]
    return grpc.secure_channel(address, channel_credentials(tls.watch().current()), options=named)
