"""Settings of who may call the MetaAgent."""

from __future__ import annotations

from dataclasses import dataclass

from hma.settings import LOOPBACK, one_of, setting


def _is_claim(value: str) -> str | None:
    return None if value.isprintable() else "expected the name of a claim"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """Who may call, and how that is known."""

    auth: str = setting(
        "HMA_AUTH",
        "on",
        "on: callers need a key or a token; none: everybody who reaches the port is the operator "
        "(on loopback only)",
        check=one_of("on", "none"),
    )
    none_anywhere: bool = setting(
        "HMA_AUTH_NONE_ANYWHERE",
        False,
        "Lets HMA_AUTH=none bind other addresses than loopback: for containers whose port is "
        "not published",
    )
    internal_key_file: str = setting(
        "HMA_INTERNAL_KEY_FILE",
        "",
        "File with the key that the services of one installation share: one of 32 characters "
        "or more on each line, the first signs; required with HMA_AUTH=on. The local stack "
        "makes it",
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

    @property
    def required(self) -> bool:
        """Whether callers must say who they are."""
        return self.auth == "on"

    def faults(self, host: str) -> list[str]:
        """What one setting alone cannot show.

        Args:
            host: The address that the server binds.
        """
        if self.required:
            if self.internal_key_file:
                return []
            return [
                "HMA_INTERNAL_KEY_FILE: is required with HMA_AUTH=on; make one with "
                "`openssl rand -hex 32`"
            ]
        if host in LOOPBACK or self.none_anywhere:
            return []
        return [
            f"HMA_AUTH: none lets everybody in who reaches {host}; bind loopback (HMA_HOST), or "
            "set HMA_AUTH_NONE_ANYWHERE=true if nobody else can reach it"
        ]
