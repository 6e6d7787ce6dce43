"""Who may call the local stack, as far as its gateway has to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from hma.errors import SettingsError
from hma.settings import LOOPBACK, Seconds, one_of, setting


def _is_optional_url(value: str) -> str | None:
    parts = urlsplit(value)
    if not value or (parts.scheme in ("http", "https") and parts.hostname):
        return None
    return f'expected a URL such as "https://id.example.org/jwks.json", got {value!r}'


def _few_seconds(value: float) -> str | None:
    return None if 0 <= value <= 10 else f"expected 0 to 10 seconds, got {value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackAccess:
    """How callers prove who they are."""

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
        "File with the key that the services share; unset: access/internal-key in HMA_DATA_DIR, "
        "which is made.",
    )
    known_callers: Seconds = setting(
        "HMA_GATEWAY_KNOWN_CALLERS",
        Seconds(1),
        "How long one Envoy takes a caller whom a MetaAgent has let pass for known, and does not "
        "ask again; a token that expires and a secret that was replaced pass for so much longer, a "
        "revoked key does not; 0: it asks about every request",
        check=_few_seconds,
    )
    jwt_issuer: str = setting(
        "HMA_JWT_ISSUER", "", "Who issues JSON Web Tokens: their claim iss; unset: none are taken."
    )
    jwt_audience: str = setting(
        "HMA_JWT_AUDIENCE", "", "Whom JSON Web Tokens must be for: their claim aud."
    )
    jwt_jwks_file: str = setting(
        "HMA_JWT_JWKS_FILE", "", "File with the issuer's public keys (a JSON Web Key Set)."
    )
    jwt_jwks_url: str = setting(
        "HMA_JWT_JWKS_URL",
        "",
        "URL of the issuer's public keys; fetched again every ten minutes.",
        check=_is_optional_url,
    )
    jwt_jwks_ca_file: str = setting(
        "HMA_JWT_JWKS_CA_FILE",
        "",
        "Certificate authorities (PEM) that vouch for the server of an https HMA_JWT_JWKS_URL; "
        "unset: the system's.",
    )

    @property
    def required(self) -> bool:
        """Whether callers must say who they are."""
        return self.auth == "on"

    @property
    def takes_tokens(self) -> bool:
        """Whether JSON Web Tokens are taken."""
        return self.required and bool(self.jwt_issuer)

    def check(self, hosts: Mapping[str, str]) -> None:
        """Checks what one setting alone cannot show.

        Args:
            hosts: The addresses that are bound, by the settings that say so.

        Raises:
            SettingsError: Everybody would be let in, or what a token must be like is said
                in part only.
        """
        open_to_all = not self.required and not self.none_anywhere
        for variable, host in hosts.items():
            if open_to_all and host not in LOOPBACK:
                raise SettingsError(
                    f"HMA_AUTH: none lets everybody in who reaches {host}; bind loopback "
                    f"({variable}), or set HMA_AUTH_NONE_ANYWHERE=true if nobody else can reach it"
                )
        sources = [self.jwt_jwks_file, self.jwt_jwks_url]
        if not any((self.jwt_issuer, self.jwt_audience, *sources)):
            return
        faults = []
        if not self.jwt_issuer:
            faults.append("HMA_JWT_ISSUER: is required when tokens are taken")
        if not self.jwt_audience:
            # Without it a token that is for another service would do.
            faults.append("HMA_JWT_AUDIENCE: is required when tokens are taken")
        if bool(self.jwt_jwks_file) == bool(self.jwt_jwks_url):
            faults.append("HMA_JWT_JWKS_FILE, HMA_JWT_JWKS_URL: exactly one of them is required")
        if faults:
            raise SettingsError("; ".join(faults))
