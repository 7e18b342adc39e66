"""`python -m tests.chaos --count 100`: the scenarios one after the other; the last line is one JSON object."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.campaign import Outcome, run, say
from tests.chaos.plan import SCENARIOS, Scenario, plan, shared
from tests.chaos.stage import HOLD, Missing
from tests.parts import docker, postgres, required


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="kill -9 so often, over all scenarios (default: 100)")
    parser.add_argument("--seed", type=int, help="draws the same strikes again; the machine's own timing is never the same")
    parser.add_argument("--limit-minutes", type=float, default=20.0, help="the hard end of the whole run (default: 20)")
    parser.add_argument(
        "--scenario", action="append", choices=[one.name for one in SCENARIOS], help="only this one; repeatable"
    )
    parser.add_argument("--keep", type=Path, help="on violations, copy logs, database and instances below this folder")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """0: nothing was violated; 1: something was, or a required part is missing; 130: interrupted."""
    options = arguments(given)
    seed: int = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    signal.signal(signal.SIGTERM, _as_interrupt)
    began = time.monotonic()
    chosen = [one for one in SCENARIOS if options.scenario is None or one.name in options.scenario]
    absent = {one.name: lack for one in chosen if (lack := _lack(one))}
    playable = [one for one in chosen if one.name not in absent]
    for name, lack in absent.items():
        say(f"NOT PLAYED: {name}: {lack}")
    say(f"seed {seed}, {options.count} kills: {', '.join(one.name for one in playable)}")
    outcomes: list[Outcome] = []
    try:
        for scenario, kills in zip(playable, shared(options.count, playable), strict=True):
            strikes = plan(scenario, kills, HOLD, seed)
            try:
                if kills:
                    outcomes.append(run(scenario, strikes, seed, began + options.limit_minutes * 60, options.keep))
            except Missing as lack:
                absent[scenario.name] = str(lack)
                say(f"NOT PLAYED: {scenario.name}: {lack}")
    except KeyboardInterrupt:
        say("interrupted; everything was ended")
        return 130
    again = f"python -m tests.chaos --count {options.count} --seed {seed}"
    for outcome in outcomes:
        for line in [*outcome.violations, *outcome.evidence]:
            print(line, file=sys.stderr)
    figures = _figures(outcomes, seed, time.monotonic() - began) | {"missing": absent}
    if figures["violations"]:
        say(f"violated; again: {again}")
    print(json.dumps(figures))
    unmet = [part for part in ("PostgreSQL", docker.PART) if required(part) and any(part in text for text in absent.values())]
    return 1 if figures["violations"] or unmet or not outcomes else 0


def _lack(scenario: Scenario) -> str:
    """Why this machine cannot play it, as far as a look can tell; empty: it can."""
    if scenario.database == "postgresql" and (remedy := postgres.remedy()):
        return f"PostgreSQL is not here: {remedy}"
    if scenario.provider == "docker" and not docker.possible():
        return f"{docker.PART} is not here: {docker.REMEDY}"
    if scenario.provider == "docker" and shutil.which("busybox") is None and shutil.which("bash") is None:
        return "bash is not here: install bash"
    return ""


def _figures(outcomes: Sequence[Outcome], seed: int, seconds: float) -> dict[str, Any]:
    targets, moments = Counter[str](), Counter[str]()
    for one in outcomes:
        targets += one.by_target
        moments += one.by_moment
    verdicts = [one.verdict for one in outcomes if one.verdict is not None]
    facts = [one.facts for one in verdicts]
    return {
        "kills": sum(targets.values()),
        "by_target": dict(sorted(targets.items())),
        "by_moment": dict(sorted(moments.items())),
        "database_restarts": sum(one.database_restarts for one in outcomes),
        "forge_restarts": sum(one.forge_restarts for one in outcomes),
        "pauses": sum(one.pauses for one in outcomes),
        "jobs": sum(len(one.forge_jobs) for one in facts),
        "ran_once": sum(one.ran_once for one in verdicts),
        "explained": sum(one.explained for one in verdicts),
        "leases": sum(len(one.leases) for one in facts),
        "leftovers": {
            "processes": sum(len(one.processes) for one in facts),
            "containers": sum(len(one.instances) for one in facts),
            "runners": sum(len(one.runners) for one in facts),
            "leases": sum(lease.state != "released" for one in facts for lease in one.leases),
        },
        "scenarios": {one.scenario: {"seconds": round(one.seconds), "quiet_after": round(one.healed_in)} for one in outcomes},
        "seconds": round(seconds),
        "seed": seed,
        "violations": sum(len(one.violations) for one in outcomes),
    }


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
