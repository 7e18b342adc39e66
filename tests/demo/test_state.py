"""Jobs and runners of the forge move as GitHub's do: forward only, any fitting job to any fitting runner, one job a runner."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.demo.nouns import JobSpec, Progress, Step
from app.demo.state import ForgeState, Minted
from app.demo.work import Order, Refusal
from tests.demo.conftest import NOON, SHA, only_job, queue

SESSION = "s" * 64
MINUTE = timedelta(minutes=1)


def mint(state: ForgeState, name: str = "calm-fox-01", *labels: str, scope: str = "repos/acme/train", group: int = 1) -> Minted:
    return state.register(scope, name, labels or ("gpu", "rubin"), group, NOON)


def actions(state: ForgeState) -> list[str]:
    return [str(one.action) for one in state.outbox.due(NOON + timedelta(days=9))]


def test_one_job_from_queue_to_end(state: ForgeState) -> None:
    job = state.book.jobs[only_job(state, queue(state))]
    minted = mint(state)
    runner = state.connect(minted.token, SESSION, "2.336.0", NOON)
    assert state.take(runner, NOON) is job
    assert (job.progress, job.runner_name, runner.job_id) == (Progress.IN_PROGRESS, "calm-fox-01", job.id)
    state.note_steps(runner, job.id, [Step(1, "Set up job", "completed", "success"), Step(2, "Train")], 3)
    state.finish(minted.token, SESSION, job.id, "success", NOON + MINUTE)
    assert (job.progress, job.conclusion, job.steps[1].status) == (Progress.COMPLETED, "success", "completed")
    assert state.book.runners == {}, "an ephemeral runner is de-registered by its one job"
    state.finish(minted.token, SESSION, job.id, "failure", NOON + MINUTE)
    assert job.conclusion == "success", "a repeated end changes nothing"
    assert actions(state) == ["queued", "in_progress", "completed"]


def test_a_runner_is_not_pinned_to_the_job_it_was_made_for(state: ForgeState) -> None:
    """Two jobs, two runners: whichever asks first gets the oldest job. Each learns its partner from `in_progress` only."""
    first, second = (only_job(state, queue(state)) for _ in range(2))
    one, two = mint(state, "fox-1"), mint(state, "fox-2")
    taken = state.take(state.connect(two.token, SESSION, "2", NOON), NOON)
    assert taken is not None and taken.id == first
    other = state.take(state.connect(one.token, SESSION, "2", NOON), NOON)
    assert other is not None and (other.id, other.runner_name) == (second, "fox-1")


def test_a_job_goes_to_a_runner_with_all_its_labels_and_in_its_scope(state: ForgeState) -> None:
    job = only_job(state, queue(state, "GPU", "rubin"))
    state.repository("acme/eval", NOON)
    for place, (name, labels, scope) in enumerate(
        [
            ("fewer", ("gpu",), "repos/acme/train"),
            ("elsewhere", ("gpu", "rubin"), "repos/acme/eval"),
            ("other-owner", ("gpu", "rubin"), "orgs/umbrella"),
        ]
    ):
        runner = state.connect(mint(state, name, *labels, scope=scope).token, f"{place}" * 64, "2", NOON)
        assert state.take(runner, NOON) is None, name
    wide = state.connect(mint(state, "wide", "gpu", "Rubin", "spot", scope="enterprises/acme-inc").token, SESSION, "2", NOON)
    taken = state.take(wide, NOON)
    assert taken is not None and taken.id == job


def test_a_runner_group_keeps_out_other_repositories_and_other_groups(state: ForgeState) -> None:
    state.repository("acme/eval", NOON)
    group = state.add_group("orgs/acme", "gpus", ["acme/eval"])
    queue(state, "gpu")
    runner = state.connect(mint(state, "fox", "gpu", scope="orgs/acme", group=group.id).token, SESSION, "2", NOON)
    assert state.take(runner, NOON) is None
    wants = JobSpec("eval", "eval", ["gpu"], group="gpus")
    run = state.start(Order("acme/eval", SHA, [wants]), NOON)
    default = state.connect(mint(state, "owl", "gpu", scope="orgs/acme").token, SESSION, "2", NOON)
    taken = state.take(default, NOON)
    assert taken is not None and taken.run_id != run.id, "the default group's runner takes the other repository's job"
    taken = state.take(runner, NOON)
    assert taken is not None and taken.run_id == run.id


def test_a_lost_answer_gives_the_same_job_again(state: ForgeState) -> None:
    queue(state)
    queue(state)
    runner = state.connect(mint(state).token, SESSION, "2", NOON)
    assert state.take(runner, NOON) is state.take(runner, NOON)
    assert actions(state).count("in_progress") == 1


def test_a_name_is_taken_from_the_moment_the_config_is_made(state: ForgeState) -> None:
    mint(state, "calm-fox-01")
    with pytest.raises(Refusal) as refused:
        mint(state, "Calm-Fox-01")
    assert refused.value.status == 409
    mint(state, "calm-fox-01", scope="orgs/acme")  # another scope, another name space


@pytest.mark.parametrize(
    ("name", "labels", "group", "status"),
    [
        ("", ("gpu",), 1, 422),
        ("a b", ("gpu",), 1, 422),
        ("x" * 65, ("gpu",), 1, 422),
        ("fox", ("g" * 257,), 1, 422),
        ("fox", tuple(f"l{n}" for n in range(101)), 1, 422),
        ("fox", ("gpu",), 9, 404),
    ],
)
def test_what_github_would_not_register(state: ForgeState, name: str, labels: tuple[str, ...], group: int, status: int) -> None:
    with pytest.raises(Refusal) as refused:
        state.register("repos/acme/train", name, labels, group, NOON)
    assert refused.value.status == status


def test_a_full_group_takes_no_more(state: ForgeState) -> None:
    state.book.limits.group_runners = 1
    mint(state, "fox-1")
    with pytest.raises(Refusal, match="max limit of 1 runners") as refused:
        mint(state, "fox-2")
    assert refused.value.status == 422


def test_a_jit_config_serves_one_session(state: ForgeState) -> None:
    minted = mint(state)
    state.connect(minted.token, SESSION, "2", NOON)
    state.connect(minted.token, SESSION, "2", NOON)  # a repeated request of the same process
    with pytest.raises(Refusal) as refused:
        state.connect(minted.token, "t" * 64, "2", NOON)
    assert refused.value.status == 409
    with pytest.raises(Refusal) as refused:
        state.connect("unknown", SESSION, "2", NOON)
    assert refused.value.status == 401


def test_a_busy_runner_cannot_be_deleted(state: ForgeState) -> None:
    job_id = only_job(state, queue(state))
    minted = mint(state)
    runner = state.connect(minted.token, SESSION, "2", NOON)
    state.take(runner, NOON)
    with pytest.raises(Refusal) as refused:
        state.remove("repos/acme/train", runner.id)
    assert refused.value.status == 422
    state.finish(minted.token, SESSION, job_id, "success", NOON)
    with pytest.raises(Refusal) as refused:
        state.remove("repos/acme/train", runner.id)
    assert refused.value.status == 404


def test_idle_and_unused_registrations_go_by_themselves(state: ForgeState) -> None:
    connected, unused = mint(state, "connected"), mint(state, "unused")
    state.connect(connected.token, SESSION, "2", NOON)
    state.tick(NOON + state.book.limits.jit_idle + MINUTE)
    assert [one.name for one in state.book.runners.values()] == ["unused"]
    with pytest.raises(Refusal, match="idle") as refused:
        state.session(connected.token, SESSION, NOON)
    assert refused.value.status == 410
    state.tick(NOON + state.book.limits.jit_unused + MINUTE)
    with pytest.raises(Refusal, match="unused"):
        state.connect(unused.token, SESSION, "2", NOON)


def test_a_job_whose_runner_went_silent_fails_and_is_not_queued_again(state: ForgeState) -> None:
    job = state.book.jobs[only_job(state, queue(state))]
    runner = state.connect(mint(state).token, SESSION, "2", NOON)
    state.take(runner, NOON)
    state.tick(NOON + state.book.limits.lost)
    assert job.progress is Progress.IN_PROGRESS
    state.tick(NOON + state.book.limits.lost + MINUTE)
    assert (job.conclusion, state.book.runners) == ("failure", {})
    assert "lost communication" in job.note


def test_a_forge_that_was_away_does_not_blame_its_runners(state: ForgeState) -> None:
    job = state.book.jobs[only_job(state, queue(state))]
    state.take(state.connect(mint(state).token, SESSION, "2", NOON), NOON)
    later = NOON + timedelta(hours=3)
    state.wake(later)
    state.tick(later)
    assert job.progress is Progress.IN_PROGRESS


def test_nobody_came_for_a_day(state: ForgeState) -> None:
    job = state.book.jobs[only_job(state, queue(state))]
    state.tick(NOON + timedelta(hours=24, seconds=1))
    assert (job.progress, job.conclusion) == (Progress.COMPLETED, "failure")


def test_a_queued_job_is_cancelled_at_once_and_a_running_one_by_its_runner(state: ForgeState) -> None:
    waits, runs = only_job(state, queue(state, "other")), only_job(state, queue(state))
    state.cancel(waits, NOON)
    assert state.book.jobs[waits].conclusion == "cancelled"
    minted = mint(state)
    runner = state.connect(minted.token, SESSION, "2", NOON)
    state.take(runner, NOON)
    assert not state.renew(runner, runs, NOON)
    state.cancel(runs, NOON)
    assert state.book.jobs[runs].progress is Progress.IN_PROGRESS
    assert state.renew(runner, runs, NOON)
    state.finish(minted.token, SESSION, runs, "cancelled", NOON)
    with pytest.raises(Refusal) as refused:
        state.cancel(runs, NOON)
    assert refused.value.status == 409


def test_a_rerun_is_a_new_job_of_a_new_attempt(state: ForgeState) -> None:
    run = queue(state)
    old = only_job(state, run)
    with pytest.raises(Refusal) as refused:
        state.rerun([old], NOON)
    assert refused.value.status == 403
    state.cancel(old, NOON)
    fresh = state.rerun([old], NOON)[0]
    assert fresh.id != old and (fresh.run_id, fresh.attempt, fresh.progress) == (run.id, 2, Progress.QUEUED)
    assert state.book.jobs[old].conclusion == "cancelled"
    assert actions(state) == ["queued", "completed", "queued"]


def test_a_job_that_needs_approval_waits_and_then_queues(state: ForgeState) -> None:
    job = state.book.jobs[
        only_job(state, state.start(Order("acme/train", SHA, [JobSpec("eval", "eval", ["gpu"], needs_approval=True)]), NOON))
    ]
    runner = state.connect(mint(state, "fox", "gpu").token, SESSION, "2", NOON)
    assert state.take(runner, NOON) is None
    state.approve(job.id, NOON)
    assert state.take(runner, NOON) is job
    with pytest.raises(Refusal):
        state.approve(job.id, NOON)
    assert actions(state) == ["waiting", "queued", "in_progress"]


def test_old_runs_are_forgotten_and_open_ones_kept(state: ForgeState) -> None:
    kept = queue(state)
    for _ in range(320):
        state.cancel(only_job(state, queue(state)), NOON)
    assert kept.id in state.book.runs and len(state.book.runs) <= 302
    assert {job.run_id for job in state.book.jobs.values()} == set(state.book.runs)
