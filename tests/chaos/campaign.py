"""One scenario from its first job to its verdict: strikes under load, then healing, then quiet, then the counting."""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.facts import gather, open_ends
from tests.chaos.load import Load
from tests.chaos.plan import Kind, Scenario, Strike
from tests.chaos.service import Service
from tests.chaos.stage import Stage, open_stage
from tests.chaos.verdict import Verdict

TICK = 0.05  # seconds between two looks at what is due
AIM_SECONDS = 6.0
"""An aimed strike falls after so long even if its moment did not come."""
START_SECONDS = 90.0
QUIET_SECONDS = 300.0
"""After the last strike everything must be at its end within this: two sweeps find an orphan, and the idle limit is shorter."""
FAULTS: Mapping[str, Any] = {"lose": 0.04, "fail": 0.06, "repeat": 0.08, "delay": 0.08, "reorder": 0.05, "parallel": 4}
"""What becomes of webhooks, besides those that come while nothing listens."""


class OutOfTime(Exception):
    """The hard limit came. What was reached until then is in the outcome."""


@dataclass
class Outcome:
    """One scenario's figures."""

    scenario: str
    by_target: Counter[str] = field(default_factory=Counter[str])
    by_moment: Counter[str] = field(default_factory=Counter[str])
    pauses: int = 0
    database_restarts: int = 0
    forge_restarts: int = 0
    seconds: float = 0.0
    healed_in: float = 0.0  # seconds from the last strike to quiet
    verdict: Verdict | None = None
    trouble: list[str] = field(default_factory=list[str])  # violations that need no facts
    evidence: list[str] = field(default_factory=list[str])

    @property
    def violations(self) -> list[str]:
        found = [*self.trouble, *(self.verdict.violations if self.verdict is not None else [])]
        return [f"{self.scenario}: {one}" for one in found]


class Campaign:
    """Plays one scenario. `say` tells people how it goes."""

    def __init__(self, stage: Stage, strikes: Sequence[Strike], seed: int, ends: float) -> None:
        """`ends`: when, on the monotonic clock, no more time is left at all."""
        self.stage, self._strikes, self._ends = stage, strikes, ends
        self.load = Load(stage, random.Random(f"{seed}:{stage.scenario.name}:load"))
        self.outcome = Outcome(stage.scenario.name)
        self._moments: list[str] = []

    def play(self) -> None:
        """Raises OutOfTime."""
        began = time.monotonic()
        for service in self.stage.services:
            service.start()
        if not self._until(self.stage.whole, START_SECONDS, working=False):
            self.outcome.trouble.append(
                f"the service does not come up: {[one.name for one in self.stage.services if not one.up]}"
            )
            return
        say(f"{self.stage.scenario.name}: up after {time.monotonic() - began:.1f} s; {len(self._strikes)} strikes follow")
        for place, strike in enumerate(self._strikes):
            self._until(lambda: False, strike.gap)
            self._strike(strike)
            if (place + 1) % 10 == 0:
                self._tell(place + 1)
        struck = time.monotonic()
        self._heal()
        left = ["not looked yet"]
        until = struck + QUIET_SECONDS
        while left and time.monotonic() < until:
            self._until(lambda: False, 1.0, working=False)
            left = open_ends(self.stage, self.load)
        self.outcome.healed_in = time.monotonic() - struck
        if left:
            self.outcome.trouble.append(f"not quiet {QUIET_SECONDS:.0f} s after the last strike: {'; '.join(left[:12])}")
        say(f"{self.stage.scenario.name}: quiet {self.outcome.healed_in:.0f} s after the last strike")
        for service in self.stage.services:
            code = service.stop()
            if code != 0:
                self.outcome.trouble.append(f"{service.name} was told to stop and ended with {code}")
        self.outcome.verdict = Verdict(gather(self.stage, self.load))
        self.outcome.seconds = time.monotonic() - began

    def _until(self, done: Any, seconds: float, *, working: bool = True) -> bool:
        """Let things go on until they are done, or the seconds are over. Raises OutOfTime."""
        until = time.monotonic() + seconds
        while not done():
            now = time.monotonic()
            if now > self._ends:
                raise OutOfTime
            if now >= until:
                return False
            self.stage.tend(now)
            if working:
                self.load.step(now)
            time.sleep(TICK)
        return True

    def _strike(self, strike: Strike) -> None:
        if strike.moment is not None:
            list(self._entered())
            self._until(lambda: str(strike.moment) in self._entered(), AIM_SECONDS)
        if strike.late:
            self._until(lambda: False, strike.late)
        if strike.kind is Kind.KILL:
            self._until(lambda: self._kill(strike), START_SECONDS)
        elif strike.kind is Kind.NODE:
            if not self._until(lambda: self.stage.hurt_an_instance(strike.victim) is not None, START_SECONDS):
                self.outcome.trouble.append("no instance came that could be hurt")
            self.outcome.by_target["node"] += 1
        elif strike.kind is Kind.PAUSE:
            self.outcome.pauses += self._until(lambda: self._pause(strike), START_SECONDS)
        elif strike.kind is Kind.DATABASE:
            self.outcome.database_restarts += self.stage.stop_database(time.monotonic() + min(strike.down, 4.0))
        else:
            self.outcome.forge_restarts += self.stage.kill_forge(time.monotonic() + min(strike.down, 3.0))

    def _kill(self, strike: Strike) -> bool:
        """kill -9 of the victim, or of the next one that can be had. One that is paused would not notice."""
        for service in self._from(strike.victim):
            if not service.paused and (strike.early or service.up) and service.kill(time.monotonic() + strike.down):
                self.outcome.by_target[service.role] += 1
                self.outcome.by_moment[str(strike.moment or "any")] += 1
                return True
        return False

    def _pause(self, strike: Strike) -> bool:
        return any(service.pause(time.monotonic() + strike.down) for service in self._from(strike.victim))

    def _from(self, number: int) -> list[Service]:
        """All processes of the service, beginning with the one of this number."""
        services = self.stage.services
        first = number % len(services)
        return [*services[first:], *services[:first]]

    def _entered(self) -> Iterator[str]:
        """The states that leases have entered since the last call, as the services log it."""
        for service in self.stage.services:
            for line in service.news():
                if line.get("event") == "lease.moved":
                    yield str(line.get("to"))

    def _heal(self) -> None:
        """No more faults: everything is started again, and webhooks come as they should."""
        for service in self.stage.services:
            service.resume()
        self._until(lambda: self.stage.whole() and self.load.look(), START_SECONDS, working=False)
        self.stage.forge.ask("faults", {"parallel": 4})

    def _tell(self, done: int) -> None:
        self.load.look()
        jobs, kills = self.load.jobs, sum(self.outcome.by_target.values())
        say(
            f"{self.stage.scenario.name}: {done} of {len(self._strikes)} strikes ({kills} kills);"
            f" {len(jobs)} jobs, {len(self.load.open)} open"
        )


def run(scenario: Scenario, strikes: Sequence[Strike], seed: int, ends: float, keep: Path | None) -> Outcome:
    """Play it on a stage of its own. Raises Missing. With violations the evidence is kept below `keep`."""
    with open_stage(scenario, {**FAULTS, "seed": seed}) as stage:
        campaign = Campaign(stage, strikes, seed, ends)
        outcome = campaign.outcome
        try:
            campaign.play()
        except OutOfTime:
            outcome.trouble.append(f"the time was over: {'; '.join(open_ends(stage, campaign.load)[:12])}")
        if outcome.violations:
            outcome.evidence = _evidence(stage, outcome)
            if keep is not None:
                shutil.copytree(
                    stage.folder, keep / scenario.name, ignore=shutil.ignore_patterns("*.sock", "keys", "vault.keys")
                )
    return outcome


def _evidence(stage: Stage, outcome: Outcome) -> list[str]:
    """What a person needs to see: the leases, and the last lines of each log."""
    lines: list[str] = []
    for lease in outcome.verdict.facts.leases if outcome.verdict is not None else ():
        way = ", ".join(f"{state} {entered:%H:%M:%S.%f}"[:-3] for state, entered, _ in lease.spans)
        lines.append(f"lease {lease.name} {lease.tag} {lease.reason}{' struck' if lease.tag in stage.struck else ''}: {way}")
    for service in stage.services:
        lines += [f"--- {service.name}", *service.log.read_text("utf-8", "replace").splitlines()[-25:]]
    return [line[:400] for line in lines]


def say(text: str) -> None:
    """Progress, for people."""
    print(f"chaos {time.strftime('%H:%M:%S', time.gmtime())}  {text}", file=sys.stderr, flush=True)
