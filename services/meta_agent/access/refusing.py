"""Why callers are refused, in one place: reasons, words, and what may be told to whom.

An unknown key and a wrong secret are answered alike, so that nobody learns which keys there
are. That a key was revoked or has expired is told only to who has its secret.
"""

from __future__ import annotations

from hma.errors import HmaError, PermissionDenied, Unauthenticated

_HOW = 'Send "authorization: Bearer KEY" or "x-api-key: KEY"; `hma keys create` makes keys.'


class Refusal(Exception):
    """A caller is refused.

    Attributes:
        error: What the caller is told.
        subject: Who it was, as far as that is proven; else "".
        tenant: Whose trail the refusal belongs in; "" when that is not proven.
    """

    def __init__(self, error: HmaError, *, subject: str = "", tenant: str = "") -> None:
        super().__init__(error.reason)
        self.error = error
        self.subject = subject
        self.tenant = tenant


def no_credentials() -> Refusal:
    """The call has none."""
    return Refusal(Unauthenticated(f"The call has no key. {_HOW}", reason="NO_CREDENTIALS"))


def two_credentials() -> Refusal:
    """The call has several; which one counts must not depend on who looks."""
    return Refusal(
        Unauthenticated(
            "The call has both an authorization and an x-api-key header; send one.",
            reason="TWO_CREDENTIALS",
        )
    )


def malformed_credentials() -> Refusal:
    """The header is there, but is not a bearer's."""
    return Refusal(
        Unauthenticated(f"The authorization header is not a bearer's. {_HOW}", reason="NO_BEARER")
    )


def key_unknown() -> Refusal:
    """There is no such key, or its secret is another."""
    return Refusal(
        Unauthenticated("There is no such key, or its secret is wrong.", reason="KEY_UNKNOWN")
    )


def secret_ended(subject: str, tenant: str) -> Refusal:
    """The key was rotated, and the time of its old secret is over."""
    return Refusal(
        Unauthenticated(
            "The key was rotated, and its old secret works no more.", reason="KEY_ROTATED"
        ),
        subject=subject,
        tenant=tenant,
    )


def key_revoked(subject: str, tenant: str) -> Refusal:
    """The key was revoked."""
    return Refusal(
        Unauthenticated("The key was revoked.", reason="KEY_REVOKED"),
        subject=subject,
        tenant=tenant,
    )


def key_expired(subject: str, tenant: str) -> Refusal:
    """The key's time is over."""
    return Refusal(
        Unauthenticated("The key has expired.", reason="KEY_EXPIRED"),
        subject=subject,
        tenant=tenant,
    )


def token_expired() -> Refusal:
    """The token's time is over."""
    return Refusal(Unauthenticated("The token has expired.", reason="TOKEN_EXPIRED"))


def token_audience() -> Refusal:
    """The token is for somebody else."""
    return Refusal(Unauthenticated("The token is for another audience.", reason="TOKEN_AUDIENCE"))


def token_invalid() -> Refusal:
    """The token is not one, not genuine, or of another issuer."""
    return Refusal(
        Unauthenticated(
            "The token is not genuine, or tokens are not accepted here.", reason="TOKEN_INVALID"
        )
    )


def no_tenant_claim(claim: str, subject: str) -> Refusal:
    """The token is genuine but says nothing about a tenant."""
    return Refusal(
        PermissionDenied(f'The token has no claim "{claim}".', reason="NO_TENANT_CLAIM"),
        subject=subject,
    )


def tenant_claim_invalid(claim: str, subject: str) -> Refusal:
    """The token is genuine, but its tenant is not the name of one."""
    return Refusal(
        PermissionDenied(
            f"The token's claim \"{claim}\" is not a tenant's name: letters, digits, '-' and "
            "'_', at most 64.",
            reason="TENANT_CLAIM_INVALID",
        ),
        subject=subject,
    )


def role_claim_invalid(claim: str, subject: str, tenant: str) -> Refusal:
    """The token is genuine, but its role is none."""
    return Refusal(
        PermissionDenied(
            f'The token\'s claim "{claim}" names none of reader, user, admin and operator.',
            reason="ROLE_CLAIM_INVALID",
        ),
        subject=subject,
        tenant=tenant,
    )
