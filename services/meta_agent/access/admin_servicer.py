"""Keys, quotas and the audit trail: `hma.v1.AdminService`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from hma.errors import FieldViolation, InvalidRequest, NotFound, PermissionDenied
from hma.v1 import admin_pb2, admin_pb2_grpc
from services.meta_agent.access.caller import Caller, current_caller
from services.meta_agent.access.doorkeeper import TellsTime
from services.meta_agent.access.key_text import (
    hash_of,
    is_key_id,
    new_key_id,
    new_secret,
    text_of,
)
from services.meta_agent.access.roles import ADMIN, OPERATOR, USER
from services.meta_agent.access.tenants import NAME_RULE, is_tenant
from services.meta_agent.store.keys import KeyRow, Keys

Context = grpc.aio.ServicerContext[Any, Any]

_EVERY_TENANT = "*"
_MAX_NOTE = 200
_MAX_LIFETIME = timedelta(days=3650)
_MAX_GRACE = timedelta(days=30)
_DEFAULT_PAGE, _MAX_PAGE = 50, 500


class QuotaRpcs(Protocol):
    """Serves the RPCs about quotas; the caller's role has been checked."""

    async def set_quota(self, request: admin_pb2.SetQuotaRequest) -> admin_pb2.QuotaLimits:
        """Sets what a tenant may use."""
        ...


class AuditRpcs(Protocol):
    """Serves the RPCs about the audit trail; the caller's role has been checked."""

    async def list_entries(
        self, request: admin_pb2.ListAuditEntriesRequest
    ) -> admin_pb2.ListAuditEntriesResponse:
        """Answers with a page of the trail."""
        ...


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """Serves `hma.v1.AdminService`. `AccessInterceptor` has checked roles before."""

    def __init__(
        self, keys: Keys, clock: TellsTime, *, quotas: QuotaRpcs, audit: AuditRpcs
    ) -> None:
        """Reads and writes nothing yet.

        Args:
            keys: Where keys are.
            clock: Database time.
            quotas: Serves SetQuota.
            audit: Serves ListAuditEntries.
        """
        self._keys = keys
        self._clock = clock
        self._quotas = quotas
        self._audit = audit

    async def CreateKey(
        self, request: admin_pb2.CreateKeyRequest, context: Context
    ) -> admin_pb2.CreateKeyResponse:
        """Makes a key for the caller's tenant, or for an operator for any."""
        caller = current_caller()
        tenant = request.tenant or caller.tenant
        role = request.role or USER
        _check_create(request, tenant)
        _check_tenant(caller, tenant)
        if role > caller.role:
            raise PermissionDenied("A key cannot have a higher role than who makes it.")
        secret = new_secret()
        row = await self._keys.create(
            new_key_id(),
            tenant=tenant,
            role=role,
            note=request.note,
            secret_hash=hash_of(secret),
            lifetime=_delta(request.lifetime) if request.HasField("lifetime") else None,
        )
        return admin_pb2.CreateKeyResponse(key=_key(row), secret=text_of(row.key_id, secret))

    async def ListKeys(
        self, request: admin_pb2.ListKeysRequest, context: Context
    ) -> admin_pb2.ListKeysResponse:
        """Answers with a page of keys."""
        caller = current_caller()
        if not 0 <= request.page_size <= _MAX_PAGE:
            raise InvalidRequest.field("page_size", f"expected 0 to {_MAX_PAGE}")
        tenant: str | None = request.tenant or caller.tenant
        if tenant == _EVERY_TENANT:
            caller.require(OPERATOR)
            tenant = None
        elif not is_tenant(str(tenant)):
            raise InvalidRequest.field("tenant", f'expected a tenant ({NAME_RULE}) or "*"')
        else:
            _check_tenant(caller, str(tenant))
        page = await self._keys.page(
            tenant, size=request.page_size or _DEFAULT_PAGE, token=request.page_token
        )
        return admin_pb2.ListKeysResponse(
            keys=[_key(row) for row in page.keys], next_page_token=page.next_token
        )

    async def RotateKey(
        self, request: admin_pb2.RotateKeyRequest, context: Context
    ) -> admin_pb2.RotateKeyResponse:
        """Gives a key a new secret."""
        caller = current_caller()
        _check_key_id(request.key_id)
        grace = _delta(request.grace)
        if not timedelta() <= grace <= _MAX_GRACE:
            raise InvalidRequest.field("grace", "expected 0 to 30 days")
        secret = new_secret()
        row = await self._keys.rotate(
            request.key_id,
            tenant=_reach(caller),
            most_role=caller.role,
            secret_hash=hash_of(secret),
            grace=grace,
            now=datetime.fromtimestamp(self._clock.now(), UTC),
        )
        return admin_pb2.RotateKeyResponse(key=_key(row), secret=text_of(row.key_id, secret))

    async def RevokeKey(
        self, request: admin_pb2.RevokeKeyRequest, context: Context
    ) -> admin_pb2.ApiKey:
        """Ends a key."""
        caller = current_caller()
        _check_key_id(request.key_id)
        row = await self._keys.revoke(request.key_id, tenant=_reach(caller), most_role=caller.role)
        return _key(row)

    async def SetQuota(
        self, request: admin_pb2.SetQuotaRequest, context: Context
    ) -> admin_pb2.QuotaLimits:
        """Sets what a tenant may use."""
        current_caller().require(OPERATOR)
        return await self._quotas.set_quota(request)

    async def ListAuditEntries(
        self, request: admin_pb2.ListAuditEntriesRequest, context: Context
    ) -> admin_pb2.ListAuditEntriesResponse:
        """Answers with a page of the trail."""
        current_caller().require(ADMIN)
        return await self._audit.list_entries(request)


def _check_create(request: admin_pb2.CreateKeyRequest, tenant: str) -> None:
    faults = []
    if not is_tenant(tenant):
        faults.append(FieldViolation("tenant", f"expected {NAME_RULE}"))
    if request.role not in admin_pb2.CallerRole.values():
        faults.append(FieldViolation("role", "is none that there is"))
    if len(request.note) > _MAX_NOTE or "\0" in request.note:
        faults.append(
            FieldViolation("note", f"expected at most {_MAX_NOTE} characters, none of them NUL")
        )
    if request.HasField("lifetime") and not (
        timedelta() < _delta(request.lifetime) <= _MAX_LIFETIME
    ):
        faults.append(FieldViolation("lifetime", "expected more than 0 and at most 3650 days"))
    if faults:
        raise InvalidRequest(faults)


def _check_tenant(caller: Caller, tenant: str) -> None:
    """Lets only operators pass who mean another tenant than their own."""
    if tenant != caller.tenant:
        caller.require(OPERATOR)


def _check_key_id(key_id: str) -> None:
    if not key_id:
        raise InvalidRequest.field("key_id", "is required")
    if not is_key_id(key_id):
        # Not what it is: it may be a whole key, put here by mistake.
        raise NotFound("There is no key of that name; it is the middle part of the key's text.")


def _reach(caller: Caller) -> str | None:
    """Whose keys the caller may change; None: anybody's."""
    return None if caller.role >= OPERATOR else caller.tenant


def _delta(duration: Duration) -> timedelta:
    try:
        return duration.ToTimedelta()
    except (OverflowError, ValueError):
        return timedelta.max if duration.seconds > 0 else timedelta.min


def _key(row: KeyRow) -> admin_pb2.ApiKey:
    key = admin_pb2.ApiKey(key_id=row.key_id, tenant=row.tenant, role=row.role, note=row.note)
    revoked = row.revoke_time is not None
    moments = {
        "create_time": row.create_time,
        "rotate_time": row.rotate_time,
        "expire_time": row.expire_time,
        "revoke_time": row.revoke_time,
        "last_use_time": row.last_use_time,
        # It has ended with the key.
        "old_secret_expire_time": None if revoked else row.old_secret_expire_time,
    }
    for name, moment in moments.items():
        if moment is not None:
            stamp: Timestamp = getattr(key, name)
            stamp.FromDatetime(moment)
    return key
