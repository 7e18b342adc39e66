"""A job counts as demand once it is placed and its run may spend; each run is asked for once."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from app.core.model import Job, JobState, Run
from app.core.states import State
from app.store import jobs, runs
from app.store.db import Database
from app.store.tables import job as job_table
from tests.store.nouns import KEY, NOW, SCOPE, SECOND, a_job, a_run, again, cleared, led_to, queued, told

MINUTE = timedelta(minutes=1)


def yes(_: Run) -> str:
    return ""


def no(_: Run) -> str:
    return "The code comes from a fork."


def enlist(db: Database, judge: runs.Judge = yes) -> int:
    return runs.enlist(db, lambda _: (KEY.pool, SCOPE, ""), judge, NOW, 100)


def demanded(db: Database) -> list[str]:
    with db.read() as conn:
        return [job.id for job in jobs.waiting(conn)]


def found(db: Database, key: str = "1") -> Job:
    job = jobs.get(db, f"github-{key}")
    assert job is not None
    return job


def keys(asked: tuple[Job, ...]) -> list[str]:
    return [job.key for job in asked]


def test_a_placed_job_is_no_demand_before_its_run_was_looked_at(database: Database) -> None:
    jobs.record(database, [told(a_job())], NOW)
    assert (enlist(database), enlist(database)) == (1, 0)
    assert (found(database).pool, demanded(database)) == (KEY.pool, [])
    assert runs.tell(database, [(found(database), a_run(found(database)))], yes, NOW + SECOND) == 1
    assert (found(database).cleared_at, demanded(database)) == (NOW + SECOND, ["github-1"])
    assert runs.known(database, "github", "acme/train", "70", 1) == a_run(found(database))
    assert runs.known(database, "github", "acme/train", "70", 2) is None


def test_one_answer_settles_every_job_of_the_run_and_those_that_come_later(database: Database) -> None:
    jobs.record(database, [told(a_job(str(number))) for number in range(3)], NOW)
    enlist(database)
    asked = runs.questions(database, "github", NOW, 10).runs
    assert len(asked) == 1
    assert runs.tell(database, [(asked[0], a_run(asked[0]))], yes, NOW) == 3
    jobs.record(database, [told(a_job("9"))], NOW)
    enlist(database)
    assert len(demanded(database)) == 4
    assert runs.questions(database, "github", NOW, 10) == runs.Questions()


def test_a_refused_run_makes_its_jobs_nobodys_with_the_sentence(database: Database) -> None:
    jobs.record(database, [told(a_job())], NOW)
    enlist(database)
    runs.tell(database, [(found(database), a_run(found(database)))], no, NOW)
    assert (found(database).not_ours, found(database).pool, demanded(database)) == (no(a_run(a_job())), None, [])


@pytest.mark.parametrize(
    ("answer", "why"),
    [(None, "no longer has the run"), (Run("github", "evil/x", "70", event="push"), "github says evil/x")],
)
def test_an_answer_that_rules_the_run_out_outranks_the_rules(database: Database, answer: Run | None, why: str) -> None:
    jobs.record(database, [told(a_job())], NOW)
    enlist(database)
    runs.tell(database, [(found(database), answer)], yes, NOW)
    assert why in found(database).not_ours
    assert runs.known(database, "github", "acme/train", "70", 1) is None


def test_a_job_without_a_run_is_nobodys(database: Database) -> None:
    jobs.record(database, [told(a_job(run_id=""))], NOW)
    enlist(database)
    assert "nobody can say whose code it is" in found(database).not_ours


def test_a_waiting_job_and_one_on_somebody_elses_runner_are_no_questions(database: Database) -> None:
    waits, elsewhere = a_job("1", JobState.WAITING, run_id="1"), a_job("2", JobState.IN_PROGRESS, run_id="2")
    jobs.record(database, [told(waits), told(elsewhere), told(a_job("3", run_id="3"))], NOW)
    enlist(database)
    assert keys(runs.questions(database, "github", NOW, 10).runs) == ["3"]


def test_a_refused_job_that_runs_on_a_lease_all_the_same_takes_the_lease_down(database: Database) -> None:
    """What its environment said at its start was a lie; the forge's word comes after."""
    lease = led_to(database, State.BUSY, runner_name="brave-1")
    jobs.record(database, [told(a_job(state=JobState.IN_PROGRESS, runner_name="brave-1"))], NOW)
    enlist(database)
    assert keys(runs.questions(database, "github", NOW, 10).runs) == ["1"]
    runs.tell(database, [(found(database), a_run(found(database)))], no, NOW)
    assert again(database, lease).destroy_asked_at == NOW


def test_without_an_answer_a_run_is_asked_for_again_after_growing_pauses(database: Database) -> None:
    jobs.record(database, [told(a_job())], NOW)
    enlist(database)
    now = NOW
    for pause in (5, 10, 20, 40, 80, 160, 300, 300):
        runs.put_off_run(database, found(database), "It did not answer.", now)
        early = now + timedelta(seconds=pause) - SECOND
        assert runs.questions(database, "github", early, 10).runs == ()
        now += timedelta(seconds=pause)
        assert keys(runs.questions(database, "github", now, 10).runs) == ["1"]
        now += 2 * MINUTE  # what an engine was given on PostgreSQL is free again
    assert found(database).wait == "It did not answer."


def test_a_forge_that_is_left_alone_is_not_asked_and_all_its_jobs_say_why(database: Database) -> None:
    jobs.record(database, [told(a_job()), told(a_job("2", labels=None, run_id="2"))], NOW)
    enlist(database)
    runs.put_off_forge(database, "github", "Slow down.", NOW + MINUTE)
    assert {found(database, key).wait for key in "12"} == {"Slow down."}
    assert runs.questions(database, "github", NOW, 10) == runs.Questions(quiet="Slow down.")
    later = runs.questions(database, "github", NOW + MINUTE, 10)
    assert (keys(later.labels), keys(later.runs)) == (["2"], ["1"])


def test_a_question_that_was_put_off_makes_room_for_a_younger_one(database: Database) -> None:
    jobs.record(database, [told(a_job(str(number), labels=None)) for number in range(3)], NOW)
    for number in range(2):
        runs.put_off_job(database, found(database, str(number)), "403.", NOW)
    assert keys(runs.questions(database, "github", NOW, 2).labels) == ["2"]


def test_several_engines_never_ask_the_same(database: Database) -> None:
    """On PostgreSQL; an SQLite file has one engine."""
    jobs.record(database, [told(a_job(str(number), run_id=str(number))) for number in range(4)], NOW)
    jobs.record(database, [told(a_job("9", labels=None))], NOW)
    enlist(database)
    first, second = (runs.questions(database, "github", NOW, 10) for _ in range(2))
    assert (len(first.runs), len(first.labels)) == (4, 1)
    if database.postgresql:
        assert second == runs.Questions()
        assert len(runs.questions(database, "github", NOW + runs.CLAIMED, 10).runs) == 4, "whoever got them may have died"


def test_new_settings_are_asked_about_every_open_job(database: Database) -> None:
    queued(database, "1")
    jobs.record(database, [told(a_job("2"))], NOW)
    jobs.place(database, "github-2", pool=None, scope=None, not_ours="No pool serves gpu.")
    assert runs.reconsider(database, lambda _: True, yes) == 1
    cleared(database)
    assert runs.reconsider(database, lambda _: True, yes) == 0
    assert runs.reconsider(database, lambda _: True, no) == 2
    assert demanded(database) == []
    enlist(database, no)
    assert found(database).not_ours == no(a_run(a_job()))
    assert runs.reconsider(database, lambda _: True, yes) == 2
    enlist(database)
    assert len(demanded(database)) == 2
    assert runs.reconsider(database, lambda one: one.key == "1", yes) == 1


def test_a_job_cleared_before_runs_were_kept_stays_cleared(database: Database) -> None:
    """An upgrade must not take back machines that are on their way."""
    queued(database)
    with database.write() as conn:
        conn.execute(sa.text("DELETE FROM run"))
    assert runs.reconsider(database, lambda _: True, no) == 0
    assert demanded(database) == ["github-1"]
    with database.read() as conn:
        assert conn.scalar(sa.select(job_table.c.asks)) == 0
