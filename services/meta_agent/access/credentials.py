"""What a request shows to prove who makes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.meta_agent.access import key_text, refusing
from services.meta_agent.access.key_text import ShownKey

_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A bearer token that is not one of HMA's keys; the gateway has looked at it."""


def credentials_of(headers: Mapping[str, str]) -> ShownKey | ShownToken:
    """The one credential of a request.

    Args:
        headers: By lower-case name; repeated ones joined with ",".

    Raises:
        Refusal: There is none, more than one, or none that can be right.
    """
    authorization = headers.get("authorization", "").strip()
    api_key = headers.get("x-api-key", "").strip()
    if authorization and api_key:
        raise refusing.two_credentials()
    if api_key:
        return _key(api_key)
    if not authorization:
        raise refusing.no_credentials()
    if authorization[: len(_BEARER)].lower() != _BEARER:
        raise refusing.malformed_credentials()
    text = authorization[len(_BEARER) :].strip()
    return _key(text) if text.startswith(key_text.PREFIX) else ShownToken()


def _key(text: str) -> ShownKey:
    shown = key_text.parse(text)
    if shown is None:
        raise refusing.key_unknown()
    return shown
