"""How many machines are wanted, and which are given back: decisions told as stories."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta

from app.core.model import Demand, DemandKey, Job, JobState, Lease, Pool, Reason
from app.core.policy import Plan, Snapshot, decide
from app.core.states import State
from tests.core.values import KEY, NOON, job, lease, pool


def run(*jobs: Job, live: tuple[Lease, ...] = (), recent: tuple[Lease, ...] = (), ceiling: int = 3) -> Plan:
    drawn = iter(range(100, 200))

    def draw(key: DemandKey, want: Demand, _pool: Pool, attempt: int) -> Lease:
        return lease(next(drawn), State.PLANNED, key=key, attempt=attempt, ask=want.ask)

    alive = Counter(lease.key.pool for lease in live)
    down = tuple(lease for lease in live if lease.reason is not None)
    return decide(Snapshot(jobs, live, alive, (*recent, *down), NOON), {"gpu": pool(ceiling=ceiling)}, draw)


def failed(number: int, seconds_ago: float, reason: Reason = Reason.BOOT_TIMEOUT) -> Lease:
    return lease(
        number, State.RELEASED, reason=reason, reason_text="It stayed silent.", gone_at=NOON - timedelta(seconds=seconds_ago)
    )


def test_two_jobs_wait_and_two_leases_are_planned() -> None:
    plan = run(job(1), job(2))
    assert len(plan.new) == 2
    assert "is planned for it" in plan.waits["github-1"]


def test_a_lease_that_is_coming_covers_one_job() -> None:
    plan = run(job(1), job(2), live=(lease(1),))
    assert len(plan.new) == 1
    assert plan.waits["github-1"] == "Lease calm-fox-01 is booting."


def test_a_job_held_back_by_an_approval_is_no_demand() -> None:
    assert run(job(1, state=JobState.WAITING)).new == ()


def test_the_ceiling_counts_every_machine_that_may_cost_money() -> None:
    dying = tuple(lease(n, State.DESTROYING) for n in range(3))
    plan = run(job(1), live=dying)
    assert plan.new == ()
    assert "ceiling of 3" in plan.waits["github-1"]


def test_a_busy_lease_whose_job_the_forge_has_not_named_yet_covers_the_job_it_must_have_taken() -> None:
    assert run(job(1), live=(lease(1, State.BUSY),)).new == ()
    assert len(run(job(1), live=(lease(1, State.BUSY, job_id="github-7"),)).new) == 1


def test_a_stolen_runner_is_replaced() -> None:
    """Our runner took a sibling job; ours still waits and gets another machine."""
    assert len(run(job(1), live=(lease(1, State.IDLE, job_id="github-2"),)).new) == 1


def test_a_runner_that_died_before_its_job_is_replaced() -> None:
    assert len(run(job(1), live=(lease(1, State.IDLE, runner_exited_at=NOON),)).new) == 1


def test_a_job_cancelled_before_its_start_gives_the_machine_back() -> None:
    plan = run(live=(lease(1, State.LAUNCHING), lease(2, State.BOOTING)))
    assert {(identity, reason) for identity, reason, _ in plan.drain} == {
        ("lease-1", Reason.JOB_GONE),
        ("lease-2", Reason.JOB_GONE),
    }


def test_of_too_many_the_furthest_is_kept() -> None:
    plan = run(job(1), live=(lease(1, State.PLANNED), lease(2, State.PROVING)))
    assert [identity for identity, _, _ in plan.drain] == ["lease-1"]


def test_a_registered_runner_is_left_to_its_idle_limit() -> None:
    """It may be taking a job this very moment."""
    assert run(live=(lease(1, State.IDLE), lease(2, State.REGISTERING), lease(3, State.BUSY))).drain == ()


def test_the_first_failure_is_tried_again_at_once_and_later_ones_wait_longer() -> None:
    assert len(run(job(1), recent=(failed(1, 0),)).new) == 1
    plan = run(job(1), recent=(failed(1, 60), failed(2, 1)))
    assert plan.new == ()
    assert "2 tries failed, the last as boot timeout: It stayed silent. Next try at 12:00:04 UTC." in plan.waits["github-1"]
    again = run(job(1), recent=(failed(1, 60), failed(2, 10)))
    assert [new.attempt for new in again.new] == [3]


def test_a_lease_that_served_ends_the_row_of_failures() -> None:
    served = failed(3, 1, Reason.JOB_DONE)
    assert len(run(job(1), recent=(failed(1, 60), failed(2, 30), served)).new) == 1


def test_other_labels_are_another_demand() -> None:
    other = DemandKey("gpu", "github", KEY.scope, ("gpu", "rubin", "x64"))
    plan = run(job(1, labels=("gpu", "rubin", "x64")), live=(lease(1),))
    assert [new.key for new in plan.new] == [other]
    assert len(plan.drain) == 1


def test_runners_that_no_job_comes_to_are_not_rented_for_ever() -> None:
    """Its job waits on: the runner group or the labels keep them apart, and each try would cost an idle limit of rent."""
    idle = Reason.IDLE_TIMEOUT
    assert run(job(1), recent=(failed(1, 60, idle), failed(2, 30, idle), failed(3, 1, idle))).new == ()


def test_an_image_that_was_refused_is_looked_at_again_after_half_a_minute_and_then_ever_later() -> None:
    """Another offer would not sign it; a person may, meanwhile."""
    refused = Reason.IMAGE_REFUSED
    plan = run(job(1), recent=(failed(1, 1, refused),))
    assert plan.new == ()
    assert plan.waits["github-1"] == (
        "The image may not run, so nothing is rented: It stayed silent. It is looked at again at 12:00:29 UTC."
    )
    assert len(run(job(1), recent=(failed(1, 30, refused),)).new) == 1
    assert run(job(1), recent=(failed(1, 90, refused), failed(2, 59, refused))).new == ()
    many = tuple(failed(number, 1_000 - number, refused) for number in range(9))
    assert run(job(1), recent=(*many, failed(10, 299, refused))).new == ()
    assert len(run(job(1), recent=(*many, failed(10, 300, refused))).new) == 1


def test_a_runner_that_cannot_be_started_is_tried_ever_more_seldom() -> None:
    """Too old for its forge, or not on the image at all: another machine would not mend that, and costs money."""
    why = "gitea-runner on this machine is version 0.2.11."

    def unstartable(number: int, ago: int) -> Lease:
        return replace(failed(number, ago, Reason.RUNNER_FAILED), runner_exit=126, reason_text=why)

    plan = run(job(1), recent=(unstartable(1, 1),))
    assert plan.new == ()
    assert plan.waits["github-1"] == (
        f"The runner cannot be started: {why} Each try is a machine for nothing; the next is at 12:00:29 UTC."
    )
    assert len(run(job(1), recent=(unstartable(1, 30),)).new) == 1
    assert run(job(1), recent=(unstartable(1, 500), unstartable(2, 119))).new == ()
    many = tuple(unstartable(number, 9_000 - number) for number in range(9))
    assert run(job(1), recent=(*many, unstartable(10, 1_199))).new == ()
    assert len(run(job(1), recent=(*many, unstartable(10, 1_200))).new) == 1
    assert len(run(job(1), recent=(replace(unstartable(1, 1), runner_exit=1),)).new) == 1, "it ran, and failed: once more"
