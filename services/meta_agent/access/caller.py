"""Who makes the request that is being served."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from hma.errors import PermissionDenied, Unauthenticated
from hma.v1 import admin_pb2

CallerRole = admin_pb2.CallerRole


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls.

    Attributes:
        tenant: Whose jobs the call is about.
        subject: "key:…", "jwt:…" or "service:…", and who it is there.
        role: What the caller may do; a higher one may what lower ones may.
        address: Where the call comes from, as the gateway saw it.
        request_id: The gateway's id of the request.
    """

    tenant: str
    subject: str
    role: CallerRole.ValueType
    address: str = ""
    request_id: str = ""

    def require(self, role: CallerRole.ValueType) -> None:
        """Lets only callers pass who have a role or a higher one.

        Raises:
            PermissionDenied: This one has not.
        """
        if self.role < role:
            needed = CallerRole.Name(role).removeprefix("CALLER_ROLE_")
            raise PermissionDenied(f"This needs the role {needed}.")


_current: ContextVar[Caller | None] = ContextVar("caller", default=None)


def set_caller(caller: Caller) -> None:
    """Says who makes the request that the current task serves."""
    _current.set(caller)


def known_caller() -> Caller | None:
    """Who makes the request that the current task serves; None when nobody has said."""
    return _current.get()


def current_caller() -> Caller:
    """Who makes the request that the current task serves.

    Raises:
        Unauthenticated: Nobody has said.
    """
    caller = _current.get()
    if caller is None:
        raise Unauthenticated("The call says nothing about who makes it.")
    return caller
