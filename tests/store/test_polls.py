"""Whose turn it is to look for what webhooks missed, and where."""

from __future__ import annotations

from datetime import timedelta

from app.core.model import JobState
from app.store import jobs, polls, runs, sweep
from app.store.db import Database
from tests.store.nouns import NOW, SECOND, a_job, queued, told

MINUTE = timedelta(minutes=1)
LONG_AGO = NOW - timedelta(days=9)


def test_a_round_is_taken_once_in_a_period_and_once_after_a_start(database: Database) -> None:
    def take(now: int, started: int = 0) -> bool:
        at, since = NOW + now * MINUTE, NOW + started * MINUTE
        return polls.take(database, "poll github", at, 5 * MINUTE, since) is not None

    assert [take(0), take(0), take(4), take(5), take(6)] == [True, False, False, True, False]
    assert [take(7, started=7), take(7, started=7), take(12, started=7)] == [True, False, True]


def test_a_round_remembers_where_it_was_and_what_came_of_it(database: Database) -> None:
    first = polls.take(database, "redeliver github", NOW, MINUTE, NOW)
    assert first is not None and first.since is None
    polls.finish(database, first, "3 did not arrive.", NOW - MINUTE)
    second = polls.take(database, "redeliver github", NOW + MINUTE, MINUTE, NOW)
    assert second is not None
    assert (second.since, second.said) == (NOW - MINUTE, "3 did not arrive.")
    polls.finish(database, second, "Refused.", None, NOW + 60 * MINUTE)
    assert polls.take(database, "redeliver github", NOW + 59 * MINUTE, MINUTE, NOW) is None
    assert [(one.name, one.said) for one in polls.rounds(database)] == [("redeliver github", "Refused.")]


def test_repositories_are_listed_that_have_jobs_or_a_name_those_listed_longest_ago_first(database: Database) -> None:
    queued(database, "1", installation="7")
    jobs.record(database, [told(a_job("2", repository_id="9"))], NOW)

    def places(*named: str, now: timedelta = MINUTE) -> list[polls.Place]:
        return polls.places(database, "github", NOW - MINUTE, named, NOW + now)

    assert places("acme/other", "ACME/train") == [("acme/other", ""), ("acme/train", "7")]
    polls.listed(database, "github", "acme/other", NOW)
    assert places("acme/other") == [("acme/train", "7"), ("acme/other", "")]
    polls.listed(database, "github", "acme/train", NOW, ask_after=NOW + 60 * MINUTE, note="403")
    assert places() == []
    assert places(now=60 * MINUTE) == [("acme/train", "7")]
    assert polls.places(database, "gitlab", LONG_AGO, (), NOW) == []


def test_a_repository_whose_jobs_are_long_over_is_left_alone(database: Database) -> None:
    job = queued(database)
    assert polls.places(database, "github", NOW + SECOND, (), NOW) == [("acme/train", "")], "its job is still open"
    jobs.record(database, [told(a_job(job.key, JobState.COMPLETED))], NOW)
    assert polls.places(database, "github", NOW + SECOND, (), NOW) == []


def test_what_a_whole_listing_lacks_is_unmentioned_unless_it_was_heard_of_since(database: Database) -> None:
    for key in "123":
        queued(database, key)
    jobs.record(database, [told(a_job("2"))], NOW + MINUTE)
    lacking = polls.unmentioned(database, "github", "acme/train", ["github-3"], NOW + SECOND, NOW)
    assert [job.key for job in lacking] == ["1"]


def test_a_job_of_which_only_its_making_was_heard_is_asked_for_too(database: Database) -> None:
    """GitLab's hooks tell no labels: such a job is in no pool yet, and if the rest is lost it would wait for ever.

    But no list has jobs that wait for a person, and there may be many: they are asked for in turn, not in each round."""
    jobs.record(database, [told(a_job("1", state=JobState.WAITING, labels=None))], NOW)
    assert polls.unmentioned(database, "github", "acme/train", [], NOW + SECOND, NOW) == []
    assert [job.key for job in polls.silent(database, "github", NOW + SECOND, NOW, 5)] == ["1"]
    jobs.place(database, "github-1", pool=None, scope=None, not_ours="Not allowed here.")
    assert polls.silent(database, "github", NOW + SECOND, NOW, 5) == []


def test_what_was_put_off_is_not_asked_for_in_the_next_round(database: Database) -> None:
    job = queued(database)
    runs.put_off_job(database, job, "It did not say.", NOW)
    assert polls.unmentioned(database, "github", "acme/train", [], NOW + SECOND, NOW) == []
    assert [one.id for one in polls.unmentioned(database, "github", "acme/train", [], NOW + SECOND, NOW + MINUTE)] == [job.id]


def test_a_silent_job_is_asked_for_the_most_silent_first_and_not_too_soon_again(database: Database) -> None:
    for place, key in enumerate("123"):
        queued(database, key, NOW + place * MINUTE)
    late = NOW + 60 * MINUTE

    def silent() -> list[str]:
        return [job.key for job in polls.silent(database, "github", NOW + MINUTE + SECOND, late, 10)]

    first = jobs.get(database, "github-1")
    assert silent() == ["1", "2"]
    assert first is not None
    runs.put_off_job(database, first, "403.", late)
    assert (silent(), dict(polls.doubts(database, ["github-1", "github-2"]))) == (["2"], {"github-1": 1, "github-2": 0})
    jobs.record(database, [told(a_job("1"))], late)
    assert polls.doubts(database, ["github-1"])["github-1"] == 0, "a word on it ends the doubt"


def test_a_delivery_that_came_is_not_owed_and_one_that_never_comes_not_for_ever(database: Database) -> None:
    jobs.record(database, [told(a_job(), "came")], NOW)
    assert polls.owed(database, "github", ["came", "lost"], NOW) == (["lost"], [])
    now = NOW
    for minutes in (2, 10, 50, 250):
        polls.asked(database, "github", "lost", now)
        now += minutes * MINUTE
        open_ones = polls.owed(database, "github", ["lost"], now - SECOND)
        assert open_ones == (([], []) if minutes == 250 else ([], ["lost"]))
    assert polls.owed(database, "github", ["lost"], now) == ([], [])
    assert sweep.tidy(database, now + polls.KEPT_MISSES + SECOND) >= 1
