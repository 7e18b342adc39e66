"""Ten thousand leases at work, fifty job ends and starts a second: what that costs, and what those cost that do not change."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.deliveries import Deliveries, http
from tests.bench.ground import Running, milliseconds, runner_of, serving
from tests.bench.latency import node
from tests.bench.load import status_of
from tests.fake_node import fitting, read_user_data

HEARTBEAT = 10.0  # seconds: the settings' default
WAYS = 24  # connections


@dataclass
class Way:
    """One kept connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, request: bytes) -> tuple[str, Any]:
        self.writer.write(request)
        got = b""
        while (status := status_of(got)) is None:
            more = await self.reader.read(65536)
            if not more:
                raise ConnectionError("the service closed the connection")
            got += more
        content = got.partition(b"\r\n\r\n")[2]
        return status, json.loads(content) if content else None


class Ways:
    """A few connections that all share."""

    def __init__(self, port: int) -> None:
        self._port, self._free = port, asyncio.Queue[Way]()

    async def open(self) -> None:
        for _ in range(WAYS):
            self._free.put_nowait(await self._new())

    async def close(self) -> None:
        while not self._free.empty():
            self._free.get_nowait().writer.close()

    async def send(self, request: bytes) -> tuple[str, Any]:
        way = await self._free.get()
        try:
            try:
                return await way.send(request)
            except ConnectionError:  # it was idle for too long
                way = await self._new()
                return await way.send(request)
        finally:
            self._free.put_nowait(way)

    async def _new(self) -> Way:
        return Way(*await asyncio.open_connection("127.0.0.1", self._port))


class Fleet:
    """The world around the service: forge and nodes, as many at once as there are."""

    def __init__(self, service: Running, ways: Ways) -> None:
        self._service, self._ways, self._made = service, ways, Deliveries()
        self._nodes: set[asyncio.Task[None]] = set()
        self._seen = 0
        self.started, self.ended = 0, 0

    async def steady(self, seconds: float, rate: float, ends: range) -> None:
        """So many job starts and ends a second; every new machine lives its life up to its job's start."""
        began, done = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < seconds:
            while done < min(passed * rate, len(ends)):
                self._go(self._one(ends[done]))
                done += 1
            self._boot()
            await asyncio.sleep(0.005)

    async def settle(self, within: float) -> None:
        """Until every job that was queued has started, or so many seconds have passed."""
        end = time.perf_counter() + within
        while self.started < self.ended and time.perf_counter() < end:
            self._boot()
            await asyncio.sleep(0.05)

    def _boot(self) -> None:
        while self._seen < len(self._service.created):
            self._go(self._live(self._service.created[self._seen][2], 500_000 + self._seen))
            self._seen += 1

    def _go(self, life: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(life)
        self._nodes.add(task)
        task.add_done_callback(self._nodes.discard)

    async def _one(self, number: int) -> None:
        over = {"conclusion": "success", "runner_name": runner_of(number), "runner_id": number + 1}
        job, self.ended = 500_000 + self.ended, self.ended + 1
        await self._ways.send(self._made.request(number + 1, "completed", completed_at="2026-11-21T12:10:00Z", **over))
        await self._ways.send(self._made.request(job))

    async def _live(self, user_data: str, job: int) -> None:
        told, session = read_user_data(user_data), secrets.token_urlsafe(32)
        headers = {"Authorization": f"Bearer {session}", "Content-Type": "application/json"}

        async def say(path: str, **body: Any) -> tuple[str, Any]:
            return await self._ways.send(http(f"POST /node/{path}", headers, json.dumps(body).encode()))

        _, joined = await say("join", lease=told.lease, token=told.token, session=session)
        await say("facts", **fitting(joined["want"]))
        ticket = secrets.token_urlsafe(32)
        status, credential = await say("credential", ticket=ticket)
        while status == "202":
            await asyncio.sleep(0.25)
            status, credential = await say("credential", ticket=ticket)
        await say("event", kind="runner_online")
        await say("event", kind="job_started")
        name = credential["environment"]["RUNNER"]
        await self._ways.send(self._made.request(job, "in_progress", runner_name=name, runner_id=job))
        self.started += 1

    async def beat(self, seconds: float, count: int) -> None:
        """Every node says once in ten seconds that it lives."""
        began, done = time.perf_counter(), 0
        async with asyncio.TaskGroup() as group:
            while (passed := time.perf_counter() - began) < seconds:
                while done < passed * count / HEARTBEAT:
                    group.create_task(_quietly(self._ways.send(node(done % count, "heartbeat", phase="running", at=None))))
                    done += 1
                await asyncio.sleep(0.005)


async def _quietly(sending: Awaitable[object]) -> None:
    await sending


def measure(folder: Path, count: int, seconds: float, rate: float) -> dict[str, Any]:
    """CPU shares are of one core."""
    changes = int(seconds * rate)
    with serving(folder, seeded=count) as service:
        told = asyncio.run(_run(service, count, seconds, rate, changes))
        told["live_leases_rss_mb"] = round(service.memory())
    jobs, calls = max(told["starts"], 1), service.counted["calls"]
    per_job = {name: calls.get(name, 0) / jobs for name in ("mint_runner", "fetch_run", "fetch_job", "runner", "remove_runner")}
    return {
        **told,
        "claim_p99_ms": milliseconds(service.counted["claims"], 0.99),
        "claim_p50_ms": milliseconds(service.counted["claims"], 0.5),
        "forge_calls_per_job": round(sum(per_job.values()), 2),
        "forge_calls": {name: round(share, 3) for name, share in per_job.items()},
        "forge_calls_amortised": {name: number for name, number in calls.items() if name not in per_job},
    }


async def _run(service: Running, count: int, seconds: float, rate: float, changes: int) -> dict[str, Any]:
    ways = Ways(service.port)
    await ways.open()
    fleet = Fleet(service, ways)

    async def share(work: Callable[[], Awaitable[None]]) -> float:
        cpu, began = service.cpu(), time.perf_counter()
        await work()
        return round((service.cpu() - cpu) / (time.perf_counter() - began), 3)

    await asyncio.sleep(3)
    idle = await share(lambda: asyncio.sleep(seconds))
    busy = await share(lambda: fleet.steady(seconds, rate, range(changes)))
    await fleet.settle(60)
    beats = await share(lambda: fleet.beat(seconds, count))
    await ways.close()
    return {
        "live_leases": count,
        "live_leases_cpu_share": busy,
        "live_leases_idle_cpu_share": idle,
        "heartbeats_cpu_share": beats,
        "starts": fleet.started,
        "ends": fleet.ended,
        "destroyed": len(service.destroyed),
    }
