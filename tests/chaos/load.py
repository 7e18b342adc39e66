"""The steady load: short jobs one by one and in matrices, cancelled, failing on purpose, and run again."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.demo import launch
from tests.chaos.stage import LABELS, Stage

REPOSITORIES = ("acme/train", "acme/infer")
MOST_OPEN = 7
"""No more work while so many jobs are open: the load is steady, and its end is in sight at any time."""
EVERY = 2.0  # seconds between two things that people do, on average


@dataclass
class Load:
    """What people do at the forge, and what the forge said of it. Survives a forge that is away."""

    stage: Stage
    chance: random.Random
    jobs: dict[int, Mapping[str, Any]] = field(default_factory=dict[int, Mapping[str, Any]])  # as last told, by id
    runners: list[str] = field(default_factory=list[str])  # names that the forge still knows
    cancelled: set[int] = field(default_factory=set[int])  # jobs that were asked to be cancelled
    _next: float = 0.0

    @property
    def open(self) -> list[Mapping[str, Any]]:
        return [one for one in self.jobs.values() if one["status"] != "completed"]

    def look(self) -> bool:
        """Ask the forge how everything stands. False: it is away."""
        with contextlib.suppress(launch.DemoError, OSError):
            told = self.stage.forge.ask("state", seconds=5.0)
            self.jobs |= {int(one["id"]): one for one in told["jobs"]}
            self.runners = [str(one["name"]) for one in told["runners"]]
            return True
        return False

    def step(self, now: float) -> None:
        """The next thing, if it is time."""
        if now < self._next:
            return
        self._next = now + self.chance.uniform(0.3, 2 * EVERY - 0.3)
        deeds: list[Callable[[], None]] = [self._push] * 12 + [self._matrix] * 3 + [self._cancel] + [self._again] * 3
        if self.look():
            with contextlib.suppress(launch.DemoError, OSError):
                self.chance.choice(deeds)()

    def _push(self, count: int = 1) -> None:
        if len(self.open) >= MOST_OPEN:
            return
        script = self.stage.script(self.chance.uniform(0.1, 2.5), fails=self.chance.random() < 0.06)
        order = {"labels": list(LABELS), "script": script, "count": count, "repository": self.chance.choice(REPOSITORIES)}
        self.stage.forge.ask("jobs", order)

    def _matrix(self) -> None:
        self._push(self.chance.randint(2, 4))

    def _cancel(self) -> None:
        if self.open:
            job = int(self.chance.choice(self.open)["id"])
            self.cancelled.add(job)  # first: an answer may be lost, and the deed done
            self.stage.forge.ask("cancel", {"job": job})

    def _again(self) -> None:
        over = sorted({int(one["run_id"]) for one in self.jobs.values()} - {int(one["run_id"]) for one in self.open})
        if over and len(self.open) < MOST_OPEN:
            self.stage.forge.ask("rerun", {"run": self.chance.choice(over)})
