"""The real service, started by app.main in a process of its own; provider and forge are in memory and tell of each call.

`python -m tests.bench.server [--without-store] [--profile FILE] [--seeded N] ...` takes the arguments of app.main besides.
Every create and destroy is a line of JSON on its standard output; the last line holds what was counted.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from app import main as service
from app import wiring
from app.forges.contract import Forge
from app.kit.threads import ThreadLane
from app.settings import Settings
from app.store import jobs, leases
from app.store.db import Database
from providers.contract import Provider
from tests.bench.cloud import Cloud, Hub


def forget(db: Database, records: Sequence[jobs.Record], now: datetime) -> list[jobs.Recorded]:
    """In the place of `jobs.record`: the same answer, and nothing is kept."""
    return [jobs.Recorded.RECORDED] * len(records)


def say(*words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def timed(function: Callable[..., Any], took: list[float]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            took.append(time.perf_counter() - began)

    return call


class Tolls:
    """Calls, seconds of processor time and seconds of every function that went through a lane."""

    def __init__(self) -> None:
        self.told: dict[str, list[float]] = {}
        self.from_start = 0.0  # seconds of processor time before the engine's first claim
        self._lock = threading.Lock()

    def install(self) -> None:
        """Every lane of the process is measured from now on."""
        through = ThreadLane.__call__

        async def call(lane: ThreadLane, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return await through(lane, self._paid, function, args, kwargs)

        ThreadLane.__call__ = call

    def _paid(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        began, worked = time.perf_counter(), time.thread_time()
        if not self.from_start and function is leases.claim:
            self.from_start, self.told = time.process_time(), {}
        try:
            return function(*args, **kwargs)
        finally:
            seconds, cpu = time.perf_counter() - began, time.thread_time() - worked
            with self._lock:
                toll = self.told.setdefault(f"{function.__module__.rpartition('.')[2]}.{function.__name__}", [0, 0.0, 0.0])
                toll[0], toll[1], toll[2] = toll[0] + 1, toll[1] + cpu, toll[2] + seconds


def run(words: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--without-store", action="store_true")
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--seeded", type=int, default=0)
    given, rest = parser.parse_known_args(words)
    hubs: list[Hub] = []
    claims: list[float] = []
    tolls = Tolls()
    tolls.install()

    def forges(_settings: Settings, now: Callable[[], datetime], *_: object, **__: object) -> dict[str, Forge]:
        hubs.append(Hub(now))
        return {"github": hubs[-1]}

    def providers(_settings: Settings, _data: Path) -> Mapping[str, Provider]:
        return {"cloud": Cloud(say, given.seeded)}

    wiring.forges_of, wiring.providers_of = forges, providers
    leases.claim = timed(leases.claim, claims)
    if given.without_store:
        jobs.record = forget
    profile = cProfile.Profile()
    try:
        return profile.runcall(service.main, rest) if given.profile else service.main(rest)
    finally:
        if given.profile:
            profile.dump_stats(given.profile)
        loop = time.process_time() - tolls.from_start - sum(toll[1] for toll in tolls.told.values())
        say("end", {"claims": claims, "tolls": tolls.told, "loop_s": loop, "calls": hubs[0].calls if hubs else {}})


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
