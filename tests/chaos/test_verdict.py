"""A judge that never says no proves nothing: every kind of violation, planted alone, is found."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.core.states import State
from tests.chaos.facts import Facts, LeaseFacts
from tests.chaos.plan import SCENARIOS, Kind, plan, shared
from tests.chaos.service import Exit
from tests.chaos.verdict import Verdict

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
WAY = (
    State.PLANNED,
    State.LAUNCHING,
    State.BOOTING,
    State.PROVING,
    State.REGISTERING,
    State.BUSY,
    State.DRAINING,
    State.DESTROYING,
    State.RELEASED,
)
RUNNER = "sublet-abc123-calm-fox-01-0123abcd-1"


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def spans(*way: State) -> tuple[tuple[State, datetime, datetime | None], ...]:
    last = len(way) - 1
    return tuple((state, at(place), at(place + 1) if place < last else None) for place, state in enumerate(way))


def audit(*words: str) -> tuple[tuple[int, str], ...]:
    return tuple((place, f"lease.{word}") for place, word in enumerate(words))


LEASE = LeaseFacts(
    id="0123abcd-aaaa",
    name="calm-fox-01",
    tag="sublet-calm-fox-01",
    state="released",
    reason="job_done",
    runner_exit=0,
    asked=True,
    booked=True,
    spans=spans(*WAY),
    charges=((at(1), at(5), Decimal("0.1"), at(9)), (at(5), at(8), Decimal("0.2"), at(9))),
    audit=audit(*WAY, "booked"),
)
JOB: dict[str, Any] = {"id": 7, "run_id": 1, "status": "completed", "conclusion": "success", "runner_name": RUNNER}
FACTS = Facts(
    forge_jobs={7: JOB},
    cancelled=frozenset(),
    effects=(("begin", RUNNER), ("end", RUNNER)),
    jobs={7: ("completed", "success")},
    leases=(LEASE,),
    struck=frozenset(),
    ceiling=1,
)
FAILED = replace(
    FACTS,
    forge_jobs={7: JOB | {"conclusion": "failure"}},
    jobs={7: ("completed", "failure")},
    effects=(("begin", RUNNER),),
)


def of_lease(**changes: Any) -> Facts:
    return replace(FACTS, leases=(replace(LEASE, **changes),))


def test_a_job_that_ran_once_on_a_lease_in_order_is_well() -> None:
    verdict = Verdict(FACTS)
    assert (verdict.violations, verdict.ran_once, verdict.explained) == ([], 1, 0)


def test_a_job_that_failed_with_its_struck_machine_or_was_cancelled_on_request_is_explained() -> None:
    lost = replace(FAILED, leases=(replace(LEASE, reason="instance_lost"),), struck=frozenset({LEASE.tag}))
    unasked = {7: JOB | {"conclusion": "cancelled", "runner_name": None}}
    cancelled = replace(
        FACTS, forge_jobs=unasked, cancelled=frozenset({7}), effects=(), jobs={7: ("completed", "cancelled")}, leases=()
    )
    for facts in (lost, cancelled):
        verdict = Verdict(facts)
        assert (verdict.violations, verdict.ran_once, verdict.explained) == ([], 0, 1)


def test_a_script_that_fails_on_purpose_has_run_once() -> None:
    verdict = Verdict(replace(FAILED, effects=(("begin", RUNNER), ("doomed", RUNNER))))
    assert (verdict.violations, verdict.ran_once) == ([], 1)


PLANTED = {
    "for ever": replace(FACTS, forge_jobs={7: JOB | {"status": "queued", "conclusion": None}}),
    "ran more than once": replace(FACTS, effects=(*FACTS.effects, ("begin", RUNNER))),
    "but did this": replace(FACTS, effects=(("begin", RUNNER),)),
    "nobody asked for that or hurt its machine": FAILED,
    "does not agree": replace(FAILED, leases=(replace(LEASE, reason="operator"),), struck=frozenset({LEASE.tag})),
    "never had a lease": replace(
        FAILED,
        forge_jobs={7: JOB | {"conclusion": "cancelled", "runner_name": None}},
        jobs={7: ("completed", "cancelled")},
        effects=(),
    ),
    "which no lease knows": replace(FACTS, leases=()),
    "which the forge gave no job": replace(FACTS, effects=(*FACTS.effects, ("begin", "sublet-abc123-bold-owl-02-9999aaaa-1"))),
    "that the forge does not": replace(FACTS, jobs={7: ("completed", "success"), 8: ("queued", "")}),
    "the service has job 7 as": replace(FACTS, jobs={7: ("in_progress", "")}),
    "not released": of_lease(state="destroying"),
    "a way that the table has not": of_lease(
        spans=spans(State.PLANNED, State.BUSY, State.RELEASED),
        audit=audit("planned", "busy", "released", "booked"),
    ),
    "in two states at once": of_lease(spans=(*spans(*WAY)[:-1], (State.RELEASED, at(30), None))),
    "left a state long before": of_lease(
        spans=((State.PLANNED, at(5), at(1)), (State.LAUNCHING, at(1), at(2)), *spans(*WAY)[2:])
    ),
    "the audit has": of_lease(audit=audit(*WAY, "booked", "booked")),
    "is not booked": of_lease(booked=False, charges=(), audit=LEASE.audit[:-1]),
    "booked more than once": of_lease(charges=((at(1), at(5), Decimal(1), at(9)), (at(5), at(8), Decimal(1), at(10)))),
    "open books": of_lease(booked=False, asked=False, audit=LEASE.audit[:-1]),
    "below zero": of_lease(charges=((at(1), at(8), Decimal(-1), at(9)),)),
    "charged twice": of_lease(charges=((at(1), at(5), Decimal(1), at(9)), (at(4), at(8), Decimal(1), at(9)))),
    "charged nothing": of_lease(charges=()),
    "2 leases lived at once": replace(FACTS, leases=(LEASE, replace(LEASE, id="ffff0000-b", name="bold-owl-02"))),
    "still knows the runner": replace(FACTS, runners=(RUNNER,)),
    "provider still has": replace(FACTS, instances=(LEASE.tag,)),
    "a process is left": replace(FACTS, processes=("4711 agent",)),
    "a file is left": replace(FACTS, files=("tmp/draft",)),
    "ended by itself": replace(FACTS, exits=(Exit("web-1", 1, 12.0, served=True),)),
}


@pytest.mark.parametrize("words", PLANTED)
def test_what_is_planted_is_found(words: str) -> None:
    assert any(words in one for one in Verdict(PLANTED[words]).violations), Verdict(PLANTED[words]).violations


def test_a_seed_draws_the_same_strikes_and_every_kill_is_dealt_out() -> None:
    for scenario in SCENARIOS:
        strikes = plan(scenario, 40, 8.0, seed=3)
        assert strikes == plan(scenario, 40, 8.0, seed=3) != plan(scenario, 40, 8.0, seed=4)
        assert sum(one.kind in (Kind.KILL, Kind.NODE) for one in strikes) == 40
        assert all(one.down > 8.0 for one in strikes if one.kind is Kind.PAUSE), "longer than a claim lasts"
        assert any(one.kind is Kind.DATABASE for one in strikes) is (scenario.database == "postgresql")
    assert [sum(shared(count, SCENARIOS)) for count in (1, 10, 99, 100)] == [1, 10, 99, 100]
    assert shared(100, []) == [], "a machine that can play none"
