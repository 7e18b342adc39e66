"""One seed from its first webhook to the last cent: chaos for some hours, then quiet until everything is settled."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import Context
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from app.core.model import Pool, RepositoryRule, ScopeKind
from app.engine.step import Timing
from app.store.vault import Vault
from app.wiring import telemetry_of
from providers.contract import Need, Provider
from tests.parts.reopened import Reopened, give_back, lend
from tests.simulation import verdict
from tests.simulation.conditions import Conditions, Window
from tests.simulation.hub import Hub
from tests.simulation.lab import Lab
from tests.simulation.loop import Loop
from tests.simulation.server import Door, Server, Several
from tests.simulation.sides import LABELS, REPOSITORIES, Parcel, Side
from tests.simulation.sky import Bridge, make_cloud
from tests.simulation.smithy import Smithy
from tests.simulation.tea import Tea
from tests.simulation.tenant import Tenant
from tests.simulation.traffic import Traffic
from tests.simulation.users import Users
from tests.simulation.watch import Watch
from tests.simulation.wire import BOARD

START = datetime.fromisoformat("2026-11-21T12:00:00+00:00")
SETTLED_WITHIN = 3.0 * 3600
"""Virtual seconds of quiet after which everything must have come to its end."""
KEPT = 400


class WorldClock:
    """Virtual time, as everybody but the services sees it."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.now)

    def monotonic(self) -> float:
        return self._loop.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class World:
    """Everything of one seed. `broken` collects what must not have happened."""

    def __init__(self, conditions: Conditions, database: Path, vault: Path) -> None:
        self.conditions = conditions
        self.dice = random.Random(f"world {conditions.seed}")
        self.loop = Loop()
        self.clock = WorldClock(self.loop)
        self.troubled = True
        self.keeps_all = False
        self.heard: list[str] = []  # log lines
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.lines: list[str] = []
        self.digest = hashlib.sha256()
        self.canaries: set[str] = set()
        self._news: asyncio.Event | None = None
        self.parcels: list[Parcel] = []
        self.database_path = database
        self._url = f"sqlite:///{database}"
        self.database: Reopened = lend(self._url, Several if conditions.servers > 1 else Reopened)
        self.vault = Vault(vault)
        self.watch = Watch(self, database)
        self.door = Door(self)
        self.users = Users(self)
        self.hub = Hub(self.clock, conditions.seed, conditions.quota, self._post)
        self.sides: dict[str, Side] = {"github": self.hub}
        if "gitlab" in conditions.forges:
            self.sides["gitlab"] = Lab(self.clock, self._post)
        if "gitea" in conditions.forges:
            self.sides["gitea"] = Tea(self.clock, conditions.gitea, conditions.gitea_hook, self._post)
        if "forgejo" in conditions.forges:
            self.sides["forgejo"] = Smithy(self.clock, conditions.forgejo, self._post)
        self.traffic = Traffic(self)
        self.clouds = {vendor.name: make_cloud(self, vendor) for vendor in conditions.vendors}
        self.tenants: dict[str, Tenant] = {}
        self.pools = {pool.name: pool for pool in (self._pool(),)}
        self.repositories = tuple(map(RepositoryRule, ("acme/*",) if conditions.globs else REPOSITORIES))
        self.timing = timing_of(conditions)
        self.telemetry = telemetry_of(self.sides, self.clouds, self.pools)
        self.servers: dict[str, Server | None] = {}
        for pool in self.pools.values():
            self.watch.rows.execute("INSERT INTO sim_pool VALUES (?, ?)", (pool.name, pool.ceiling))

    def _pool(self) -> Pool:
        known = self.conditions
        return Pool(
            name="gpu",
            labels=frozenset(LABELS),
            need=Need(gpu="rubin", gpus=1, gpu_memory_gib=80, max_price_per_hour=Decimal("9.50")),
            ceiling=known.ceiling,
            scopes={name: ScopeKind.ORGANIZATION for name in known.forges if name != "gitlab"} if known.organization else {},
            idle_limit=timedelta(minutes=known.idle),
            max_duration=timedelta(minutes=known.longest),
            boot_limit=timedelta(minutes=min(known.boot_limit, known.longest)),
        )

    def later(self, seconds: float, work: Callable[..., object], *values: Any) -> None:
        """The world's own doing: no service's death or standstill holds it up."""
        self.loop.call_later(seconds, work, *values, context=Context())

    # --- what happened

    def count(self, fault: str) -> None:
        self.counts[fault] += 1

    def happens(self, name: str) -> bool:
        """Whether this fault meets this one; counted where it takes its effect."""
        rate = self.conditions.rates.get(name)
        if rate is None or not self.troubled or self.dice.random() >= rate:
            return False
        if name.startswith("node_") and name != "node_mute_later":
            self.count("clock_skew" if name == "node_clock" else name)
        return True

    def during(self, kind: str) -> bool:
        now = self.loop.now
        return self.troubled and any(one.kind == kind and one.begins <= now < one.ends for one in self.conditions.windows)

    def trace(self, line: str) -> None:
        told = f"{self.loop.now:.3f} {line}"
        self.digest.update(told.encode())
        self.lines.append(told)
        if len(self.lines) > 2 * KEPT and not self.keeps_all:
            del self.lines[:KEPT]

    @property
    def broken_count(self) -> int:
        return len(self.violations)

    def broken(self, what: str, detail: str = "") -> None:
        told = f"{what}: {detail}" if detail else what
        if told not in self.violations:
            self.violations.append(told)
            self.trace(f"VIOLATION {told}")

    # --- services

    def start(self) -> None:
        BOARD.router, BOARD.now = self.traffic.route, lambda: self.clock.now().timestamp()
        for number in range(self.conditions.servers):
            self.servers[f"s{number + 1}"] = None
            self._boot(f"s{number + 1}")
        for window in self.conditions.windows:
            self.later(window.begins, self._opens, window)
        if self.conditions.skew:
            begins = self.dice.uniform(0, self.conditions.hours * 3600)
            self.later(begins, self.count, "clock_skew")
            self._jump = (begins, begins + self.dice.choice((60.0, 1200.0, 7200.0)))
        self.loop.spawn(None, self.users.work())
        self.loop.spawn(None, self._tick())

    _jump = (0.0, 0.0)

    def host_time(self) -> datetime:
        """What a host's own clock says; where several services share a database, they ask that instead."""
        alone = self.conditions.servers == 1
        wrong = alone and self.troubled and self._jump[0] <= self.loop.now < self._jump[1]
        return self.clock.now() + timedelta(seconds=self.conditions.skew if wrong else 0.0)

    def _boot(self, name: str) -> None:
        if self.servers[name] is not None:
            return
        if self.servers and self._jump[0] <= self.loop.now < self._jump[1]:
            self._jump = (0.0, 0.0)  # a host that starts anew has set its clock
        self.trace(f"{name} starts")
        self.servers[name] = Server(self, name, self.host_time)

    def _opens(self, window: Window) -> None:
        if not self.troubled:
            return
        self.trace(f"{window.kind} until {window.ends:.0f}")
        if window.kind == "service_away":
            self.count("service_away")
            for name, server in self.servers.items():
                if server is not None:
                    self._end(server)
                    self.later(window.ends - self.loop.now, self._boot, name)
        elif window.kind == "capacity_gone":
            self.count("no_capacity")
            for cloud in self.clouds.values():
                cloud.capacity = 0
            self.later(window.ends - self.loop.now, self._restock)

    def _restock(self) -> None:
        """The clouds have again what they had, unless another such window is still open. What is quiet has no limit."""
        ends = [
            one for one in self.conditions.windows if one.kind == "capacity_gone" and one.begins <= self.loop.now < one.ends
        ]
        if self.troubled and not ends:
            for vendor in self.conditions.vendors:
                self.clouds[vendor.name].capacity = vendor.capacity or None

    def crash(self, server: Server) -> None:
        """kill -9. It comes back soon; sometimes to die again at once."""
        if not server.process.alive:
            return
        self.count("crash")
        self.trace(f"{server.name} crashes")
        self._end(server)
        self.later(self.dice.choice((1.0, 5.0, 30.0, 120.0)), self._boot, server.name)

    def _end(self, server: Server) -> None:
        server.process.alive = False
        self.servers[server.name] = None
        for waiter in list(server.process.waiters):
            if not waiter.done():
                waiter.set_exception(httpx.ConnectError("reset"))

    def pause(self, server: Server) -> None:
        """The whole process stands still, and does not know it."""
        if server.process.paused:
            return
        self.count("engine_paused")
        for_long = self.dice.choice((5.0, 60.0, 300.0, 1200.0))
        self.trace(f"{server.name} stands still for {for_long:.0f} s")
        server.process.paused = True
        self.later(for_long, self.loop.resume, server.process)

    def choose_server(self) -> Server | None:
        up = [server for server in self.servers.values() if server is not None]
        return self.dice.choice(up) if up else None

    def wrapped(self, name: str, server: Server) -> Provider:
        vendor = next(one for one in self.conditions.vendors if one.name == name)
        return Bridge(self, server, vendor, self.clouds[name])

    # --- machines

    def notice(self, name: str) -> None:
        """Machines that have come to be begin to live."""
        cloud = self.clouds[name]
        cloud.settle()
        for machine in list(cloud.machines.values()):
            if machine.id not in self.tenants:
                self.trace(f"machine {machine.id} {machine.tag}")
                tenant = self.tenants[machine.id] = Tenant(self, cloud, machine)
                self.loop.spawn(None, tenant.live())

    def durations(self) -> float:
        """Seconds that a job takes."""
        return self.dice.choice((20.0, 20.0, 60.0, 60.0, 240.0, 600.0, 1800.0))

    # --- forges

    def attempt(self, forge: str, key: str) -> str:
        """One attempt of a job: "gitea-701", and "gitea-701 again 1" where it is run again under its old key."""
        turn = self.sides[forge].turn(key)
        return f"{forge}-{key} again {turn}" if turn else f"{forge}-{key}"

    def _post(self, parcel: Parcel) -> None:
        self.parcels.append(parcel)
        if self._news is not None:
            self._news.set()
        self.users.post(parcel)

    async def news(self, seconds: float) -> None:
        """Until a forge has something new, or so many seconds have passed."""
        if self._news is None or self._news.is_set():
            self._news = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return
        await asyncio.sleep(1.0)

    async def _tick(self) -> None:
        """What time alone brings about at forges and clouds."""
        while True:
            await asyncio.sleep(30)
            for side in self.sides.values():
                side.tick()
            for name in self.clouds:
                self.notice(name)

    # --- the course of things

    def run(self) -> None:
        """Chaos, then quiet; then everything is checked."""
        self.start()
        self.loop.run(lambda: False, self.conditions.hours * 3600)
        self.calm()
        settled = verdict.settled(self)
        limit = self.loop.now + SETTLED_WITHIN
        while not settled and self.loop.now < limit:
            self.loop.run(lambda: False, self.loop.now + 60)
            self.users.answer()
            settled = verdict.settled(self)
        self.users.gone = True
        verdict.judge(self, settled)

    def calm(self) -> None:
        """No more trouble: what is down comes up, who stood still goes on, and lists are up to date."""
        self.trace("quiet")
        self.troubled = False
        self.hub.state.book.limits.requests_per_hour = 1_000_000
        for vendor in self.conditions.vendors:
            cloud = self.clouds[vendor.name]
            cloud.capacity, cloud.faults.list_lag = None, timedelta(0)
        for name, server in self.servers.items():
            if server is None:
                self._boot(name)
            else:
                server.crash_rate = server.pause_rate = 0.0
                if server.process.paused:
                    self.loop.resume(server.process)

    def picture(self) -> str:
        """Every lease and job as it stands, and the last that happened."""
        rows = self.watch.all("SELECT name, state, reason, note, instance_id, tag FROM lease ORDER BY created_at")
        jobs = self.watch.all("SELECT id, state, pool, not_ours, wait, lease_id, conclusion FROM job ORDER BY seen_at")
        lines = [f"  lease {' | '.join(str(value) for value in row)}" for row in rows]
        lines += [f"  job {' | '.join(str(value) for value in row)}" for row in jobs]
        for side in self.sides.values():
            lines.append(f"  {side.name} says {json.dumps(side.all_jobs())} runners {side.registered()}")
        living = [(one.id, one.tag) for cloud in self.clouds.values() for one in cloud.living()]
        return "\n".join([*lines, f"  machines {living}"])

    def close(self) -> None:
        self.loop.bury()
        self.watch.close()
        give_back(self.database, self._url)
        BOARD.router = None


def timing_of(known: Conditions) -> Timing:
    """The service's own rhythm, coarse enough for hours in a blink."""
    given: Mapping[str, float] = {
        "beat": known.beat,
        "hold": known.hold,
        "silent": known.silent,
        "watch": known.sweep,
        "sweep": known.sweep,
        "hush": known.heartbeat * 3,
        "forge_sweep": known.forge_sweep,
        "market": 1800,
    }
    fields: Any = Timing.__dataclass_fields__
    lengths: Any = {name: timedelta(seconds=value) for name, value in given.items() if name in fields}
    return Timing(**lengths)
