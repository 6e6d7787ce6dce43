"""Puts the parts of access together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from hma.rpc.internal_keys import watch_internal_keys
from hma.rpc.server import Service
from hma.rpc.tokens import TokenKeys
from services.meta_agent.access.claims import ClaimNames
from services.meta_agent.access.doorkeeper import Doorkeeper
from services.meta_agent.access.ext_authz_servicer import SERVICE, ExtAuthzServicer
from services.meta_agent.access.identity import LIFETIME, Identities
from services.meta_agent.access.interceptor import AccessInterceptor, by_identity, everybody
from services.meta_agent.access.key_cache import KeyCache
from services.meta_agent.access.last_use import LastUse
from services.meta_agent.access.observing import AccessObserver
from services.meta_agent.access.settings import AccessSettings
from services.meta_agent.store.store import Store


@dataclass(frozen=True, slots=True)
class Access:
    """What a server needs to know its callers.

    Attributes:
        interceptor: Goes before every public RPC.
        services: What the gateway asks; none with HMA_AUTH=none.
        work: To be run in the background.
    """

    interceptor: AccessInterceptor
    services: Sequence[Service]
    work: Sequence[Callable[[], Coroutine[Any, Any, None]]]


@contextlib.asynccontextmanager
async def open_access(
    settings: AccessSettings, store: Store, observer: AccessObserver, *, tenant: str
) -> AsyncIterator[Access]:
    """Access over an open store.

    Args:
        settings: Who may call.
        store: Where keys are.
        observer: Told of refusals.
        tenant: Whose the calls are with HMA_AUTH=none.

    Raises:
        SettingsError: The file of internal keys is not one.
    """
    if not settings.required:
        yield Access(AccessInterceptor(everybody(tenant), observer), [], [])
        return
    internal = watch_internal_keys(settings.internal_key_file)
    tokens = TokenKeys(internal.current, lifetime=LIFETIME)
    uses = LastUse(store.keys.used)
    async with KeyCache(store.keys.read) as keys:
        store.notifications.on_key(keys.forget)
        names = None
        if settings.jwt_issuer:
            names = ClaimNames(tenant=settings.jwt_tenant_claim, role=settings.jwt_role_claim)
        doorkeeper = Doorkeeper(keys, uses, store.clock, names)
        servicer = ExtAuthzServicer(doorkeeper, Identities(tokens), internal.current, observer)
        yield Access(
            AccessInterceptor(by_identity(tokens), observer, doorkeeper.recheck),
            [Service(SERVICE, servicer.register, described=False)],
            [uses.run],
        )
