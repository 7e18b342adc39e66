"""Every delivery counts once, and a job only moves forward."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.model import Job, JobState, Lease
from app.core.states import State
from app.store import jobs, leases
from app.store.db import Database
from app.store.jobs import Record, Recorded
from tests.store.nouns import NOW, SCOPE, SECOND, a_job, a_lease, again, led_to, planned, queued, told, without_time

WAITING, QUEUED, IN_PROGRESS, COMPLETED = JobState


def test_a_queued_job_is_recorded_whole(database: Database) -> None:
    job = a_job(name="train", workflow="ci.yml", url="https://forge.example/1", queued_at=NOW, installation="77", run_id="9")
    assert jobs.record(database, [told(job)], NOW) == [Recorded.RECORDED]
    assert jobs.get(database, job.id) == replace(job, seen_at=NOW, heard_at=NOW, heard_by="webhook")


def test_the_same_delivery_counts_once_in_one_group_and_in_the_next(database: Database) -> None:
    first = told(a_job(), "a")
    assert jobs.record(database, [first, first], NOW) == [Recorded.RECORDED, Recorded.DUPLICATE]
    assert jobs.record(database, [first, told(a_job("2"), "b")], NOW) == [Recorded.DUPLICATE, Recorded.RECORDED]


def test_one_guid_at_two_forges_is_two_deliveries(database: Database) -> None:
    here, there = (
        told(a_job(), "a"),
        Record("gitlab", "a", "Job Hook", "build", replace(a_job(), id="gitlab-1", forge="gitlab")),
    )
    assert jobs.record(database, [here, there], NOW) == [Recorded.RECORDED, Recorded.RECORDED]


def test_what_a_poll_tells_has_no_guid_and_is_never_a_duplicate(database: Database) -> None:
    polled = told(a_job(), "")
    assert jobs.record(database, [polled, polled], NOW) == [Recorded.RECORDED, Recorded.RECORDED]


def test_a_queued_after_completed_never_reopens_the_job(database: Database) -> None:
    done = a_job(state=COMPLETED, conclusion="success")
    assert jobs.record(database, [told(done), told(a_job())], NOW) == [Recorded.RECORDED, Recorded.STALE]
    assert jobs.record(database, [told(a_job(state=IN_PROGRESS))], NOW) == [Recorded.STALE]
    found = jobs.get(database, done.id)
    assert found is not None
    assert (found.state, found.conclusion) == (COMPLETED, "success")


def test_a_late_delivery_still_brings_the_facts_that_were_missing(database: Database) -> None:
    jobs.record(database, [told(a_job(state=COMPLETED, labels=None, conclusion="success"))], NOW)
    jobs.record(database, [told(a_job(name="train", queued_at=NOW))], NOW)
    found = jobs.get(database, "github-1")
    assert found is not None
    assert (found.name, found.labels, found.queued_at, found.conclusion) == ("train", ("gpu", "rubin"), NOW, "success")


def test_a_queued_delivery_cannot_know_a_runner_a_start_or_a_conclusion(database: Database) -> None:
    jobs.record(database, [told(a_job(runner_name="brave", runner_id="1", started_at=NOW, conclusion="success"))], NOW)
    found = jobs.get(database, "github-1")
    assert found is not None
    assert (found.runner_name, found.runner_id, found.started_at, found.conclusion) == ("", "", None, "")


def test_a_delivery_without_a_job_is_kept_for_the_count_and_ignored(database: Database) -> None:
    ping = told(None, "p")
    assert jobs.record(database, [ping], NOW) == [Recorded.IGNORED]
    assert jobs.record(database, [ping], NOW) == [Recorded.DUPLICATE]


def test_hostile_strings_spoil_neither_the_row_nor_the_group(database: Database) -> None:
    nasty = a_job(name="a\x00b\ud800", url="u" * 9_000, labels=("\x00",) * 500, attempt=10**20, runner_id="9" * 900)
    unusable = replace(a_job(), id="x" * 121)
    long = told(a_job("3"), "g" * 5_000)
    assert jobs.record(database, [told(nasty), told(unusable), long, told(a_job("2"), "\ud800")], NOW) == [
        Recorded.RECORDED,
        Recorded.IGNORED,
        Recorded.RECORDED,
        Recorded.RECORDED,
    ]
    assert jobs.record(database, [long], NOW) == [Recorded.DUPLICATE]
    found = jobs.get(database, nasty.id)
    assert found is not None
    assert (found.name, len(found.url), len(found.labels or ())) == ("a\ufffdb\ufffd", 600, jobs.MOST_LABELS)


def test_nothing_to_record_is_no_transaction(database: Database) -> None:
    assert jobs.record(database, [], NOW) == []


def test_several_services_record_the_same_deliveries_and_each_counts_once(database: Database) -> None:
    records = [told(a_job(str(number)), f"d{number}") for number in range(60)]
    answers: list[Recorded] = []

    def work(part: int) -> None:
        for start in range(0, 60, 20):
            order = records[start : start + 20]
            answers.extend(jobs.record(database, order if part % 2 else order[::-1], NOW))

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(Recorded.RECORDED) == 60
    assert answers.count(Recorded.DUPLICATE) == 180


# --- bind


def bound(db: Database, lease: Lease) -> tuple[str, object, object, str]:
    now = again(db, lease)
    return now.job_id, now.job_started_at, now.job_done_at, now.job_conclusion


def test_a_job_is_bound_to_the_lease_whose_runner_it_names(database: Database) -> None:
    lease = led_to(database, State.IDLE, runner_name="brave-1")
    running = a_job(state=IN_PROGRESS, runner_name="brave-1", started_at=NOW + SECOND)
    jobs.record(database, [told(running)], NOW + 2 * SECOND)
    assert bound(database, lease) == ("github-1", NOW + SECOND, None, "")
    held = again(database, lease)
    assert (held.due, held.version) == (NOW + 2 * SECOND, lease.version + 1)
    at = NOW + 2 * SECOND
    assert jobs.get(database, "github-1") == replace(running, seen_at=at, heard_at=at, heard_by="webhook", lease_id=lease.id)

    done = a_job(state=COMPLETED, runner_name="brave-1", conclusion="failure", completed_at=NOW + 9 * SECOND)
    jobs.record(database, [told(done)], NOW + 10 * SECOND)
    assert bound(database, lease) == ("github-1", NOW + SECOND, NOW + 9 * SECOND, "failure")
    jobs.record(database, [told(done)], NOW + 11 * SECOND)
    assert again(database, lease).version == lease.version + 2, "what is not new wakes nobody"


def test_the_first_job_keeps_the_runner(database: Database) -> None:
    lease = led_to(database, State.IDLE, runner_name="brave-1")
    first, second = (a_job(key, IN_PROGRESS, runner_name="brave-1") for key in "12")
    jobs.record(database, [told(first), told(second)], NOW)
    jobs.record(database, [told(replace(second, state=COMPLETED, conclusion="success"))], NOW)
    assert bound(database, lease) == ("github-1", NOW, None, "")
    thief = jobs.get(database, "github-2")
    assert thief is not None
    assert thief.lease_id == ""


@pytest.mark.parametrize("name", ["", "other"])
def test_an_empty_or_a_foreign_name_matches_no_lease(database: Database, name: str) -> None:
    lease = led_to(database, State.IDLE, runner_name="")
    jobs.record(
        database, [told(a_job(state=IN_PROGRESS, runner_name=name)), told(a_job("2", COMPLETED, runner_name=name))], NOW
    )
    assert bound(database, lease) == ("", None, None, "")


def test_another_forge_cannot_name_our_runner(database: Database) -> None:
    lease = led_to(database, State.IDLE, runner_name="brave-1")
    alien = replace(a_job(state=IN_PROGRESS, runner_name="brave-1"), id="gitlab-1", forge="gitlab")
    jobs.record(database, [Record("gitlab", "x", "Job Hook", "build", alien)], NOW)
    assert bound(database, lease) == ("", None, None, "")


def test_the_forges_clock_moves_no_time_out_of_the_leases_life(database: Database) -> None:
    lease = led_to(database, State.IDLE, runner_name="brave-1")
    times: dict[str, Any] = {"started_at": NOW - timedelta(days=1), "completed_at": NOW + timedelta(days=1)}
    jobs.record(database, [told(a_job(state=COMPLETED, runner_name="brave-1", **times))], NOW + SECOND)
    assert bound(database, lease)[1:3] == (NOW, NOW + SECOND)


RUNS = count(1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_and_any_repetition_of_deliveries_ends_the_same(database: Database, data: st.DataObject) -> None:
    """Also when some are lost, some come twice under new guids, and commits group them anyhow."""
    run = next(RUNS)
    facts: dict[str, Any] = {
        "queued_at": NOW,
        "name": "train",
        "url": "https://forge.example/1",
        "actor": "ada",
        "installation": "7",
    }
    later = {"runner_name": f"runner-{run}", "runner_id": "5", "started_at": NOW + SECOND}
    last = {"conclusion": "success", "completed_at": NOW + 2 * SECOND}
    views = {WAITING: facts, QUEUED: facts, IN_PROGRESS: facts | later, COMPLETED: facts | later | last}
    sent: list[tuple[JobState, int]] = data.draw(
        st.lists(st.tuples(st.sampled_from(list(JobState)), st.integers(0, 2)), min_size=1, max_size=8)
    )
    hidden = data.draw(st.fixed_dictionaries({state: st.sets(st.sampled_from(sorted(views[state]))) for state in JobState}))

    def play(side: str, order: list[tuple[JobState, int]], cuts: set[int]) -> tuple[Job, Lease]:
        lease = a_lease(
            1, id=f"{run}{side}", name=f"{run}{side}", tag=f"{run}{side}", runner_name=f"{later['runner_name']}{side}"
        )
        planned(database, lease)
        group: list[Record] = []
        for place, (state, copy) in enumerate(order):
            seen = {key: value for key, value in views[state].items() if key not in hidden[state]}
            if "runner_name" in seen:
                seen["runner_name"] = lease.runner_name
            group.append(told(a_job(f"{run}{side}", state, **seen), f"{run}{side}{state}{copy}"))
            if place in cuts:
                jobs.record(database, group, NOW + 5 * SECOND)
                group = []
        jobs.record(database, group, NOW + 5 * SECOND)
        job = jobs.get(database, f"github-{run}{side}")
        found = leases.get(database, lease.id)
        assert job is not None
        assert found is not None
        return job, found

    one, lease_one = play("a", sorted(set(sent)), set(range(9)))
    other, lease_other = play("b", data.draw(st.permutations(sent)), data.draw(st.sets(st.integers(0, 8))))
    same = replace(
        other,
        id=one.id,
        key=one.key,
        runner_name=other.runner_name.replace("b", "a"),
        lease_id=other.lease_id.replace("b", "a"),
    )
    assert without_time(same) == without_time(one)
    for name in ("job_started_at", "job_done_at", "job_conclusion"):
        assert getattr(lease_one, name) == getattr(lease_other, name), name
    assert bool(lease_one.job_id) == bool(lease_other.job_id)
    assert one.state is max((state for state, _ in sent), key=list(JobState).index)


# --- place, and what is seen


def test_a_job_that_is_not_ours_says_so(database: Database) -> None:
    jobs.record(database, [told(a_job())], NOW)
    assert jobs.place(database, "github-1", pool=None, scope=None, not_ours="No pool serves gpu.")
    assert not jobs.place(database, "github-9", pool="other", scope=SCOPE, not_ours="")
    assert [job.not_ours for job in jobs.listing(database, "not_ours")] == ["No pool serves gpu."]
    assert jobs.counts(database) == {"waiting": 0, "started": 0, "not_ours": 1}


def test_scopes_are_those_of_jobs_that_were_placed(database: Database) -> None:
    queued(database)
    jobs.record(database, [told(a_job("2"))], NOW)
    assert jobs.scopes_since(database, NOW) == [("github", "rubin", SCOPE)]
    assert jobs.scopes_since(database, NOW + SECOND) == []


def test_when_a_job_was_heard_of_last_is_kept_but_not_written_at_every_word(database: Database) -> None:
    jobs.record(database, [told(a_job(), "")], NOW)
    later = NOW + jobs.HEARD_AGAIN + SECOND
    for now, heard in ((NOW + SECOND, NOW), (later, later)):
        jobs.record(database, [told(a_job())], now)
        found = jobs.get(database, "github-1")
        assert found is not None
        assert (found.heard_at, found.heard_by) == (heard, "poll")


def test_the_tabs_of_the_queue_page_by_time_and_miss_none(database: Database) -> None:
    jobs.record(database, [told(a_job(str(number))) for number in range(7)], NOW)
    jobs.record(database, [told(a_job("8", IN_PROGRESS))], NOW + SECOND)
    assert [job.key for job in jobs.listing(database, "started")] == ["8"]
    seen: list[str] = []
    before = None
    while page := jobs.listing(database, "waiting", limit=2, before=before):
        seen += [job.key for job in page]
        before = page[-1].seen_at
    assert seen == ["6", "5", "4", "3", "2", "1", "0"]
    assert jobs.counts(database) == {"waiting": 7, "started": 1, "not_ours": 0}


def test_an_empty_address_finds_no_job(database: Database) -> None:
    jobs.record(database, [told(a_job(url=""))], NOW)
