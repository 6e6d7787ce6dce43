"""Settings of who may call a service; every service has them."""

from __future__ import annotations

from dataclasses import dataclass

from hma.settings import LOOPBACK, one_of, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccess:
    """Whether callers must say who they are, and what services know each other by."""

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
        "or more on each line, the first signs; read again when it changes; required with "
        "HMA_AUTH=on. The local stack makes it",
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
                "`openssl rand -hex 32`, the same for every service"
            ]
        if host in LOOPBACK or self.none_anywhere:
            return []
        return [
            f"HMA_AUTH: none lets everybody in who reaches {host}; bind loopback (HMA_HOST), or "
            "set HMA_AUTH_NONE_ANYWHERE=true if nobody else can reach it"
        ]
