"""Gitea's runners, once they are there: looked at, listed, disabled and removed, with and without a job."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from app.forges.contract import Credential, ForgeDown, ForgeRefused, RunnerBusy
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import ManualClock
from tests.forges.gitea_side import HOME, ORGANIZATION, GiteaSide, identity_of, order, record, serve, task


@pytest.fixture
def gitea(clock: ManualClock) -> Iterator[GiteaSide]:
    for side in serve(clock):
        side.server.add_repository(HOME.path)
        yield side


@pytest.fixture(params=["1.24.0", "1.26.1", "1.27.0"])
def any_gitea(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[GiteaSide]:
    for side in serve(clock, version=request.param):
        side.server.add_repository(HOME.path)
        yield side


# Looked at


def test_a_runner_and_a_list_of_them(any_gitea: GiteaSide) -> None:
    server, forge = any_gitea.server, any_gitea.forge()
    server.api.page_cap = 3
    made = [forge.mint_runner(order(name=f"sublet-owl-{number}")) for number in range(7)]
    forge.mint_runner(order(name="somebody-elses"))
    forge.mint_runner(order(ORGANIZATION, name="sublet-of-all"))
    assert [one.runner_id for one in forge.runners(HOME, "sublet-")] == [one.runner_id for one in made]
    assert [one.name for one in forge.runners(ORGANIZATION, "sublet-")] == ["sublet-of-all"]
    view = forge.runner(HOME, made[0].runner_id)
    assert view is not None
    assert (view.online, view.busy) == (False, False)
    server.queue_job("acme/train", ["gpu"])
    task(any_gitea, made[0])
    view = forge.runner(HOME, made[0].runner_id)
    assert view is not None
    assert (view.online, view.busy) == (True, True)
    assert forge.runner(HOME, "999999") is None
    with pytest.raises(ForgeRefused, match="is a number"):
        forge.runner(HOME, "../5")


def test_half_a_list_of_runners_is_none(gitea: GiteaSide) -> None:
    forge = gitea.forge()
    gitea.server.api.page_cap = 3
    for number in range(7):
        forge.mint_runner(order(name=f"sublet-owl-{number}"))
    gitea.server.loopback.faults.append(Fault("GET", "/actions/runners", effect=True))
    gitea.server.fault("/actions/runners", "500")
    with pytest.raises(ForgeDown):
        forge.runners(HOME, "sublet-")
    short = Reply(200, {"runners": [], "total_count": 5})
    gitea.server.loopback.faults.append(Fault("GET", "/actions/runners", reply=short))
    with pytest.raises(ForgeDown, match="gave 0 of 5 entries"):
        forge.runners(HOME, "sublet-")


def test_nothing_needs_to_be_done_as_a_job_starts_and_no_beacon_to_be_lit(gitea: GiteaSide) -> None:
    forge = gitea.forge()
    forge.job_started(HOME, "5")
    assert forge.light_beacon(HOME, ("gpu",), Credential(()), "5") is None
    assert gitea.server.requests == []


# Removed


def test_a_runner_without_a_job_is_removed(any_gitea: GiteaSide) -> None:
    forge = any_gitea.forge()
    minted = forge.mint_runner(order())
    identity = identity_of(minted)
    any_gitea.server.connect(identity["uuid"], identity["token"])
    forge.remove_runner(HOME, minted.runner_id)
    assert any_gitea.server.runners == {}
    forge.remove_runner(HOME, minted.runner_id)  # an id that is not there is no error
    with pytest.raises(ForgeRefused, match="is a number"):
        forge.remove_runner(HOME, "x")


def test_a_runner_with_a_job_is_not_removed(any_gitea: GiteaSide) -> None:
    forge = any_gitea.forge()
    any_gitea.server.queue_job("acme/train", ["gpu"])
    for scope in (HOME, ORGANIZATION):
        any_gitea.server.queue_job("acme/train", ["gpu"])
        minted = forge.mint_runner(order(scope))
        task(any_gitea, minted)
        with pytest.raises(RunnerBusy, match="has a job"):
            forge.remove_runner(scope, minted.runner_id)
        assert int(minted.runner_id) in any_gitea.server.runners


def test_a_job_that_was_given_a_moment_ago_keeps_its_runner(gitea: GiteaSide) -> None:
    """Gitea's `busy` does not know of it yet, its list of running jobs does."""
    forge = gitea.forge()
    minted = forge.mint_runner(order())
    gitea.server.queue_job("acme/train", ["gpu"])
    assert task(gitea, minted, quiet=True) is not None
    view = forge.runner(HOME, minted.runner_id)
    assert view is not None
    assert view.busy is False
    with pytest.raises(RunnerBusy):
        forge.remove_runner(HOME, minted.runner_id)


def test_no_job_can_come_between_the_look_and_the_end(gitea: GiteaSide) -> None:
    """Where the server can disable a runner, that is done first."""
    forge = gitea.forge()
    minted = forge.mint_runner(order())
    gitea.server.queue_job("acme/train", ["gpu"])
    gitea.server.fault("/actions/runners/", "500", verb="DELETE")
    with pytest.raises(ForgeDown):
        forge.remove_runner(HOME, minted.runner_id)
    assert record(gitea, minted).disabled
    assert task(gitea, minted) is None


@pytest.mark.parametrize(("verb", "path"), [("PATCH", "/actions/runners/"), ("GET", "/actions/jobs")])
def test_no_answer_is_no_leave_to_delete(gitea: GiteaSide, verb: str, path: str) -> None:
    forge = gitea.forge()
    minted = forge.mint_runner(order())
    for kind, error in (("500", ForgeDown), ("403", ForgeRefused), ("hang up", ForgeDown)):
        gitea.server.fault(path, kind, verb=verb)
        with pytest.raises(error):
            forge.remove_runner(HOME, minted.runner_id)
    assert record(gitea, minted)


def test_a_dead_machines_record_is_removed_once_it_is_silent(any_gitea: GiteaSide) -> None:
    server, forge = any_gitea.server, any_gitea.forge()
    job = server.queue_job("acme/train", ["gpu"])
    minted = forge.mint_runner(order())
    task(any_gitea, minted)
    server.lose(record(any_gitea, minted))
    any_gitea.clock.forward(timedelta(minutes=11))
    assert server.tick() == [job]
    assert job.status == "failure"
    forge.remove_runner(HOME, minted.runner_id)
    assert server.runners == {}


def test_a_job_that_nobody_takes_is_given_up_after_a_day_and_not_before(gitea: GiteaSide) -> None:
    job = gitea.server.queue_job("acme/train", ["gpu"])
    gitea.clock.forward(timedelta(hours=23))
    assert gitea.server.tick() == []
    gitea.clock.forward(timedelta(hours=2))
    assert gitea.server.tick() == [job]
    found = gitea.forge().fetch_job(gitea.known(job))
    assert found is not None
    assert found.conclusion == "cancelled"


def test_a_record_that_is_deleted_under_its_job_takes_the_job_along(gitea: GiteaSide) -> None:
    """Why nothing is removed that has a job: Gitea itself does not ask, and the job fails ten minutes later."""
    job = gitea.server.queue_job("acme/train", ["gpu"])
    minted = gitea.forge().mint_runner(order())
    task(gitea, minted)
    gitea.server.remove_runner(record(gitea, minted))
    identity = identity_of(minted)
    assert gitea.server.connect(identity["uuid"], identity["token"]) is None
    gitea.clock.forward(timedelta(minutes=11))
    assert gitea.server.tick() == [job]
    assert (job.status, gitea.server.rerun_job(job).status) == ("failure", "waiting")
