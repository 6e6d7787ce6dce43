"""Who is told of calls that were refused at the door."""

from __future__ import annotations

from typing import Protocol


class AccessObserver(Protocol):
    """Is told of refusals. It must neither wait nor raise: the caller waits for the answer."""

    def denied(
        self,
        *,
        subject: str,
        tenant: str,
        method: str,
        address: str,
        request_id: str,
        reason: str,
        code: str,
        resource: str = "",
    ) -> None:
        """A call was refused.

        Args:
            subject: "key:…" or "jwt:…" when it is known who called, else "".
            tenant: Whose trail it belongs in; "" when that is not known.
            method: The RPC, or verb and path of what the gateway was asked for.
            address: Where the call came from.
            request_id: The gateway's id of the request.
            reason: ErrorInfo's reason, such as "KEY_REVOKED".
            code: The gRPC code, such as "UNAUTHENTICATED".
            resource: The job, key or tenant that the call names, as far as that is known.
        """
        ...
