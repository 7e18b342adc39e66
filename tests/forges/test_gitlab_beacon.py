"""The beacon: one online record per pool against GitLab's one-hour trap."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.forges.contract import ForgeDown
from tests.forges.conftest import GitLabSide
from tests.forges.test_gitlab_runners import PROJECT


def test_a_beacon_keeps_a_waiting_job_alive_and_takes_none(gitlab: GitLabSide) -> None:
    """Without it GitLab fails the job after an hour; a scale-from-zero pool may need longer than that."""
    server, forge, clock = gitlab.server, gitlab.forge(), gitlab.clock
    project = server.add_project(PROJECT.path)
    doomed = server.queue_job(project, ["gpu", "other"])
    job = server.queue_job(project, ["gpu"])
    lit = forge.light_beacon(PROJECT, ("gpu", "spot"), None, "")
    for _ in range(4):
        assert lit is not None
        clock.forward(timedelta(minutes=45))
        again = forge.light_beacon(PROJECT, ("gpu", "spot"), lit.credential, lit.runner_id)
        assert again == lit, "one record stays, as long as it is there"
        server.drop_stuck_jobs()
    assert (doomed.status, job.status) == ("failed", "pending")
    assert lit is not None
    record = server.runners[int(lit.runner_id)]
    assert (record.description, record.paused, record.run_untagged) == ("sublet-beacon gpu spot", False, False)
    assert len(server.runners) == 1
    assert not [one for one in server.requests if one.path.endswith("/jobs/request")]
    assert record.token not in repr(lit)


def test_a_beacon_that_somebody_deleted_is_made_again(gitlab: GitLabSide) -> None:
    server, forge = gitlab.server, gitlab.forge()
    server.add_project(PROJECT.path)
    lit = forge.light_beacon(PROJECT, ("gpu",), None, "")
    assert lit is not None
    server.remove_runner(server.runners[int(lit.runner_id)])
    fresh = forge.light_beacon(PROJECT, ("gpu",), lit.credential, lit.runner_id)
    assert fresh is not None
    assert fresh.runner_id != lit.runner_id
    assert server.online(server.runners[int(fresh.runner_id)])


def test_a_beacon_is_not_lost_or_doubled_by_a_forge_that_is_down(gitlab: GitLabSide) -> None:
    server, forge = gitlab.server, gitlab.forge()
    server.add_project(PROJECT.path)
    for kind in ("hang up", "500", "429"):
        server.fault("/runners/verify", kind)
        lit = forge.light_beacon(PROJECT, ("gpu",), None, "")
        assert lit is not None, "made, though not verified: the next call does that"
        server.fault("/runners/verify", kind)
        with pytest.raises(ForgeDown):
            forge.light_beacon(PROJECT, ("gpu",), lit.credential, lit.runner_id)
    assert len(server.runners) == 3


def test_a_beacon_for_many_options_keeps_the_plain_labels(gitlab: GitLabSide) -> None:
    """GitLab allows 50 tags; a pool that may add gpus:1 to gpus:64 has more."""
    gitlab.server.add_project(PROJECT.path)
    labels = tuple(sorted(["gpu", "rubin", "spot", *(f"gpus:{count}" for count in range(1, 65))]))
    lit = gitlab.forge().light_beacon(PROJECT, labels, None, "")
    assert lit is not None
    tags = gitlab.server.runners[int(lit.runner_id)].tags
    assert len(tags) == 50
    assert {"gpu", "rubin", "spot"} <= set(tags)
