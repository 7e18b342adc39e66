"""Pilots in the store: planned with their lease or not at all, one of a provider at a time, and heard once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.core.model import Lease, Reason
from app.core.pilot import key_of
from app.core.states import State
from app.store import audit, leases, pilots, standings
from app.store.db import Database
from app.store.pilots import Pilot
from tests.store.nouns import HOLD, NOW, SECOND, a_lease, again


def drawn(number: int = 1, provider: str = "cloud") -> tuple[Pilot, Lease]:
    lease = a_lease(number, key=key_of(), provider=provider)
    return Pilot(f"pilot-{number}", provider, "sg", lease.id, "ada", NOW, {"id": "one", "gpu": "h100"}), lease


def asked(db: Database, number: int = 1, provider: str = "cloud") -> str:
    return pilots.ask(db, *drawn(number, provider), "to see", NOW)


def moved(db: Database, lease: Lease, *states: State, **values: Any) -> Lease:
    for state in states:
        leases.free_claims(db)
        held = next(one for one in leases.claim(db, "engine", NOW, 100, HOLD) if one.id == lease.id)
        reason = Reason.PILOT_DONE if state is State.RELEASED else None
        words: dict[str, Any] = {"reason": reason, "text": "Done.", "values": values, "now": NOW, "deadline": None}
        assert leases.move(db, held, state, **words)
    return again(db, lease)


def test_it_comes_with_its_lease_its_span_and_two_rows_of_audit(database: Database) -> None:
    one, lease = drawn()
    assert asked(database) == ""
    assert pilots.get(database, one.id) == pilots.of_lease(database, lease.id) == one
    assert again(database, lease) == lease
    assert [span.state for span in leases.spans(database, lease.id)] == [State.PLANNED]
    (entry,) = audit.listing(database, "provider:cloud")
    assert (entry.actor, entry.action, entry.text) == ("ada", "provider.pilot_asked", "to see")
    assert [entry.actor for entry in audit.listing(database, f"lease:{lease.id}")] == ["ada"]


def test_there_is_one_of_a_provider_at_a_time_and_none_of_a_paused_one(database: Database) -> None:
    assert [asked(database, 1), asked(database, 2, "other")] == ["", ""]
    name = again(database, drawn(1)[1]).name
    assert asked(database, 3) == f"A pilot of cloud runs already: lease {name}."
    standings.pause(database, "third", "ada", "why not", NOW)
    assert asked(database, 4, "third") == "third is paused: nothing is rented there."
    assert len(leases.listing(database)) == 2 and len(pilots.listing(database)) == 2, "a no writes nothing"


def test_of_many_who_ask_at_once_one_gets_it(database: Database) -> None:
    with ThreadPoolExecutor(8) as crowd:
        waiting = [crowd.submit(asked, database, number) for number in range(8)]
        told = [one.result() for one in waiting]
    assert told.count("") == 1
    assert len(leases.listing(database)) == 1


def test_only_a_planned_lease_can_be_entered(database: Database) -> None:
    one, lease = drawn()
    with pytest.raises(ValueError, match="begins as planned"):
        pilots.ask(database, one, replace(lease, state=State.BUSY), "", NOW)
    assert pilots.listing(database) == [] and leases.listing(database) == []


def test_usable_counts_once(database: Database) -> None:
    asked(database)
    _, lease = drawn()
    first = pilots.usable(database, lease.id, NOW + SECOND)
    second = pilots.usable(database, lease.id, NOW + 9 * SECOND)
    assert first is not None and first == second and first.usable_at == NOW + SECOND
    assert pilots.usable(database, "no such lease", NOW) is None


def test_the_sample_is_fetched_once_and_the_report_said_once(database: Database) -> None:
    asked(database)
    _, lease = drawn()
    assert [pilots.sampled(database, lease.id, NOW), pilots.sampled(database, lease.id, NOW)] == [True, False]
    later = NOW + timedelta(minutes=3)
    assert pilots.measured(database, lease.id, {"gpu": {"name": "x\0y"}}, later)
    told = again(database, lease)
    assert (told.due, told.version) == (later, lease.version + 1), "the engine looks at once"
    assert not pilots.measured(database, lease.id, {"gpu": {"name": "z"}}, later)
    kept = pilots.of_lease(database, lease.id)
    assert kept is not None and kept.report == {
        "sample_at": "2026-03-01T12:00:00Z",
        "measured_at": "2026-03-01T12:03:00Z",
        "gpu": {"name": "x\ufffdy"},
    }
    assert not pilots.sampled(database, "no such lease", NOW) and not pilots.measured(database, "no such lease", {}, NOW)


def test_a_report_without_a_sample_ends_the_offer_of_one(database: Database) -> None:
    asked(database)
    _, lease = drawn()
    assert pilots.measured(database, lease.id, {}, NOW) and not pilots.sampled(database, lease.id, NOW)


def test_it_is_closed_once_its_machine_is_gone_and_says_nothing_after(database: Database) -> None:
    asked(database)
    asked(database, 2, "other")
    _, lease = drawn()
    pilots.usable(database, lease.id, NOW)
    assert pilots.close(database, NOW) == 0
    moved(database, lease, State.LAUNCHING, region="de", offer={"id": "two", "gpu": "h100"})
    moved(database, lease, State.DESTROYING, State.RELEASED, gone_at=NOW + SECOND)
    assert [pilots.close(database, NOW), pilots.close(database, NOW)] == [1, 0]
    kept = pilots.of_lease(database, lease.id)
    assert kept is not None and kept.offer == {"id": "two", "gpu": "h100"}
    assert (kept.outcome, kept.ended_at, kept.region) == ("usable", NOW + SECOND, "de")
    assert not pilots.measured(database, lease.id, {}, NOW) and not pilots.sampled(database, lease.id, NOW)
    assert asked(database, 3) == "", "the next one may come"
    assert [one.id for one in pilots.listing(database, "cloud")] == ["pilot-1", "pilot-3"]
    other = drawn(2, "other")[1]
    moved(database, other, State.RELEASED, gone_at=NOW)
    pilots.close(database, NOW)
    unused = pilots.of_lease(database, other.id)
    assert unused is not None and (unused.outcome, unused.offer) == ("pilot done: Done.", {"id": "one", "gpu": "h100"})
