"""From what the gateway found in a JSON Web Token to who calls. Pure.

Envoy's jwt_authn verifies the signature, issuer, audience and times, and says what came of
it in the metadata of the request. It lets failures pass, so that every refusal is decided,
worded and recorded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.meta_agent.access import refusing
from services.meta_agent.access.caller import Caller
from services.meta_agent.access.refusing import Refusal
from services.meta_agent.access.roles import USER, Role, role_of_name
from services.meta_agent.access.tenants import is_tenant

NAMESPACE = "envoy.filters.http.jwt_authn"
PAYLOAD = "payload"
FAILURE = "failure"
"""Keys below the namespace; gateway/envoy.yaml names them too."""

_MAX_SUBJECT_CHARS = 200
# What Envoy 1.40 says; whatever else it says is TOKEN_INVALID.
_EXPIRED = "expired"
_AUDIENCE = "audience"


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """Which claims say what.

    Attributes:
        tenant: A text: the tenant's name.
        role: A text or a list of texts: the highest role that is named counts; USER when
            the claim is missing.
    """

    tenant: str = "tenant"
    role: str = "role"


def caller_of(found: Mapping[str, Any], names: ClaimNames) -> Caller:
    """Who calls with a token.

    Args:
        found: What jwt_authn has said, as plain values.
        names: Which claims say what.

    Raises:
        Refusal: The token is not good, or does not say whose the call is.
    """
    payload = found.get(PAYLOAD)
    if not isinstance(payload, Mapping):
        raise _failure(found.get(FAILURE))
    subject = f"jwt:{_printable(payload.get('sub'))}"
    tenant = payload.get(names.tenant)
    if tenant is None:
        raise refusing.no_tenant_claim(names.tenant, subject)
    if not isinstance(tenant, str) or not is_tenant(tenant):
        raise refusing.tenant_claim_invalid(names.tenant, subject)
    role = _role(payload.get(names.role))
    if role is None:
        raise refusing.role_claim_invalid(names.role, subject, tenant)
    return Caller(tenant=tenant, subject=subject, role=role)


def _failure(failure: Any) -> Refusal:
    said = failure.get("message") if isinstance(failure, Mapping) else None
    message = said.lower() if isinstance(said, str) else ""
    if _EXPIRED in message:
        return refusing.token_expired()
    if _AUDIENCE in message:
        return refusing.token_audience()
    return refusing.token_invalid()


def _role(claim: Any) -> Role | None:
    if claim is None:
        return USER
    names = claim if isinstance(claim, list) else [claim]
    roles = [role for name in names if isinstance(name, str) and (role := role_of_name(name))]
    return max(roles) if roles else None


def _printable(subject: Any) -> str:
    text = subject if isinstance(subject, str) else ""
    return "".join(each if each.isprintable() else "?" for each in text)[:_MAX_SUBJECT_CHARS]
