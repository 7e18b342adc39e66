"""What becomes of a service's requests to the forges of a world: their bad days, and the count of every kind of call."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import requests

from tests.simulation.sides import Side
from tests.simulation.wire import Asked, Told

if TYPE_CHECKING:
    from tests.simulation.world import World


class Traffic:
    """`calls` counts by forge and kind: "github POST generate-jitconfig"; "spoiled" and the same for those that went wrong."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.calls: Counter[str] = Counter()

    def route(self, asked: Asked) -> Told:
        """The answer to a request, or requests.ConnectionError for none."""
        world = self._world
        side = next((one for one in world.sides.values() if one.host == asked.host), None)
        if side is None:
            raise requests.ConnectionError(f"no such host {asked.host}")
        self.calls[f"{side.name} {kind_of(asked)}"] += 1
        trouble = self._trouble(side, asked) if world.troubled else None
        if trouble is not None:
            return trouble
        told = side.answer(asked)
        if told.status == 403 and b"rate limit" in told.body:
            self._spoiled("forge_rate_limited", side, asked)
        if self._chance("forge_lost_reply"):
            self._spoiled("forge_lost_reply", side, asked)
            return _no_answer()
        return told

    def _trouble(self, side: Side, asked: Asked) -> Told | None:
        """What keeps the request from having any effect; None: nothing does."""
        world = self._world
        if world.during("forge_down"):
            self._spoiled("forge_down", side, asked)
            return Told(502, {}, b"{}") if world.dice.random() < 0.5 else _no_answer()
        if world.during("forge_rate_limited"):
            self._spoiled("forge_rate_limited", side, asked)
            return Told(429, {"retry-after": "60"}, b'{"message": "slow down"}')
        if self._chance("forge_unreachable"):
            self._spoiled("forge_unreachable", side, asked)
            return _no_answer()
        if self._chance("forge_error"):
            self._spoiled("forge_error", side, asked)
            return Told(world.dice.choice((500, 502, 503)), {}, b"{}")
        if asked.path.endswith("generate-jitconfig") and self._chance("jit_conflict"):
            self._spoiled("jit_conflict", side, asked)
            return Told(409, {}, b'{"message": "Already exists"}')
        return None

    def _chance(self, fault: str) -> bool:
        world = self._world
        rate = world.conditions.rates.get(fault)
        return world.troubled and rate is not None and world.dice.random() < rate

    def _spoiled(self, fault: str, side: Side, asked: Asked) -> None:
        self._world.count(fault)
        self.calls[f"spoiled {side.name} {kind_of(asked)}"] += 1


def kind_of(asked: Asked) -> str:
    """The kind of a request, for the count of calls."""
    first, _, last = asked.path.rpartition("/")
    return f"{asked.verb} {first.rpartition('/')[2]}/N" if last.isdigit() else f"{asked.verb} {last}"


def _no_answer() -> Told:
    raise requests.ConnectionError("no answer")
