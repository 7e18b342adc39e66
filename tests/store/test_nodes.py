"""What a node may write, and that it is believed as little as possible."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.core.model import Lease, Reason
from app.core.states import State
from app.store import audit, leases, nodes
from app.store.db import Database
from app.store.nodes import Fetch, Joined, LogLine
from tests.store.nouns import NOW, SECOND, a_lease, again, claimed, led_to, planned
from tests.store.test_leases import together

HOUR = timedelta(hours=1)
EARLIEST, LATEST = datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)  # noqa: DTZ001  a node may forget its zone
NONSENSE: list[dict[str, Any]] = [
    {"gpus": "many", "driver": 5, "memory_mib": "lots", "cpus": None},
    {"gpus": [1, None, {"name": ["x" * 9_000], "memory_mib": 10**30, "\x00": math.inf}] * 99, "memory_mib": math.nan},
    {"driver": "\ud800\x00" * 9_000, "memory_mib": -(10**40), "disk_free_mib": 1.9, "extra": {"deep": [[[]]]}},
]


def booting(db: Database, state: State = State.BOOTING) -> Lease:
    return led_to(db, state, join_hash="token", join_sealed=b"sealed")


def joined(db: Database, state: State = State.BOOTING) -> Lease:
    """A lease whose node joined as `session` while it was booting, and that went on to `state`."""
    lease = booting(db)
    assert nodes.join(db, lease.id, "token", "session", NOW, NOW + HOUR) is Joined.JOINED
    path = list(State)
    for step in path[path.index(State.PROVING) : path.index(state) + 1]:
        held = claimed(db)
        values = {"credential": b"sealed"} if step is State.REGISTERING else {}
        assert leases.move(db, held, step, reason=None, text="", values=values, now=NOW, deadline=None, due=NOW)
    return again(db, lease)


def actions(db: Database, lease: Lease) -> list[str]:
    return [entry.action for entry in audit.listing(db, f"lease:{lease.id}")]


# --- join


def test_a_node_joins_once_and_may_repeat_a_request_whose_answer_was_lost(database: Database) -> None:
    lease = booting(database)
    assert nodes.join(database, lease.id, "token", "session", NOW, NOW + HOUR) is Joined.JOINED
    assert nodes.join(database, lease.id, "token", "session", NOW + SECOND, NOW + HOUR) is Joined.AGAIN
    found = again(database, lease)
    assert (found.joined_at, found.heartbeat_at, found.destroy_asked_at) == (NOW, NOW, None)
    assert found.version == lease.version + 1
    assert actions(database, lease)[0] == "node.joined"


def test_a_fast_node_may_join_before_the_provider_answered(database: Database) -> None:
    lease = booting(database, State.LAUNCHING)
    assert nodes.join(database, lease.id, "token", "session", NOW, NOW + HOUR) is Joined.JOINED


def test_a_second_use_of_the_token_destroys_the_lease_and_is_audited_once(database: Database) -> None:
    lease = booting(database)
    nodes.join(database, lease.id, "token", "session", NOW, NOW + HOUR)
    for thief in ("thief", "thief", "other"):
        assert nodes.join(database, lease.id, "token", thief, NOW, NOW + HOUR) is Joined.REUSED
        assert nodes.lease_of(database, thief, NOW) is None
    found = again(database, lease)
    assert (found.destroy_asked_at, found.asked_reason, found.due) == (NOW, Reason.JOIN_REUSED, NOW)
    assert actions(database, lease).count("node.join_reused") == 1


def test_of_eight_that_race_for_one_token_exactly_one_joins(database: Database) -> None:
    lease = booting(database)
    answers = together(8, lambda number: nodes.join(database, lease.id, "token", f"session-{number}", NOW, NOW + HOUR))
    assert sorted(str(answer) for answer in answers) == ["joined"] + ["reused"] * 7
    sessions = [nodes.lease_of(database, f"session-{number}", NOW) for number in range(8)]
    assert sum(found is not None for found in sessions) == 1
    assert again(database, lease).asked_reason is Reason.JOIN_REUSED


@pytest.mark.parametrize(("token", "session"), [("", "session"), ("wrong", "session"), ("token", "")])
def test_a_wrong_or_empty_token_learns_nothing_and_changes_nothing(database: Database, token: str, session: str) -> None:
    lease = booting(database)
    assert nodes.join(database, lease.id, token, session, NOW, NOW + HOUR) is Joined.UNKNOWN
    assert nodes.join(database, "none", "token", "session", NOW, NOW + HOUR) is Joined.UNKNOWN
    assert again(database, lease) == lease


def test_a_lease_without_a_token_is_joined_by_nobody(database: Database) -> None:
    (lease,) = planned(database)
    assert nodes.join(database, lease.id, "", "session", NOW, NOW + HOUR) is Joined.UNKNOWN


@pytest.mark.parametrize("state", [State.DRAINING, State.DESTROYING, State.RELEASED])
def test_nobody_joins_a_lease_on_its_way_down(database: Database, state: State) -> None:
    lease = led_to(database, state, join_hash="token")
    assert nodes.join(database, lease.id, "token", "session", NOW, NOW + HOUR) is Joined.ENDED
    assert again(database, lease).joined_at is None


# --- session


def test_a_session_lives_by_its_heartbeats_and_dies_with_its_lease(database: Database) -> None:
    lease = joined(database, State.DESTROYING)
    later = NOW + HOUR - SECOND
    assert nodes.beat(database, lease.id, "session", later, later + HOUR)
    assert again(database, lease).heartbeat_at == later
    found = nodes.lease_of(database, "session", NOW + HOUR)
    assert found is not None
    assert found.state is State.DESTROYING, "so that the node can be told to stop"
    assert nodes.lease_of(database, "session", later + HOUR) is None
    assert not nodes.beat(database, lease.id, "session", later + HOUR, later + 2 * HOUR)
    held = claimed(database)
    assert leases.move(database, held, State.RELEASED, reason=None, text="", values={}, now=NOW, deadline=None, due=NOW)
    assert nodes.lease_of(database, "session", NOW) is None
    assert not nodes.beat(database, lease.id, "session", NOW, NOW + HOUR)


def test_a_session_speaks_for_no_other_lease(database: Database) -> None:
    joined(database)
    (other,) = planned(database, a_lease(2))
    assert not nodes.beat(database, other.id, "session", NOW, NOW + HOUR)
    assert nodes.lease_of(database, "", NOW) is None
    assert again(database, other).heartbeat_at is None


# --- facts and events


def test_what_the_node_measured_is_written_until_it_was_judged(database: Database) -> None:
    lease = joined(database)
    assert nodes.report_facts(database, lease.id, {"driver": "600.1", "gpus": [{"name": "R100", "mig": False}], "cpus": 8}, NOW)
    found = again(database, lease)
    assert found.facts is not None
    assert (found.facts.driver, found.facts.gpus, found.facts_at) == ("600.1", ({"name": "R100", "mig": False},), NOW)
    late = led_to(database, State.REGISTERING, lease=a_lease(2))
    assert not nodes.report_facts(database, late.id, {"driver": "1"}, NOW)


@pytest.mark.parametrize("facts", NONSENSE)
def test_nonsense_facts_are_kept_as_nothing_worse_than_nonsense(database: Database, facts: dict[str, Any]) -> None:
    lease = joined(database)
    assert nodes.report_facts(database, lease.id, facts, NOW)
    found = again(database, lease).facts
    assert found is not None
    assert len(found.gpus) <= 64
    assert len(found.driver) <= 500
    assert abs(found.memory_mib) < 2**31


def test_an_event_is_written_once_and_wakes_the_engine(database: Database) -> None:
    lease = joined(database, State.REGISTERING)
    assert lease.credential_ready
    later = NOW + 5 * SECOND
    assert nodes.event(database, lease.id, "runner_online", NOW + SECOND, {}, later)
    assert not nodes.event(database, lease.id, "runner_online", NOW + 2 * SECOND, {}, later)
    assert nodes.event(database, lease.id, "job_started", NOW + 2 * SECOND, {}, later)
    assert nodes.event(database, lease.id, "runner_exited", NOW + 3 * SECOND, {"exit": 1}, later)
    found = again(database, lease)
    assert (found.runner_started_at, found.job_started_at) == (NOW + SECOND, NOW + 2 * SECOND)
    assert (found.runner_exited_at, found.runner_exit) == (NOW + 3 * SECOND, 1)
    assert (found.due, found.version) == (later, lease.version + 3)
    assert not found.credential_ready, "a credential that has served is wiped"


@pytest.mark.parametrize("kind", ["booted", "job_finished", "power_off"])
def test_some_events_only_make_the_engine_look(database: Database, kind: str) -> None:
    lease = joined(database)
    assert nodes.event(database, lease.id, kind, NOW, {}, NOW + SECOND)
    assert (again(database, lease).due, again(database, lease).version) == (NOW + SECOND, lease.version + 1)


def test_a_lying_clock_moves_nothing_before_the_join_or_past_now(database: Database) -> None:
    lease = joined(database, State.REGISTERING)
    nodes.event(database, lease.id, "runner_online", EARLIEST, {}, NOW + SECOND)
    nodes.event(database, lease.id, "runner_exited", LATEST.replace(tzinfo=UTC), {"exit": "x"}, NOW + SECOND)
    found = again(database, lease)
    assert (found.runner_started_at, found.runner_exited_at, found.runner_exit) == (NOW, NOW + SECOND, 0)


def test_unknown_events_and_those_of_nobody_are_not_written(database: Database) -> None:
    (lease,) = planned(database)
    for kind in ("runner_online", "booted", "state", "claim"):
        assert not nodes.event(database, lease.id, kind, NOW, {}, NOW)
    assert again(database, lease) == lease


# --- credential


def test_the_credential_goes_to_the_first_ticket_only(database: Database) -> None:
    lease = joined(database, State.REGISTERING)
    assert nodes.take_credential(database, lease.id, "mine", NOW) == nodes.Fetched(Fetch.READY, b"sealed")
    assert nodes.take_credential(database, lease.id, "theirs", NOW).outcome is Fetch.GONE
    assert nodes.take_credential(database, lease.id, "", NOW).outcome is Fetch.GONE
    assert nodes.take_credential(database, lease.id, "mine", NOW + SECOND) == nodes.Fetched(Fetch.READY, b"sealed")
    assert again(database, lease).credential_taken_at == NOW
    assert actions(database, lease).count("node.credential_taken") == 1
    assert "sealed" not in repr(nodes.take_credential(database, lease.id, "mine", NOW))
    nodes.event(database, lease.id, "runner_online", NOW, {}, NOW)
    assert nodes.take_credential(database, lease.id, "mine", NOW).outcome is Fetch.GONE


def test_eight_tickets_race_for_one_credential_and_one_has_it(database: Database) -> None:
    lease = joined(database, State.REGISTERING)
    answers = together(8, lambda number: nodes.take_credential(database, lease.id, f"ticket-{number}", NOW).outcome)
    assert sorted(str(answer) for answer in answers) == ["gone"] * 7 + ["ready"]


def test_a_node_waits_for_a_credential_that_is_not_minted(database: Database) -> None:
    lease = joined(database)
    assert nodes.take_credential(database, lease.id, "mine", NOW).outcome is Fetch.WAIT
    assert nodes.take_credential(database, "none", "mine", NOW).outcome is Fetch.GONE


def test_a_fresh_credential_is_for_a_fresh_ticket(database: Database) -> None:
    lease = joined(database, State.REGISTERING)
    nodes.take_credential(database, lease.id, "mine", NOW)
    assert leases.keep(database, claimed(database), {"credential": b"second"}, NOW)
    assert nodes.take_credential(database, lease.id, "new", NOW).sealed == b"second"


@pytest.mark.parametrize("state", [State.BUSY, State.DRAINING, State.DESTROYING, State.RELEASED])
def test_no_credential_leaves_once_the_lease_is_past_it(database: Database, state: State) -> None:
    lease = joined(database, state)
    assert nodes.take_credential(database, lease.id, "mine", NOW).outcome is Fetch.GONE


# --- log


def test_log_lines_are_kept_once_in_the_nodes_own_order(database: Database) -> None:
    lease = joined(database)
    lines = [(number, NOW, "runner", f"line {number}") for number in (2, 0, 1)]
    assert nodes.append_log(database, lease.id, lines) == 3
    assert nodes.append_log(database, lease.id, [*lines, (3, NOW, "agent", "end")]) == 1
    assert [one.line for one in nodes.log(database, lease.id)] == ["line 0", "line 1", "line 2", "end"]
    assert nodes.log(database, lease.id, after=2) == [LogLine(3, NOW, "agent", "end")]
    assert [one.seq for one in nodes.log(database, lease.id, limit=2)] == [0, 1]


def test_a_node_cannot_fill_the_database_with_its_log(database: Database) -> None:
    lease = joined(database)
    for start in range(0, 25_000, 5_000):
        nodes.append_log(database, lease.id, [(number, NOW, "runner", "x") for number in range(start, start + 5_000)])
    assert (
        nodes.append_log(database, lease.id, [(-1, NOW, "runner", "x"), (20_000, NOW, "runner", "x"), (10**30, NOW, "r", "x")])
        == 0
    )
    assert len(nodes.log(database, lease.id, limit=99_999)) == nodes.MOST_LINES


def test_a_hostile_line_spoils_nothing(database: Database) -> None:
    lease = joined(database)
    bad = [(0, LATEST, "s" * 999, "\x00\ud800" * 9_999), (1, EARLIEST.replace(tzinfo=UTC), "", "")]
    assert nodes.append_log(database, lease.id, bad) == 2
    first, second = nodes.log(database, lease.id)
    assert (len(first.source), len(first.line), first.line[:2]) == (20, nodes.LONGEST_LINE, "\ufffd\ufffd")
    assert second.at.year == 1
    assert nodes.append_log(database, lease.id, []) == 0
