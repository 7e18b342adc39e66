"""Jobs and runs of Forgejo as its API tells them: attempts, forks, approvals; and what can be known on Forgejo 15."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.core.model import Job, JobState, Run
from app.forges.contract import ForgeDown, ForgeRefused
from tests.fakes.forgejo_state import FakeJob
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import ManualClock
from tests.forges.test_forgejo_deliveries import PATH, ForgejoSide, serve


@pytest.fixture
def forgejo(clock: ManualClock) -> Iterator[ForgejoSide]:
    yield from serve(clock)


@pytest.fixture
def old(clock: ManualClock) -> Iterator[ForgejoSide]:
    """Forgejo 15: no job says its run."""
    for side in serve(clock):
        side.server.age()
        yield side


def job_of(job: FakeJob, **changes: Any) -> Job:
    home = job.run.repository
    values: dict[str, Any] = {"repository_id": str(home.id), "run_id": str(job.run.id), "attempt": job.attempt}
    return Job(f"forgejo-{job.handle}", "forgejo", job.handle, home.path, JobState.QUEUED, **{**values, **changes})


def take(side: ForgejoSide, job: FakeJob) -> None:
    """Somebody's runner takes it."""
    runner = side.server.create_runner("theirs", None)
    side.server.declare(runner.uuid, runner.token, job.labels)
    assert side.server.fetch_single(runner.uuid, runner.token, job.handle) is job


def test_a_job_is_told_from_its_first_wait_to_its_end(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    first = server.queue_job(PATH, ["gpu", "Rubin"])
    held = server.queue_job(PATH, ["gpu"], needs=[first])
    fresh = forge.fetch_job(job_of(first, branch="topic", actor="bob"))
    assert fresh is not None
    assert (fresh.labels, fresh.state, fresh.repository, fresh.name) == (("gpu", "Rubin"), JobState.QUEUED, PATH, "train")
    assert (fresh.branch, fresh.actor) == ("topic", "bob"), "what only the delivery says is kept"
    blocked = forge.fetch_job(job_of(held))
    assert blocked is not None
    assert blocked.state is JobState.WAITING
    take(forgejo, first)
    running = forge.fetch_job(fresh)
    assert running is not None
    assert running.state is JobState.IN_PROGRESS
    server.finish(first)
    done, freed = forge.fetch_job(fresh), forge.fetch_job(blocked)
    assert done is not None and freed is not None
    assert (done.state, done.conclusion, freed.state) == (JobState.COMPLETED, "success", JobState.QUEUED)


def test_an_attempt_that_another_has_replaced_is_gone(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    first = server.queue_job(PATH, ["gpu"])
    server.cancel_job(first)
    again = server.rerun_job(first)
    assert again.id == first.id
    assert forge.fetch_job(job_of(first)) is None
    fresh = forge.fetch_job(job_of(again, attempt=1))
    assert fresh is not None
    assert (fresh.attempt, fresh.state) == (2, JobState.QUEUED)


def test_a_run_that_is_gone_is_none_and_trouble_is_no_answer(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    job = job_of(server.queue_job(PATH, ["gpu"]))
    for kind in ("500", "hang up", "429"):
        for ask in (forge.fetch_job, forge.fetch_run):
            server.fault("/actions/runs/", kind, retry_after=1)
            with pytest.raises(ForgeDown):
                ask(job)
            forgejo.clock.forward(timedelta(seconds=61))
    server.fault("/actions/runs/", "403", times=2)
    for ask in (forge.fetch_job, forge.fetch_run):
        with pytest.raises(ForgeRefused, match="403"):
            ask(job)
    server.runs.clear()
    assert forge.fetch_job(job) is None
    assert forge.fetch_run(job) is None


@pytest.mark.parametrize(
    "rows",
    [[{"id": 1, "handle": "{}", "status": None}], [{"id": None, "handle": "{}", "status": "waiting"}], {}, [7]],
)
def test_a_job_that_cannot_be_read_is_no_answer(forgejo: ForgejoSide, rows: Any) -> None:
    job = job_of(forgejo.server.queue_job(PATH, ["gpu"]))
    if isinstance(rows, list) and isinstance(rows[0], dict):
        rows[0]["handle"] = job.key
    forgejo.server.loopback.faults.append(Fault("GET", "/jobs", reply=Reply(200, rows)))
    with pytest.raises(ForgeDown, match="unreadable"):
        forgejo.forge().fetch_job(job)


def test_a_job_of_another_repository_under_this_name_is_not_it(forgejo: ForgejoSide) -> None:
    job = job_of(forgejo.server.queue_job(PATH, ["gpu"]), repository_id="9")
    assert forgejo.forge().fetch_job(job) is None


def test_what_is_no_handle_run_or_path_never_reaches_a_url(forgejo: ForgejoSide) -> None:
    job = job_of(forgejo.server.queue_job(PATH, ["gpu"]))
    bad = [replace(job, key="../x/../../y"), replace(job, repository="../admin"), replace(job, repository="acme")]
    for one in bad:
        with pytest.raises(ForgeRefused):
            forgejo.forge().fetch_job(one)
    for one in (*bad[1:], replace(job, run_id=""), replace(job, run_id="7/cancel")):
        with pytest.raises(ForgeRefused):
            forgejo.forge().fetch_run(one)
    assert forgejo.server.requests == []


@pytest.mark.parametrize(
    ("event", "fork", "approval", "told"),
    [
        ("push", False, False, False),
        ("schedule", False, False, False),
        ("workflow_dispatch", False, False, False),
        ("pull_request", False, False, False),
        ("pull_request", True, False, True),
        ("pull_request_target", True, False, True),
        ("pull_request", False, True, True),
    ],
)
def test_whose_code_a_run_is_of(forgejo: ForgejoSide, event: str, fork: bool, approval: bool, told: bool) -> None:
    job = forgejo.server.queue_job(PATH, ["gpu"], event=event, fork=fork, approval=approval, actor="mallory")
    run = forgejo.forge().fetch_run(job_of(job, attempt=2))
    head = "" if told else PATH
    assert run == Run("forgejo", PATH, str(job.run.id), 2, event, head_repository=head, fork=told, actor="mallory")


def test_an_approved_run_stays_a_forks(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    job = server.queue_job(PATH, ["gpu"], fork=True, approval=True)
    held = forge.fetch_job(job_of(job))
    assert held is not None
    assert held.state is JobState.WAITING
    server.approve(job.run)
    freed, run = forge.fetch_job(job_of(job)), forge.fetch_run(job_of(job))
    assert freed is not None and run is not None
    assert (freed.state, run.fork) == (JobState.QUEUED, True)


@pytest.mark.parametrize(
    ("changes", "event", "fork"),
    [
        ({"trigger_event": "pull_request", "event": "pull_request_sync"}, "pull_request", False),
        ({"trigger_event": "", "event": "pull_request_sync"}, "pull_request", False),
        ({"trigger_event": None, "event": "pull_request_review_approved"}, "pull_request_review", False),
        ({"trigger_event": "pull_request_review_request"}, "pull_request", False),
        ({"trigger_event": "pull_request_comment"}, "issue_comment", False),
        ({"trigger_event": "release"}, "release", False),
        ({"is_fork_pull_request": None}, "push", None),
        ({"is_fork_pull_request": "no"}, "push", None),
        ({"is_fork_pull_request": None, "need_approval": True}, "push", True),
    ],
)
def test_events_are_told_in_the_words_of_a_workflow(
    forgejo: ForgejoSide, changes: dict[str, Any], event: str, fork: bool | None
) -> None:
    job = forgejo.server.queue_job(PATH, ["gpu"])
    answer = {**forgejo.server.api.run(job.run), **changes}
    forgejo.server.loopback.faults.append(Fault("GET", "/runs/", reply=Reply(200, answer)))
    run = forgejo.forge().fetch_run(job_of(job))
    assert run is not None
    assert (run.event, run.fork) == (event, fork)


@pytest.mark.parametrize("changes", [{"id": 1}, {"id": None}, {"repository": None}, {"repository": {"full_name": "../x"}}])
def test_a_run_that_is_another_is_no_answer(forgejo: ForgejoSide, changes: dict[str, Any]) -> None:
    job = forgejo.server.queue_job(PATH, ["gpu"])
    answer = {**forgejo.server.api.run(job.run), **changes}
    forgejo.server.loopback.faults.append(Fault("GET", "/runs/", reply=Reply(200, answer)))
    with pytest.raises(ForgeDown, match="unreadable"):
        forgejo.forge().fetch_run(job_of(job))


def test_a_renamed_repository_is_found_by_its_number(forgejo: ForgejoSide) -> None:
    """Forgejo leads on from the old name, and a redirect is never followed: it would carry the token along."""
    server, forge = forgejo.server, forgejo.forge()
    job = job_of(server.queue_job(PATH, ["gpu"]))
    server.rename_repository(PATH, "acme/trainer")
    fresh, run = forge.fetch_job(job), forge.fetch_run(job)
    assert fresh is not None and run is not None
    assert (fresh.repository, run.repository) == ("acme/trainer", "acme/trainer")
    with pytest.raises(ForgeRefused, match="sends us elsewhere"):
        forge.fetch_run(replace(job, repository_id=""))


# --- Forgejo 15


def the_only(side: ForgejoSide) -> Job:
    (job,) = side.forge().open_jobs(PATH)
    return job


def test_on_15_a_job_has_a_run_of_its_own_and_is_looked_for_among_the_open_ones(old: ForgejoSide) -> None:
    server, forge = old.server, old.forge()
    job = server.queue_job(PATH, ["gpu"])
    seen = the_only(old)
    assert seen.run_id == f"job-{job.id}"
    assert forge.fetch_job(seen) == seen
    take(old, job)
    running = forge.fetch_job(seen)
    assert running is not None
    assert running.state is JobState.IN_PROGRESS
    server.finish(job)
    assert forge.fetch_job(seen) is None, "over, and nobody tells how it ended"
    assert forge.fetch_run(seen) is None


def test_on_15_the_run_is_told_where_all_that_it_could_be_agree(old: ForgejoSide) -> None:
    server, forge = old.server, old.forge()
    jobs = [server.queue_job(PATH, ["gpu"], actor="ann") for _ in range(3)]
    server.queue_job("acme/other", ["gpu"], fork=True)
    server.finish(jobs[0])
    server.finish(jobs[1], "failure")
    seen = the_only(old)
    assert forge.fetch_run(seen) == Run("forgejo", PATH, seen.run_id, 1, "push", head_repository=PATH, fork=False, actor="ann")


@pytest.mark.parametrize("change", [{"fork": True, "event": "push"}, {"event": "schedule"}, {"actor": "mallory"}])
def test_on_15_nothing_is_guessed_where_they_differ(old: ForgejoSide, change: dict[str, Any]) -> None:
    server, forge = old.server, old.forge()
    meant = server.queue_job(PATH, ["gpu"])
    seen = the_only(old)
    other = server.queue_job(PATH, ["gpu"], **change)
    with pytest.raises(ForgeRefused, match="Forgejo 16 says it"):
        forge.fetch_run(seen)
    server.finish(other, "failure")
    with pytest.raises(ForgeRefused, match="Forgejo 16 says it"):
        forge.fetch_run(seen)  # a failed run may have a job that still waits
    old.clock.forward(timedelta(days=8))
    meant.run.updated = old.clock.now()
    run = forge.fetch_run(seen)
    assert run is not None
    assert run.fork is False


def test_on_15_a_run_whose_other_job_failed_is_still_one_that_it_could_be(old: ForgejoSide) -> None:
    """Such a run counts as failed, whatever still waits: a fork's must not pass for the repository's own."""
    server, forge = old.server, old.forge()
    theirs = server.queue_job(PATH, ["gpu"], fork=True)
    second = server.queue_job(PATH, ["gpu"], run=theirs.run, name="second")
    server.finish(theirs, "failure")
    seen = the_only(old)
    assert seen.key == second.handle
    run = forge.fetch_run(seen)
    assert run is not None
    assert run.fork is True
    server.queue_job(PATH, ["gpu"])
    with pytest.raises(ForgeRefused):
        forge.fetch_run(seen)


def test_on_15_runs_are_read_page_by_page_and_too_many_are_a_sentence(old: ForgejoSide) -> None:
    server, forge = old.server, old.forge()
    for _ in range(7):
        server.finish(server.queue_job(PATH, ["gpu"], event="schedule"), "failure")
    server.queue_job(PATH, ["gpu"], event="schedule")
    seen = the_only(old)
    server.api.most = 3
    run = forge.fetch_run(seen)
    assert run is not None
    assert run.event == "schedule"
    server.finish(server.queue_job(PATH, ["gpu"], fork=True), "failure")
    with pytest.raises(ForgeRefused, match="differ"):
        forge.fetch_run(seen)
    many = Reply(200, {"total_count": 501, "workflow_runs": []})
    server.loopback.faults.append(Fault("GET", "/actions/runs", reply=many))
    with pytest.raises(ForgeRefused, match="to look through"):
        forge.fetch_run(seen)


def test_after_an_upgrade_a_job_that_was_seen_before_gets_its_run(old: ForgejoSide) -> None:
    server, forge = old.server, old.forge()
    job = server.queue_job(PATH, ["gpu"], fork=True)
    seen = the_only(old)
    server.api.version, server.api.tells_runs = "16.0.1", True
    run = forge.fetch_run(seen)
    assert run is not None
    assert (run.id, run.fork) == (seen.run_id, True)
    fresh = forge.fetch_job(seen)
    assert fresh is not None
    assert fresh.run_id == str(job.run.id)
