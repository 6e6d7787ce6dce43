"""RPCs of `hma.v1.AdminService` that other parts serve."""

from __future__ import annotations

from hma.v1 import admin_pb2


class QuotasToCome:
    """Stands where the quotas' own part is put in."""

    async def set_quota(self, request: admin_pb2.SetQuotaRequest) -> admin_pb2.QuotaLimits:
        """Sets what a tenant may use."""
        raise NotImplementedError
