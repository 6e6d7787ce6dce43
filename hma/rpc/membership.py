"""What proves that a process is of this installation, and what the others prove it by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import grpc

from hma.errors import PermissionDenied, SettingsError, Unauthenticated
from hma.rpc.access_settings import ServiceAccess
from hma.rpc.caller_tokens import HEADER, CallerTokens
from hma.rpc.callers import may_call, roles_of_names, server_of
from hma.rpc.internal_keys import watch_internal_keys
from hma.rpc.tls import TlsMaterial, TlsSettings
from hma.rpc.watched import Watched
from hma.secrecy import log_exposure

Context = grpc.aio.ServicerContext[Any, Any]

_NAMES = "x509_subject_alternative_name"


class Membership:
    """One process's part in the installation.

    Attributes:
        role: Who it is, such as "worker".
        tls: Its certificates, as they are renewed; None: connections are plain.
    """

    def __init__(
        self,
        role: str,
        *,
        tokens: CallerTokens | None = None,
        tls: Watched[TlsMaterial] | None = None,
    ) -> None:
        """Takes what the process has.

        Args:
            role: Who it is.
            tokens: Signs and checks; None: nobody has to say who calls (HMA_AUTH=none).
            tls: Certificates; None: connections are plain.
        """
        self.role = role
        self.tls = tls
        self._tokens = tokens

    @classmethod
    def of(cls, role: str, access: ServiceAccess, tls: TlsSettings, host: str) -> Self:
        """The membership that settings describe.

        Args:
            role: Who this process is.
            access: What callers must prove.
            tls: Certificates.
            host: The address that its server binds.

        Raises:
            SettingsError: The settings contradict each other, or a file is no good.
        """
        faults = [*access.faults(host), *tls.faults()]
        if faults:
            raise SettingsError("; ".join(faults))
        log_exposure(
            {
                "HMA_INTERNAL_KEY_FILE": access.internal_key_file if access.required else "",
                "HMA_TLS_KEY_FILE": tls.key_file,
            }
        )
        tokens = None
        if access.required:
            keys = watch_internal_keys(access.internal_key_file)
            tokens = CallerTokens(role, keys.current)
        return cls(role, tokens=tokens, tls=tls.watch() if tls.on else None)

    def metadata_for(self, method: str) -> tuple[tuple[str, str], ...]:
        """What a call of this process says about who makes it.

        Args:
            method: Such as "/hma.v1.WorkerService/Execute".
        """
        audience = server_of(method)
        if self._tokens is None or audience is None:
            return ()
        return ((HEADER, self._tokens.token_for(audience)),)

    def admit(self, method: str, context: Context) -> None:
        """Lets a service pass that may make the call.

        A token is enough; else the caller's own certificate is. Behind the gateway's internal
        listener only the token is the caller's.

        Args:
            method: A method between services.
            context: The call.

        Raises:
            Unauthenticated: Nothing proves who calls.
            PermissionDenied: It is proven, and that service may not.
        """
        if self._tokens is None:
            return
        roles = certified_roles(context)
        if any(may_call(role, method) for role in roles):
            return
        caller = self._tokens.caller_of(context.invocation_metadata() or ())
        if caller is not None and may_call(caller, method):
            return
        if caller is None and not roles:
            raise Unauthenticated(
                "This is for services of the same installation only: it needs a token "
                "(HMA_INTERNAL_KEY_FILE) or a certificate.",
                reason="NO_CALLER",
            )
        raise PermissionDenied("This service has no business here.", reason="CALLER_NOT_ALLOWED")


def certified_roles(context: Context) -> frozenset[str]:
    """The roles that the verified certificate of a direct peer stands for; none without one.

    gRPC hands on names only of certificates that it has verified.
    """
    names: Iterable[bytes] = (context.auth_context() or {}).get(_NAMES, ())
    return roles_of_names(name.decode("ascii", "replace") for name in names)
