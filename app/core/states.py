"""The life of a lease as a table: legal moves, where an overdue lease goes, and whether money may be owed.

A lease only ever moves down this list. There is no way back, so a late or repeated message can
never un-happen anything: it is simply stale. Failure is not a state; it is the reason a lease
took the short way down.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class State(StrEnum):
    PLANNED = "planned"  # wanted; nothing asked of anyone, nothing owed
    LAUNCHING = "launching"  # create() may or may not have happened
    BOOTING = "booting"  # the provider named an instance; the node is silent
    PROVING = "proving"  # the node spoke; its GPU, driver and image are being checked
    REGISTERING = "registering"  # proven; its runner is not online yet
    IDLE = "idle"  # runner online, no job
    BUSY = "busy"  # runner has its one job
    DRAINING = "draining"  # runner being taken off the forge
    DESTROYING = "destroying"  # provider told to destroy; not proven gone
    RELEASED = "released"  # proven gone, or never asked for


@dataclass(frozen=True, slots=True)
class Rule:
    next: frozenset[State]  # every legal move from here
    late: State | None  # where an overdue lease goes; None: stay, and wake a person
    owed: bool  # could a provider be charging us in this state?
    within: timedelta | None  # the usual deadline; a pool's settings may set another


def _to(*states: State) -> frozenset[State]:
    return frozenset(states)


S = State
RULES: Mapping[State, Rule] = {
    S.PLANNED: Rule(_to(S.LAUNCHING, S.RELEASED), S.RELEASED, False, timedelta(minutes=10)),
    S.LAUNCHING: Rule(_to(S.BOOTING, S.DESTROYING), S.DESTROYING, True, timedelta(minutes=10)),
    S.BOOTING: Rule(_to(S.PROVING, S.DESTROYING), S.DESTROYING, True, timedelta(minutes=20)),
    S.PROVING: Rule(_to(S.REGISTERING, S.DESTROYING), S.DESTROYING, True, timedelta(minutes=10)),
    S.REGISTERING: Rule(_to(S.IDLE, S.BUSY, S.DRAINING), S.DRAINING, True, timedelta(minutes=10)),
    S.IDLE: Rule(_to(S.BUSY, S.DRAINING), S.DRAINING, True, timedelta(minutes=5)),
    S.BUSY: Rule(_to(S.DRAINING), S.DRAINING, True, timedelta(hours=6)),
    S.DRAINING: Rule(_to(S.DESTROYING), S.DESTROYING, True, timedelta(minutes=5)),
    S.DESTROYING: Rule(_to(S.RELEASED), None, True, None),
    S.RELEASED: Rule(_to(), None, False, None),
}
ORDER: Mapping[State, int] = {state: place for place, state in enumerate(State)}
LIVE: frozenset[State] = frozenset(State) - {State.RELEASED}
COMING: frozenset[State] = frozenset({S.PLANNED, S.LAUNCHING, S.BOOTING, S.PROVING, S.REGISTERING, S.IDLE})
"""The states in which a lease will still serve a job that waits now."""


class IllegalMove(ValueError):
    """A lease was asked to go where the table has no arrow."""

    def __init__(self, origin: State, to: State) -> None:
        self.origin, self.to = origin, to
        super().__init__(f"no lease goes from {origin} to {to}")


def judge(now: State, asked: State) -> bool:
    """True: move. False: stale, the lease is there already or past it. Raises `IllegalMove` if it never could."""
    if asked in RULES[now].next:
        return True
    if ORDER[asked] <= ORDER[now]:
        return False
    raise IllegalMove(now, asked)


def way_out(now: State) -> State:
    """The short way down from here: what met the forge drains first, what may be owed is destroyed, the rest ends."""
    if State.DRAINING in RULES[now].next:
        return State.DRAINING
    if State.DESTROYING in RULES[now].next:
        return State.DESTROYING
    return State.RELEASED


def mermaid() -> str:
    """The table as a Mermaid state diagram; docs/architecture.md must show exactly this."""
    arrows = (f"    {origin} --> {to}" for origin in State for to in sorted(RULES[origin].next, key=ORDER.__getitem__))
    return "\n".join(["stateDiagram-v2", *arrows])
