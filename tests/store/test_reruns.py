"""Jobs that a forge runs again under their old id, and strangers' jobs on our machines."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import sqlalchemy as sa

from app.core.model import Job, JobState, Reason
from app.core.states import State
from app.store import intruders, jobs, leases, nodes, reruns, runs
from app.store.db import Database
from app.store.tables import lease
from tests.store.nouns import KEY, NOW, SECOND, a_job, a_lease, cleared, led_to, queued, told

MINUTE = timedelta(minutes=1)


def ended(database: Database) -> Job:
    """A job that was queued, cleared, ran on somebody's runner and ended."""
    queued(database)
    over = a_job(state=JobState.COMPLETED, conclusion="failure", runner_name="theirs", completed_at=NOW + SECOND)
    jobs.record(database, [told(over)], NOW + SECOND)
    found = jobs.get(database, over.id)
    assert found is not None
    return found


def test_a_late_delivery_reopens_nothing(database: Database) -> None:
    ended(database)
    assert jobs.record(database, [told(a_job())], NOW + MINUTE) == [jobs.Recorded.STALE]
    known = jobs.get(database, "github-1")
    assert known is not None and known.state is JobState.COMPLETED


def test_the_forges_own_answer_begins_it_anew_and_its_run_is_asked_for_again(database: Database) -> None:
    first = ended(database)
    assert reruns.reopen(database, [a_job(attempt=2)], NOW + 2 * MINUTE, NOW + 3 * MINUTE) == 1
    known = jobs.get(database, first.id)
    assert known is not None
    assert (known.state, known.attempt, known.seen_at) == (JobState.QUEUED, 2, NOW + 3 * MINUTE)
    assert (known.conclusion, known.runner_name, known.lease_id, known.cleared_at, known.pool) == ("", "", "", None, None)
    assert runs.known(database, "github", "acme/train", "70", 1) is None, "who runs it again counts"
    cleared(database, known, now=NOW + 3 * MINUTE)
    with database.read() as conn:
        assert [one.id for one in jobs.waiting(conn)] == [first.id]


def test_an_answer_that_was_asked_for_before_the_end_was_heard_begins_nothing(database: Database) -> None:
    ended(database)
    assert reruns.reopen(database, [a_job()], NOW, NOW + MINUTE) == 0
    running = a_job(state=JobState.IN_PROGRESS)
    assert reruns.reopen(database, [running], NOW, NOW + MINUTE) == 0
    assert reruns.reopen(database, [replace(running, state=JobState.COMPLETED)], NOW + MINUTE, NOW + MINUTE) == 0


def test_a_doubt_is_a_question_until_the_forge_has_settled_it(database: Database) -> None:
    first = ended(database)
    assert reruns.doubted(database, "github", NOW + MINUTE, 9) == []
    reruns.doubt(database, first.id, NOW + MINUTE)
    assert [one.id for one in reruns.doubted(database, "github", NOW + MINUTE, 9)] == [first.id]
    assert reruns.doubted(database, "gitlab", NOW + MINUTE, 9) == []
    reruns.settled(database, first.id, NOW)
    assert [one.id for one in reruns.doubted(database, "github", NOW + MINUTE, 9)] == [first.id], "it came since"
    reruns.settled(database, first.id, NOW + MINUTE)
    assert reruns.doubted(database, "github", NOW + MINUTE, 9) == []


def test_a_job_that_waits_is_never_doubted(database: Database) -> None:
    job = queued(database)
    reruns.doubt(database, job.id, NOW)
    assert reruns.doubted(database, "github", NOW + MINUTE, 9) == []


def test_a_strangers_job_on_our_runner_ends_the_machine(database: Database) -> None:
    lease = led_to(database, State.IDLE, runner_name="sublet-a-1", runner_id="9")
    stranger = replace(a_job("5", JobState.IN_PROGRESS, runner_name="sublet-a-1"), repository="evil/miner")
    assert intruders.turn_out(database, replace(stranger, state=JobState.QUEUED), NOW) == ""
    assert intruders.turn_out(database, replace(stranger, runner_name="sublet-other"), NOW) == ""
    assert intruders.turn_out(database, replace(stranger, forge="gitlab"), NOW) == ""
    assert intruders.turn_out(database, stranger, NOW) == lease.name
    known = leases.get(database, lease.id)
    assert known is not None and known.destroy_asked_at is not None
    assert known.asked_reason is Reason.JOB_REFUSED
    assert "evil/miner" in known.asked_text


def test_a_runner_whose_name_the_forge_has_forgotten_is_known_by_its_number(database: Database) -> None:
    lease = led_to(database, State.BUSY, runner_name="sublet-a-1", runner_id="9")
    queued(database)
    over = a_job(state=JobState.COMPLETED, conclusion="success", runner_id="9", completed_at=NOW)
    jobs.record(database, [told(over)], NOW + SECOND)
    known = leases.get(database, lease.id)
    assert known is not None
    assert (known.job_id, known.job_conclusion) == ("github-1", "success")


def test_a_lease_for_one_job_is_bound_to_it_once_its_node_says_that_it_began(database: Database) -> None:
    job = queued(database)
    made_for = replace(KEY, job=job.id)
    waits = led_to(database, State.IDLE, lease=a_lease(1, key=made_for))
    jobs.record(database, [told(a_job(state=JobState.IN_PROGRESS))], NOW + SECOND)
    known = leases.get(database, waits.id)
    assert known is not None and known.job_id == "", "another runner may have it"
    assert nodes.event(database, waits.id, "job_started", NOW, {}, NOW + SECOND) is False, "it never joined"
    works = led_to(database, State.BUSY, lease=a_lease(2, key=made_for))
    jobs.record(database, [told(a_job(state=JobState.COMPLETED, conclusion="success"))], NOW + 2 * SECOND)
    known = leases.get(database, works.id)
    assert known is not None and (known.job_id, known.job_conclusion) == (job.id, "success")
    known = leases.get(database, waits.id)
    assert known is not None and known.job_id == ""


def test_a_job_may_be_run_again_before_anybody_told_of_its_end(database: Database) -> None:
    queued(database)
    jobs.record(database, [told(a_job(state=JobState.IN_PROGRESS, runner_name="theirs"))], NOW + SECOND)
    running = a_job(state=JobState.IN_PROGRESS, runner_name="theirs")
    assert reruns.reopen(database, [running], NOW + MINUTE, NOW + MINUTE) == 0, "it is the same run"
    assert reruns.reopen(database, [replace(running, attempt=2)], NOW + MINUTE, NOW + MINUTE) == 1, "another try of it"
    assert reruns.reopen(database, [a_job(attempt=2)], NOW + MINUTE, NOW + 2 * MINUTE) == 1, "no run goes back to waiting"
    known = jobs.get(database, "github-1")
    assert known is not None and known.state is JobState.QUEUED


def test_when_it_was_made_says_nothing_of_a_later_run(database: Database) -> None:
    ended(database)
    made = NOW - 5 * 60 * MINUTE
    reruns.reopen(database, [a_job(queued_at=made)], NOW + MINUTE, NOW + MINUTE)
    jobs.advance(database, [told(a_job(queued_at=made), guid="")], NOW + 2 * MINUTE)
    known = jobs.get(database, "github-1")
    assert known is not None and known.queued_at == known.seen_at == NOW + MINUTE


def test_a_late_word_on_the_run_before_binds_nothing_and_ends_nothing(database: Database) -> None:
    first = led_to(database, State.BUSY, lease=a_lease(1), runner_name="sublet-a-1", runner_id="9")
    queued(database)
    running = a_job(state=JobState.IN_PROGRESS, runner_name="sublet-a-1", runner_id="9")
    jobs.record(database, [told(running)], NOW + SECOND)
    assert reruns.reopen(database, [a_job(attempt=2)], NOW + MINUTE, NOW + MINUTE) == 1
    over = leases.get(database, first.id)
    assert over is not None and over.job_done_at is not None, "the forge says that this run has ended"
    late = a_job(state=JobState.COMPLETED, conclusion="success", runner_name="sublet-a-1", runner_id="9", completed_at=NOW)
    jobs.record(database, [told(late), told(running)], NOW + 2 * MINUTE)
    known = jobs.get(database, "github-1")
    assert known is not None
    assert (known.state, known.lease_id, known.conclusion) == (JobState.QUEUED, "", "")
    second = led_to(database, State.BUSY, lease=a_lease(2), runner_name="sublet-b-1", runner_id="10")
    now = a_job(state=JobState.IN_PROGRESS, attempt=2, runner_name="sublet-b-1", runner_id="10")
    jobs.record(database, [told(now)], NOW + 3 * MINUTE)
    jobs.record(database, [told(late)], NOW + 4 * MINUTE)
    known = jobs.get(database, "github-1")
    assert known is not None and (known.state, known.lease_id) == (JobState.IN_PROGRESS, second.id)


def test_the_machine_that_took_the_second_run_before_anybody_looked_is_not_taken_for_the_firsts(database: Database) -> None:
    first = led_to(database, State.BUSY, lease=a_lease(1), runner_name="sublet-a-1", runner_id="9")
    queued(database)
    jobs.record(database, [told(a_job(state=JobState.IN_PROGRESS, runner_name="sublet-a-1", runner_id="9"))], NOW + SECOND)
    second = led_to(database, State.BUSY, lease=a_lease(2), runner_name="sublet-b-1", runner_id="10")
    now = a_job(state=JobState.IN_PROGRESS, attempt=2, runner_name="sublet-b-1", runner_id="10")
    with database.write() as conn:  # its node's word had bound it
        conn.execute(sa.update(lease).where(lease.c.id == second.id).values(job_id="github-1"))
    assert reruns.reopen(database, [now], NOW + MINUTE, NOW + MINUTE) == 1
    jobs.record(database, [told(now)], NOW + MINUTE)
    over, works, known = leases.get(database, first.id), leases.get(database, second.id), jobs.get(database, "github-1")
    assert over is not None and works is not None and known is not None
    assert over.job_done_at is not None
    assert works.job_done_at is None, "it is busy with the run that the forge tells of"
    assert known.lease_id == second.id
