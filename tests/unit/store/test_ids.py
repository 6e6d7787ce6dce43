from __future__ import annotations

import time

from services.meta_agent.store.ids import is_job_id, new_job_id, new_replica_id


def test_job_ids_sort_by_time_and_do_not_repeat() -> None:
    ids = []
    for _ in range(5):
        ids.append(new_job_id())
        time.sleep(0.002)
    assert ids == sorted(ids)
    assert len({new_job_id() for _ in range(10_000)}) == 10_000


def test_a_job_id_has_its_shape() -> None:
    for _ in range(100):
        assert is_job_id(new_job_id())
    good = new_job_id()
    for bad in ("", "job-", good[4:], good.lower(), good + "0", good[:-1] + "U", good + "\n"):
        assert not is_job_id(bad)


def test_each_run_of_a_replica_has_its_own_id() -> None:
    assert new_replica_id("host") != new_replica_id("host")
    assert new_replica_id("host").startswith("host-")
