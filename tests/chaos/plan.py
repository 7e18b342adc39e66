"""What will be done to whom, drawn from a seed before anything starts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.core.states import State


class Kind(StrEnum):
    KILL = "kill"  # kill -9 of one process of the service
    NODE = "node"  # kill -9 inside an instance, or of a whole container
    FORGE = "forge"  # kill -9 of the demo forge; it comes back on its old port
    PAUSE = "pause"  # SIGSTOP for longer than a claim lasts, then SIGCONT
    DATABASE = "database"  # PostgreSQL is stopped as by a crash


@dataclass(frozen=True, slots=True)
class Scenario:
    """One world: a database, a provider, and the processes that serve them."""

    name: str
    database: str  # "sqlite" or "postgresql"
    provider: str  # "local" or "docker"
    roles: tuple[str, ...]  # of `sublet up --role`, one process each
    share: float  # of all kills
    gap: float  # seconds between two strikes, on average


SCENARIOS = (
    Scenario("sqlite+local", "sqlite", "local", ("all",), 0.25, 5.0),
    Scenario("postgresql+local", "postgresql", "local", ("engine", "engine", "web", "web"), 0.5, 2.6),
    Scenario("postgresql+docker", "postgresql", "docker", ("all", "all"), 0.25, 3.6),
)


@dataclass(frozen=True, slots=True)
class Strike:
    """One blow. It falls `gap` seconds after the one before it; an aimed one then waits for a lease to enter `moment`."""

    kind: Kind
    victim: int  # which process of the service; for others a number to choose by
    gap: float
    early: bool  # it may hit one that is only starting
    moment: State | None
    late: float  # seconds after that moment
    down: float  # seconds until it is started again; of a pause, how long it lasts


PAUSES, DATABASES, NODES, FORGES = 0.1, 0.1, 0.1, 0.04
"""How many of each, as shares of the kills. NODES are kills, too; the others come on top."""
AIMED = 0.6
"""Kills that wait for a moment when something is under way: a crash there is worth ten elsewhere."""

EARLY = 0.15
"""Kills that may hit a process which is only starting. Where all do, nothing ever gets under way."""


def plan(scenario: Scenario, kills: int, hold: float, seed: int) -> list[Strike]:
    """The strikes of one scenario; the same seed draws the same ones. `hold`: seconds that a claim lasts."""
    chance = random.Random(f"{seed}:{scenario.name}")
    nodes = round(kills * NODES)
    kinds = [Kind.NODE] * nodes + [Kind.KILL] * (kills - nodes)
    kinds += [Kind.PAUSE] * round(kills * PAUSES) + [Kind.FORGE] * round(kills * FORGES)
    if scenario.database == "postgresql":
        kinds += [Kind.DATABASE] * max(1, round(kills * DATABASES))
    chance.shuffle(kinds)
    return [_strike(kind, scenario, hold, chance) for kind in kinds]


def _strike(kind: Kind, scenario: Scenario, hold: float, chance: random.Random) -> Strike:
    moment = chance.choice(list(State)[1:]) if kind in (Kind.KILL, Kind.NODE) and chance.random() < AIMED else None
    down = chance.choice((0.0, chance.expovariate(1.0), chance.uniform(2.0, 5.0)))
    if kind is Kind.PAUSE:
        down = hold + chance.uniform(1.0, 5.0)
    return Strike(
        kind=kind,
        victim=chance.randrange(1000),
        gap=min(chance.expovariate(1 / scenario.gap), 4 * scenario.gap),
        early=chance.random() < EARLY,
        moment=moment,
        late=chance.choice((0.0, chance.uniform(0.0, 0.05), chance.uniform(0.0, 0.8))),
        down=min(down, hold + 6.0),
    )


def shared(kills: int, scenarios: Sequence[Scenario]) -> list[int]:
    """How many of the kills fall to each scenario; together all of them."""
    if not scenarios:
        return []
    whole = sum(one.share for one in scenarios)
    parts = [int(kills * one.share / whole) for one in scenarios]
    for place in range(kills - sum(parts)):
        parts[place % len(parts)] += 1
    return parts
