"""One job of Gitea's, and the run behind it: whose code it is, and who set it going."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.core.model import JobState, Run
from app.forges.contract import ForgeDown, ForgeRefused
from tests.fakes.gitea_state import FakeJob
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import ManualClock
from tests.forges.gitea_side import REPOSITORY, GiteaSide, changed, serve


@pytest.fixture
def gitea(clock: ManualClock) -> Iterator[GiteaSide]:
    yield from serve(clock)


@pytest.fixture(params=["1.24.0", "1.26.1", "1.27.0"])
def any_gitea(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[GiteaSide]:
    yield from serve(clock, version=request.param)


# One job


def test_a_job_through_its_life(any_gitea: GiteaSide) -> None:
    server, forge = any_gitea.server, any_gitea.forge()
    job = server.queue_job(REPOSITORY, ["gpu"], gated=True)
    known = any_gitea.known(job)

    def state() -> JobState:
        found = forge.fetch_job(known)
        assert found is not None
        assert found.labels == ("gpu",)
        assert (found.started_at is None) is (found.state in (JobState.WAITING, JobState.QUEUED))
        return found.state

    seen = [state()]
    server.approve(job)
    seen.append(state())
    server.start_job(job, 77)
    seen.append(state())
    server.finish_task(job, "failure")
    seen.append(state())
    assert seen == list(JobState)
    found = forge.fetch_job(known)
    assert found is not None
    assert (found.conclusion, found.runner_id, found.completed_at) == ("failure", "77", any_gitea.clock.now())


def test_a_job_that_is_gone_or_in_another_repository(gitea: GiteaSide) -> None:
    job = gitea.known(gitea.server.queue_job(REPOSITORY, ["gpu"]))
    gitea.server.add_repository("acme/other")
    for one in (replace(job, key="999999"), replace(job, repository="acme/other"), replace(job, repository="acme/none")):
        assert gitea.forge().fetch_job(one) is None


def test_a_key_or_a_path_that_gitea_cannot_have_is_not_asked_for(gitea: GiteaSide) -> None:
    job, forge = gitea.known(gitea.server.queue_job(REPOSITORY, ["gpu"])), gitea.forge()
    for odd in (replace(job, key="5/../6"), replace(job, repository="acme/../.."), replace(job, repository="acme")):
        with pytest.raises(ForgeRefused):
            forge.fetch_job(odd)
    with pytest.raises(ForgeRefused):
        forge.fetch_run(replace(job, run_id="x"))
    assert gitea.server.requests == []


def test_an_unknown_status_leaves_a_job_as_it_was(gitea: GiteaSide) -> None:
    job = gitea.server.queue_job(REPOSITORY, ["gpu"])
    changed(gitea, f"/jobs/{job.id}", lambda told: told.update(status="resting"), job=job)
    found = gitea.forge().fetch_job(replace(gitea.known(job), state=JobState.IN_PROGRESS))
    assert found is not None
    assert found.state is JobState.IN_PROGRESS


def test_an_answer_about_another_job_is_no_answer(gitea: GiteaSide) -> None:
    job = gitea.server.queue_job(REPOSITORY, ["gpu"])
    changed(gitea, f"/jobs/{job.id}", lambda told: told.update(id=5), job=job)
    with pytest.raises(ForgeDown, match="unreadable"):
        gitea.forge().fetch_job(gitea.known(job))


# The run behind it


def run_of(gitea: GiteaSide, job: FakeJob) -> Run:
    run = gitea.forge().fetch_run(gitea.known(job))
    assert run is not None
    return run


def test_a_branch_runs_its_own_repositorys_code(any_gitea: GiteaSide) -> None:
    for event in ("push", "schedule", "workflow_dispatch", "issues"):
        run = run_of(any_gitea, any_gitea.server.queue_job(REPOSITORY, ["gpu"], event=event, actor="zoe"))
        assert (run.event, run.fork, run.head_repository, run.actor) == (event, False, REPOSITORY, "zoe")


def test_who_ran_it_again_is_who_set_it_going(gitea: GiteaSide) -> None:
    job = gitea.server.queue_job(REPOSITORY, ["gpu"], actor="ann")
    gitea.server.cancel_job(job)
    gitea.server.rerun_job(job, actor="mallory")
    assert run_of(gitea, job).actor == "mallory"


def test_a_pull_requests_code_comes_from_where_the_pull_request_says(any_gitea: GiteaSide) -> None:
    server = any_gitea.server
    for fork, agit, expected in (
        (None, False, (False, REPOSITORY)),
        ("mallory/train", False, (True, "mallory/train")),
        ("", False, (True, "")),  # the fork was deleted: from 1.27 the run itself shows the base in its place
        (None, True, (True, "")),  # pushed to refs/for/main by anybody who may read
    ):
        job = server.queue_job(REPOSITORY, ["gpu"], event="pull_request_sync", fork=fork, agit=agit)
        run = run_of(any_gitea, job)
        assert (run.fork, run.head_repository) == expected
        assert run.event == "pull_request", "in the words of workflow files"


@pytest.mark.parametrize(
    ("event", "word"),
    [
        ("pull_request", "pull_request"),
        ("pull_request_label", "pull_request"),
        ("pull_request_assign", "pull_request"),
        ("pull_request_milestone", "pull_request"),
        ("pull_request_review_request", "pull_request"),
        ("pull_request_review_approved", "pull_request_review"),
        ("pull_request_comment", "issue_comment"),
        ("pull_request_target", "pull_request_target"),
    ],
)
def test_giteas_own_names_of_events(gitea: GiteaSide, event: str, word: str) -> None:
    run = run_of(gitea, gitea.server.queue_job(REPOSITORY, ["gpu"], event=event, fork="mallory/train"))
    assert (run.event, run.fork) == (word, True)


def test_a_pull_request_of_which_nobody_can_say_more(gitea: GiteaSide) -> None:
    """Gone, not ours to see, or not named by the run: fork None, which the rules take for a fork's."""
    server = gitea.server
    job = server.queue_job(REPOSITORY, ["gpu"], event="pull_request_sync")
    for status in ("404", "403"):
        server.fault("/pulls/", status)
        assert run_of(gitea, job).fork is None
    server.runs[job.run_id].ref = "refs/heads/main"  # as of pull_request_target
    assert (run_of(gitea, job).fork, run_of(gitea, job).head_repository) == (None, "")


def test_a_pull_request_that_cannot_be_asked_now_is_no_verdict(gitea: GiteaSide) -> None:
    job = gitea.server.queue_job(REPOSITORY, ["gpu"], event="pull_request_sync")
    for kind in ("500", "429", "hang up"):
        gitea.server.fault("/pulls/", kind)
        with pytest.raises(ForgeDown):
            gitea.forge().fetch_run(gitea.known(job))


def test_a_branch_may_not_pass_for_a_pull_request_nor_a_pull_request_for_a_branch(gitea: GiteaSide) -> None:
    job = gitea.server.queue_job(REPOSITORY, ["gpu"])
    gitea.server.runs[job.run_id].ref = "refs/heads/x@refs/pull/1/head"
    assert run_of(gitea, job).fork is False
    other = gitea.server.queue_job(REPOSITORY, ["gpu"], event="push")
    gitea.server.runs[other.run_id].ref = f"refs/pull/{gitea.server.add_pull(REPOSITORY, 'mallory/train').number}/merge"
    assert run_of(gitea, other).fork is True, "whatever the event is called"


@pytest.mark.parametrize("event", ["pull_request", "pull_request_sync", "pull_request_comment"])
def test_a_workflow_of_a_fork_may_not_name_another_pull_request(gitea: GiteaSide, event: str) -> None:
    """Its folders are the author's to name, and stand before the ref in the run's path."""
    server = gitea.server
    ours = server.add_pull(REPOSITORY, None).number
    job = server.queue_job(REPOSITORY, ["gpu"], event=event, fork="mallory/train")
    told = server.api.run(server.runs[job.run_id])
    for workflow in (f"x@refs/pull/{ours}/foo.yml", "x" * 900 + f"@refs/pull/{ours}/head", "@refs/heads/main"):
        path = f"{workflow}@{server.runs[job.run_id].ref}"
        server.loopback.faults.append(Fault("GET", "/runs/", reply=Reply(200, {**told, "path": path})))
        assert run_of(gitea, job).fork is True


@pytest.mark.parametrize("wanted", [["x"] * 101, ["x" * 300]], ids=["too many", "too long"])
def test_a_job_with_labels_that_no_runner_has_hides_no_other(gitea: GiteaSide, wanted: list[str]) -> None:
    gitea.server.queue_job("acme/other", wanted)
    ours = gitea.server.queue_job(REPOSITORY, ["gpu"])
    told = {job.key: job.labels for job in gitea.forge().open_jobs("acme")}
    assert told[str(ours.id)] == ("gpu",)
    assert set(told.values()) == {("gpu",), ()}


def test_a_run_that_is_gone(gitea: GiteaSide) -> None:
    job = gitea.known(gitea.server.queue_job(REPOSITORY, ["gpu"]))
    assert gitea.forge().fetch_run(replace(job, run_id="999999")) is None


@pytest.mark.parametrize("change", [{"id": 5}, {"number": 5}, {"base": None}, {"base": {"repo": {"id": 1}}}])
def test_an_answer_about_another_run_or_pull_request(gitea: GiteaSide, change: dict[str, Any]) -> None:
    job = gitea.server.queue_job(REPOSITORY, ["gpu"], event="pull_request_sync", fork="mallory/train")
    path = "/runs/" if "id" in change else "/pulls/"
    told = gitea.server.api.run(gitea.server.runs[job.run_id])
    if path == "/pulls/":
        told = {"number": 1, "base": {"repo": told["repository"]}, "head": {"label": "x", "repo": told["repository"]}}
    gitea.server.loopback.faults.append(Fault("GET", path, reply=Reply(200, {**told, **change})))
    with pytest.raises(ForgeDown, match="unreadable"):
        gitea.forge().fetch_run(gitea.known(job))
