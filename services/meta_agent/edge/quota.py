"""Quotas at the edge: who may see and set which."""

from __future__ import annotations

from hma.errors import InvalidRequest
from hma.v1 import admin_pb2
from services.meta_agent.access.caller import Caller, known_caller
from services.meta_agent.access.tenants import NAME_RULE, is_tenant
from services.meta_agent.store.store import Store


class QuotaSetting:
    """Serves SetQuota to whoever calls (`known_caller`)."""

    def __init__(self, store: Store) -> None:
        """Reads and writes nothing yet."""
        self._store = store

    async def set_quota(self, request: admin_pb2.SetQuotaRequest) -> admin_pb2.QuotaLimits:
        """As the function `set_quota`."""
        return await set_quota(self._store, request)


async def get_quota(
    store: Store, request: admin_pb2.GetQuotaRequest, tenant: str
) -> admin_pb2.Quota:
    """Limits and use of the caller's tenant, or of the one that is named.

    Args:
        store: Where quotas are.
        request: What is asked.
        tenant: The caller's.

    Raises:
        InvalidRequest: No tenant has such a name.
        PermissionDenied: It is another's, and the caller is no OPERATOR.
        Unavailable: The database cannot be reached.
    """
    if not request.tenant or request.tenant == tenant:
        return await store.quotas.get(tenant)
    _check_tenant(request.tenant)
    _require_operator(known_caller())
    return await store.quotas.get(request.tenant)


async def set_quota(store: Store, request: admin_pb2.SetQuotaRequest) -> admin_pb2.QuotaLimits:
    """Changes what a tenant may use; for jobs that are accepted from now on.

    Jobs that were accepted without a limit of tokens or money go on with their budgets,
    which count as held.

    Raises:
        InvalidRequest: No tenant has such a name, or a limit is none.
        PermissionDenied: The caller is no OPERATOR.
        Unavailable: The database cannot be reached; calling again is safe.
    """
    _require_operator(known_caller())
    _check_tenant(request.tenant)
    return await store.quotas.set(request)


def _require_operator(caller: Caller | None) -> None:
    if caller is not None:
        caller.require(admin_pb2.CALLER_ROLE_OPERATOR)


def _check_tenant(tenant: str) -> None:
    if not is_tenant(tenant):
        raise InvalidRequest.field("tenant", f"expected a tenant ({NAME_RULE})")
