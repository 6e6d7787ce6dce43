"""Sums of the ledger: what a tenant has used, by route, by day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from hma.errors import InvalidRequest
from hma.v1 import meta_agent_pb2
from services.meta_agent.store.database import Database
from services.meta_agent.store.page_token import micros_of, moment_of, pack, unpack

DEFAULT_PERIOD = timedelta(days=30)

_KEYS = {
    meta_agent_pb2.USAGE_GROUPING_TENANT: "tenant",
    meta_agent_pb2.USAGE_GROUPING_ROUTE: "route",
    meta_agent_pb2.USAGE_GROUPING_DAY: "day",
}
_NOW = "SELECT clock_timestamp()"
# What is booked once stays: pages of a period that has ended fit together.
_SUMS = """
WITH entry AS (
    SELECT *, to_char(settle_time AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day
    FROM ledger_entry WHERE tenant = $1 AND settle_time >= $2 AND settle_time < $3
), sums AS (
    SELECT {named}, {is_total} AS is_total,
           count(DISTINCT job_id) AS jobs,
           count(*) AS calls,
           coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
           coalesce(sum(cached_prompt_tokens), 0) AS cached_prompt_tokens,
           coalesce(sum(completion_tokens), 0) AS completion_tokens,
           coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens,
           coalesce(sum(prompt_tokens + completion_tokens) FILTER (WHERE NOT exact), 0)
               AS upper_bound_tokens,
           coalesce(sum(cost), 0) AS cost
    FROM entry GROUP BY GROUPING SETS ({sets})
)
(SELECT * FROM sums WHERE is_total)
UNION ALL
(SELECT * FROM sums WHERE NOT is_total
 ORDER BY day DESC, prompt_tokens + completion_tokens DESC, route, tenant
 LIMIT $4 OFFSET $5)
"""


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """What is asked of the ledger.

    Attributes:
        tenant: Whose.
        by: What to sum by, each once; empty: one sum.
        start: From this time on; None: 30 days before the end.
        end: Up to this time; None: database time.
        size: Rows of a page at most.
        token: `next_page_token` of the page before, made for the same question.
    """

    tenant: str
    by: Sequence[meta_agent_pb2.UsageGrouping.ValueType] = ()
    start: datetime | None = None
    end: datetime | None = None
    size: int = 100
    token: str = ""


class UsageBook:
    """Reads the ledger of all jobs, deleted ones included."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def sum(self, query: UsageQuery) -> meta_agent_pb2.GetUsageResponse:
        """A page of sums and the sum of all pages.

        Raises:
            InvalidRequest: The token is not one of this list.
            Unavailable: The database cannot be reached.
        """
        filters = (query.tenant, *query.by, query.start, query.end)
        start, end, offset = await self._place(query, filters)
        keys = [_KEYS[key] for key in query.by]
        rows = await self._database.fetch(
            _statement(keys), query.tenant, start, end, query.size + 1, offset
        )
        total = _row(next(row for row in rows if row["is_total"]))
        response = meta_agent_pb2.GetUsageResponse(total=total)
        if not keys:
            response.rows.append(total)
            return response
        sums = [_row(row) for row in rows if not row["is_total"]]
        response.rows.extend(sums[: query.size])
        if len(sums) > query.size:
            place = [micros_of(start), micros_of(end), offset + query.size]
            response.next_page_token = pack(place, filters)
        return response

    async def _place(
        self, query: UsageQuery, filters: Sequence[object]
    ) -> tuple[datetime, datetime, int]:
        """The period, which stays the same on all pages, and how many rows were before."""
        if query.token:
            match unpack(query.token, filters):
                case [int(start), int(end), int(offset)] if 0 <= offset < 2**31:
                    return moment_of(start), moment_of(end), offset
            raise InvalidRequest.field("page_token", "is not one of this list")
        ending = query.end
        if ending is None:
            [row] = await self._database.fetch(_NOW)
            ending = row[0]
        return query.start or ending - DEFAULT_PERIOD, ending, 0


def _statement(keys: Sequence[str]) -> str:
    named = ", ".join(
        f"coalesce({key}, '') AS {key}" if key in keys else f"'' AS {key}" for key in _KEYS.values()
    )
    if not keys:
        return _SUMS.format(named=named, is_total="true", sets="()")
    together = ", ".join(keys)
    return _SUMS.format(
        named=named, is_total=f"GROUPING({together}) <> 0", sets=f"({together}), ()"
    )


def _row(record: asyncpg.Record) -> meta_agent_pb2.UsageRow:
    return meta_agent_pb2.UsageRow(
        **{name: value for name, value in record.items() if name != "is_total"}
    )
