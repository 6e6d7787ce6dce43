"""Settings of who may call the MetaAgent."""

from __future__ import annotations

from dataclasses import dataclass

from hma.rpc.access_settings import ServiceAccess
from hma.settings import setting


def _is_claim(value: str) -> str | None:
    return None if value.isprintable() else "expected the name of a claim"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings(ServiceAccess):
    """Who may call, and how that is known."""

    jwt_issuer: str = setting(
        "HMA_JWT_ISSUER",
        "",
        "Who issues JSON Web Tokens, which the gateway verifies; unset: none are taken, whatever "
        "is said of them",
    )
    jwt_tenant_claim: str = setting(
        "HMA_JWT_TENANT_CLAIM",
        "tenant",
        "Claim of a JSON Web Token that names the tenant",
        check=_is_claim,
    )
    jwt_role_claim: str = setting(
        "HMA_JWT_ROLE_CLAIM",
        "role",
        "Claim of a JSON Web Token that names the role, or a list of names of which the highest "
        "counts: reader, user, admin, operator. Without the claim: user",
        check=_is_claim,
    )
