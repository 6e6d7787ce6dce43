from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from hma.client.periods import MomentLike, get_usage, moment
from hma.errors import InvalidRequest
from hma.v1 import meta_agent_pb2

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7d", datetime(2026, 11, 18, 12, tzinfo=UTC)),
        ("90m", datetime(2026, 11, 25, 10, 30, tzinfo=UTC)),
        (timedelta(hours=1), datetime(2026, 11, 25, 11, tzinfo=UTC)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        (date(2026, 11, 1), datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T08:00+02:00", datetime(2026, 11, 1, 6, tzinfo=UTC)),
        (datetime(2026, 11, 1, 8), datetime(2026, 11, 1, 8, tzinfo=UTC)),
        (
            datetime(2026, 11, 1, 8, tzinfo=timezone(timedelta(hours=1))),
            datetime(2026, 11, 1, 7, tzinfo=UTC),
        ),
    ],
)
def test_a_moment_is_a_time_a_day_or_how_long_ago(value: MomentLike, expected: datetime) -> None:
    assert moment(value, "since", NOW) == expected


@pytest.mark.parametrize("value", ["yesterday", "", "2026-13-01", "-3d", "nan", "9999999999d"])
def test_what_is_no_moment_names_its_field(value: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        moment(value, "since", NOW)
    assert error.value.violations[0].field == "since"


def test_the_question_holds_what_was_asked_and_no_more() -> None:
    assert not get_usage().HasField("start_time")
    request = get_usage(["day", "tenant"], since="2026-11-01", until="2026-12-01")
    assert list(request.by) == [
        meta_agent_pb2.USAGE_GROUPING_DAY,
        meta_agent_pb2.USAGE_GROUPING_TENANT,
    ]
    assert request.start_time.ToJsonString() == "2026-11-01T00:00:00Z"
    assert request.end_time.ToJsonString() == "2026-12-01T00:00:00Z"
    with pytest.raises(InvalidRequest, match="tenant, route or day"):
        get_usage(["week"])  # type: ignore[list-item]
