"""Leases are planned once, held by one worker at a time, and only ever move forward."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from app.core.model import FAILED, Ask, Lease, NodeFacts, Reason
from app.core.policy import Plan, Snapshot
from app.core.states import IllegalMove, State
from app.store import audit, jobs, leases, tables
from app.store.db import Database
from providers.contract import Need
from tests.store.nouns import HOLD, NOW, SECOND, a_lease, again, claimed, led_to, planned, queued


def moved(
    db: Database, held: Lease, to: State, reason: Reason | None = None, text: str = "", values: Mapping[str, Any] | None = None
) -> bool:
    told = values or {}
    return leases.move(db, held, to, reason=reason, text=text, values=told, now=NOW, deadline=None, due=NOW) is not None


def rested(db: Database, held: Lease, seconds: float = 30, note: str = "", failed: bool = False, **values: Any) -> bool:
    until = NOW + timedelta(seconds=seconds)
    return leases.rest(db, held, until=until, note=note, values=values, failed=failed, now=NOW)


# --- plan


def test_policy_sees_what_waits_what_comes_how_much_lives_and_what_failed_lately(database: Database) -> None:
    job, past = queued(database), NOW - timedelta(hours=1)
    led_to(database, State.RELEASED, past, a_lease(1, past), reason=Reason.BOOT_TIMEOUT)
    led_to(database, State.RELEASED, NOW - SECOND, a_lease(2, NOW - SECOND), reason=Reason.JOB_DONE)
    served = led_to(database, State.RELEASED, lease=a_lease(3), reason=Reason.JOB_DONE)
    failed = led_to(database, State.DESTROYING, lease=a_lease(4), reason=Reason.BOOT_TIMEOUT)
    led_to(database, State.BUSY, lease=a_lease(5), job_id="github-5")
    (coming,) = planned(database, a_lease(6))
    seen: list[Snapshot] = []

    def look(snapshot: Snapshot) -> Plan:
        seen.append(snapshot)
        return Plan()

    assert leases.plan(database, look, NOW) == Plan()
    slim = tuple(replace(again(database, one), decision=None) for one in (failed, served))
    (snapshot,) = seen
    assert (snapshot.alive, snapshot.ended, snapshot.now) == ({"rubin": 3}, slim, NOW)
    waits, comes = snapshot.queued[0], snapshot.coming[0]
    assert (len(snapshot.queued), waits.id, waits.pool, waits.scope, waits.labels) == (
        1,
        job.id,
        job.pool,
        job.scope,
        job.labels,
    )
    assert (waits.queued_at, waits.cleared_at, waits.state) == (job.queued_at, job.cleared_at, job.state)
    assert (len(snapshot.coming), comes.id, comes.name, comes.key) == (1, coming.id, coming.name, coming.key)
    assert (comes.state, comes.created_at, comes.note) == (coming.state, coming.created_at, coming.note)


def test_where_no_job_waits_nothing_is_counted(database: Database) -> None:
    led_to(database, State.BUSY, lease=a_lease(1), job_id="github-5")
    led_to(database, State.DESTROYING, lease=a_lease(2), reason=Reason.BOOT_TIMEOUT)
    seen: list[Snapshot] = []

    def look(snapshot: Snapshot) -> Plan:
        seen.append(snapshot)
        return Plan()

    leases.plan(database, look, NOW)
    assert seen == [Snapshot((), (), {}, (), NOW)]


def test_the_index_of_failures_knows_the_same_words_as_the_core() -> None:
    words = {word.strip("' ") for word in str(tables.SERVED).partition("(")[2].rstrip(")").split(",")}
    assert words == {str(reason) for reason in Reason} - {str(reason) for reason in FAILED}


def test_a_lease_comes_back_as_policy_drew_it(database: Database) -> None:
    need = Need(gpu="rubin", gpus=2, regions=frozenset({"sg", "de"}), max_price_per_hour=Decimal("1.10"), spot=True)
    drawn = a_lease(need=need, ask=Ask(spot=True, regions=frozenset({"sg"})), image="acme/train:1")
    drawn = replace(drawn, price_per_hour=Decimal("0.0420"), granularity=timedelta(minutes=1), minimum=timedelta(seconds=90))
    drawn = replace(drawn, facts=NodeFacts(gpus=({"name": "R100", "memory_mib": 9},), driver="600.1", memory_mib=1))
    planned(database, drawn)
    assert again(database, drawn) == drawn
    assert [span.state for span in leases.spans(database, drawn.id)] == [State.PLANNED]
    assert [entry.action for entry in audit.listing(database, f"lease:{drawn.id}")] == ["lease.planned"]


def test_a_name_is_never_given_twice(database: Database) -> None:
    (first,) = planned(database, a_lease(1))
    twins = planned(database, a_lease(2, name=first.name), a_lease(3, name=first.name), a_lease(4))
    assert [lease.name for lease in twins] == ["brave-otter-01-2", "brave-otter-01-3", "brave-otter-04"]
    assert {lease.name for lease in leases.listing(database)} == {first.name, *(lease.name for lease in twins)}


def test_a_plan_writes_waits_and_drains(database: Database) -> None:
    job, (lease,) = queued(database), planned(database)
    plan = Plan(drain=((lease.id, Reason.JOB_GONE, "Nobody waits."),), waits={job.id: "At the ceiling.", "none": "x"})
    leases.plan(database, lambda _: plan, NOW + SECOND)
    again_job, again_lease = jobs.get(database, job.id), again(database, lease)
    assert again_job is not None
    assert again_job.wait == "At the ceiling."
    assert (again_lease.drain_asked_at, again_lease.asked_reason) == (NOW + SECOND, Reason.JOB_GONE)
    assert (again_lease.asked_text, again_lease.version) == ("Nobody waits.", 1)


def test_a_plan_that_fails_writes_nothing(database: Database) -> None:
    with pytest.raises(IntegrityError):
        planned(database, a_lease(1), a_lease(1, name="other", tag="other"))
    assert leases.live_count(database) == 0


def test_two_engines_never_plan_the_same_demand(database: Database) -> None:
    """Each would plan one lease if it saw none; however they race, there is one."""
    queued(database)
    numbers = iter(range(1, 100))
    lock = threading.Lock()

    def decide(snapshot: Snapshot) -> Plan:
        with lock:
            number = next(numbers)
        return Plan() if snapshot.coming else Plan((a_lease(number),))

    together(4, lambda _: leases.plan(database, decide, NOW))
    assert leases.live_count(database) == 1


def together(width: int, work: Callable[[int], object]) -> list[object]:
    """Run it in so many threads at the same moment; what each gave back."""
    gate = threading.Barrier(width)
    answers: list[object] = []

    def run(number: int) -> None:
        gate.wait()
        answers.append(work(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(width)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == width
    return answers


# --- claim


def test_workers_share_the_due_leases_and_each_goes_to_one(database: Database) -> None:
    planned(database, *(a_lease(number) for number in range(1, 41)))
    got: list[str] = []

    def work(number: int) -> None:
        while held := leases.claim(database, f"worker-{number}", NOW, 3, HOLD):
            got.extend(lease.id for lease in held)

    together(6, work)
    assert sorted(got) == sorted(lease.id for lease in leases.listing(database))
    assert len(got) == 40


def test_only_what_is_due_and_free_is_claimed_the_longest_due_first(database: Database) -> None:
    later, soon, first = planned(database, a_lease(1), a_lease(2, due=NOW - SECOND), a_lease(3, due=NOW - 9 * SECOND))
    planned(database, a_lease(4, due=NOW + SECOND))
    led_to(database, State.RELEASED, NOW - timedelta(days=1), a_lease(5, NOW - timedelta(days=1)))
    assert [lease.id for lease in leases.claim(database, "a", NOW, 2, HOLD)] == [first.id, soon.id]
    assert [lease.id for lease in leases.claim(database, "b", NOW, 2, HOLD)] == [later.id]


def test_a_claim_gives_the_very_row_that_a_read_gives(database: Database) -> None:
    """SQLite 3.40 answers some expressions in RETURNING otherwise than in SELECT: no credential was once "ready"."""
    planned(database)
    held = claimed(database)
    assert held == again(database, held)
    assert not held.credential_ready
    assert leases.keep(database, held, {"credential": b"sealed"}, NOW)
    held = claimed(database, NOW + HOLD)
    assert held == again(database, held)
    assert held.credential_ready


def test_a_claim_that_ran_out_is_anybodys_and_its_holder_changes_nothing_more(database: Database) -> None:
    planned(database)
    slow = claimed(database)
    assert leases.claim(database, "other", NOW + HOLD - SECOND, 10, HOLD) == []
    quick = claimed(database, NOW + HOLD)
    assert quick.claim != slow.claim
    assert not leases.keep(database, slow, {"create_key": "slow"}, NOW)
    assert not leases.keep(database, slow, {}, NOW)
    assert not rested(database, slow, note="slow")
    assert not moved(database, slow, State.LAUNCHING, text="slow")
    assert moved(database, quick, State.LAUNCHING, text="quick")
    assert not moved(database, quick, State.LAUNCHING)
    found = again(database, quick)
    assert (found.state, found.note, found.create_key) == (State.LAUNCHING, "quick", "")


def test_the_claim_reads_only_the_front_of_its_index(sqlite_url: str) -> None:
    """A query that binds the word "released" leaves the partial index unused, and nothing but the plan would tell."""
    database = Database(sqlite_url)
    engine = database._engine  # pyright: ignore[reportPrivateUsage]  the very statement is looked at
    plans: list[str] = []

    def explain(conn: sa.Connection, _cursor: object, sql: str, values: Any, *_: object) -> None:
        if "UPDATE lease" in sql and "EXPLAIN" not in sql:
            plans.append(str(conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values).all()))

    event.listen(engine, "before_cursor_execute", explain)
    planned(database, *(a_lease(number) for number in range(1, 100)))
    leases.claim(database, "a", NOW, 1, HOLD)
    database.close()
    (plan,) = plans
    assert "USING INDEX ix_lease_due (due<?)" in plan
    assert "ORDER BY" not in plan, "sorted by the index itself"


# --- keep, rest


def test_what_is_about_to_be_done_is_written_without_letting_go(database: Database) -> None:
    planned(database)
    held = claimed(database)
    offer = {"id": "o", "price_per_hour": Decimal("0.10"), "seen_at": NOW, "regions": {"b", "a"}}
    values = {"offer": offer, "price_per_hour": Decimal("0.10"), "asked_at": NOW, "granularity": timedelta(minutes=1)}
    assert leases.keep(database, held, values | {"minimum_s": 60.0, "join_sealed": b"x", "note": "a\x00b"}, NOW)
    found = again(database, held)
    assert found.claim == held.claim
    assert found.offer == {"id": "o", "price_per_hour": "0.10", "seen_at": "2026-03-01T12:00:00Z", "regions": ["a", "b"]}
    assert (found.price_per_hour, found.granularity, found.minimum) == (
        Decimal("0.10"),
        timedelta(minutes=1),
        timedelta(minutes=1),
    )
    assert leases.keep(database, held, {}, NOW)


@pytest.mark.parametrize("column", ["state", "claim", "reason", "version", "booked_at", "nonsense", "id"])
def test_a_station_cannot_write_what_is_not_its_to_write(database: Database, column: str) -> None:
    planned(database)
    with pytest.raises(ValueError, match=column):
        leases.keep(database, claimed(database), {column: "x"}, NOW)


def test_who_holds_no_claim_writes_nothing(database: Database) -> None:
    (loose,) = planned(database)
    with pytest.raises(ValueError, match="not claimed"):
        rested(database, loose)


def test_a_rest_lets_go_counts_failures_and_keeps_the_last_note(database: Database) -> None:
    planned(database)
    assert rested(database, claimed(database), 0, "No offer yet.", failed=True)
    assert rested(database, claimed(database), 0, failed=True)
    found = again(database, a_lease())
    assert (found.tries, found.note, found.claim) == (2, "No offer yet.", "")
    assert rested(database, claimed(database), 30)
    found = again(database, a_lease())
    assert (found.tries, found.due) == (0, NOW + timedelta(seconds=30))
    assert leases.claim(database, "a", NOW + timedelta(seconds=29), 9, HOLD) == []


def test_a_hint_that_comes_during_a_look_is_not_slept_over(database: Database) -> None:
    planned(database)
    held = claimed(database)
    assert leases.ask(database, held.id, "drain", Reason.OPERATOR, "by hand", "ada", NOW)
    assert rested(database, held, 600)
    assert again(database, held).due == NOW
    assert claimed(database).drain_asked_at == NOW


def test_a_fact_that_comes_before_a_move_makes_the_next_state_look_at_once(database: Database) -> None:
    planned(database)
    held = claimed(database)
    leases.ask(database, held.id, "destroy", Reason.OPERATOR, "", "ada", NOW)
    later = NOW + timedelta(hours=1)
    leases.move(database, held, State.LAUNCHING, reason=None, text="", values={}, now=NOW, deadline=later, due=later)
    found = again(database, held)
    assert (found.due, found.deadline) == (NOW, later)


# --- move


def test_a_move_writes_state_span_and_audit_together(database: Database) -> None:
    planned(database)
    held = claimed(database)
    later = NOW + timedelta(minutes=5)
    values = {"provider": "fake", "hard_end": later}
    assert leases.move(
        database, held, State.LAUNCHING, reason=None, text="Chose x.", values=values, now=later, deadline=later, due=later
    )
    found = again(database, held)
    assert (found.state, found.entered_at, found.deadline, found.due) == (State.LAUNCHING, later, later, later)
    assert (found.provider, found.hard_end, found.note, found.claim, found.tries) == ("fake", later, "Chose x.", "", 0)
    spans = leases.spans(database, held.id)
    assert [(span.state, span.entered_at, span.left_at, span.note) for span in spans] == [
        (State.PLANNED, NOW, later, ""),
        (State.LAUNCHING, later, None, "Chose x."),
    ]
    newest = audit.listing(database, f"lease:{held.id}")[0]
    assert (newest.action, newest.actor, newest.text, newest.detail) == (
        "lease.launching",
        "engine",
        "Chose x.",
        {"from": "planned"},
    )


def test_an_illegal_move_is_an_error_and_a_late_one_is_stale(database: Database) -> None:
    led_to(database, State.BOOTING)
    held = claimed(database)
    with pytest.raises(IllegalMove):
        moved(database, held, State.IDLE)
    assert not moved(database, held, State.BOOTING)
    assert not moved(database, held, State.PLANNED)


def test_the_first_reason_wins(database: Database) -> None:
    led_to(database, State.IDLE)
    assert moved(database, claimed(database), State.DRAINING, Reason.IDLE_TIMEOUT, "No job came.")
    assert moved(database, claimed(database), State.DESTROYING, Reason.OPERATOR, "By hand.")
    found = again(database, a_lease())
    assert (found.reason, found.reason_text, found.note) == (Reason.IDLE_TIMEOUT, "No job came.", "By hand.")


def test_what_fails_in_a_move_leaves_no_half_of_it(database: Database) -> None:
    planned(database)
    held = claimed(database)
    with database.write() as conn:  # the span that the move will want to write is there already
        conn.execute(sa.text("INSERT INTO span (lease_id, state, entered_at) SELECT id, 'launching', due FROM lease"))
    with pytest.raises(IntegrityError):
        moved(database, held, State.LAUNCHING)
    assert again(database, held).state is State.PLANNED
    assert [entry.action for entry in audit.listing(database)] == ["lease.planned"]


def test_on_the_way_down_sealed_secrets_are_wiped(database: Database) -> None:
    lease = led_to(database, State.REGISTERING, credential=b"sealed", join_sealed=b"sealed")
    assert again(database, lease).credential_ready
    assert moved(database, claimed(database), State.DRAINING, Reason.OPERATOR)
    assert not again(database, lease).credential_ready
    with database.read() as conn:
        assert conn.execute(sa.text("SELECT join_sealed, credential FROM lease")).one() == (None, None)


# --- ask


def test_an_ask_is_written_once_audited_and_wakes_the_engine(database: Database) -> None:
    lease = led_to(database, State.IDLE)
    rested(database, claimed(database), 600)
    assert leases.ask(database, lease.id, "drain", Reason.OPERATOR, "maintenance", "ada", NOW + SECOND)
    assert not leases.ask(database, lease.id, "drain", Reason.JOB_GONE, "late", "policy", NOW + 2 * SECOND)
    assert leases.ask(database, lease.id, "destroy", Reason.JOB_REFUSED, "at once", "bob", NOW + 3 * SECOND)
    found = again(database, lease)
    assert (found.drain_asked_at, found.destroy_asked_at) == (NOW + SECOND, NOW + 3 * SECOND)
    assert (found.asked_reason, found.asked_text) == (Reason.OPERATOR, "maintenance")
    assert (found.due, found.version) == (NOW + 3 * SECOND, lease.version + 2)
    entries = audit.listing(database, f"lease:{lease.id}", limit=2)
    assert [(entry.actor, entry.action, entry.text) for entry in entries] == [
        ("bob", "lease.destroy_asked", "at once"),
        ("ada", "lease.drain_asked", "maintenance"),
    ]


def test_nothing_is_asked_of_a_lease_that_is_past_it(database: Database) -> None:
    lease = led_to(database, State.DRAINING)
    assert not leases.ask(database, lease.id, "drain", Reason.OPERATOR, "", "ada", NOW)
    assert leases.ask(database, lease.id, "destroy", Reason.OPERATOR, "", "ada", NOW)
    assert not leases.ask(database, "none", "destroy", Reason.OPERATOR, "", "ada", NOW)
    assert [entry.action for entry in audit.listing(database, "lease:none")] == []
