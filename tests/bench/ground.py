"""Settings, seeded databases, and the service as a process that is measured from outside."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from app.core.model import Ask, DemandKey, Job, JobState, Lease, Scope, ScopeKind
from app.core.policy import Plan
from app.core.states import State
from app.store import jobs, leases
from app.store.db import Database, upgrade
from app.store.tables import node_session
from providers.contract import Need
from tests.bench import load
from tests.bench.deliveries import LABELS, REPOSITORY, SECRET

ROOT = Path(__file__).resolve().parents[2]
POOLS = 12
SETTINGS = f"""
[github]
token = "env:BENCH_TOKEN"
webhook_secret = "env:BENCH_SECRET"
[[provider]]
name = "cloud"
kind = "fake"
[[repository]]
match = "acme/*"
[[pool]]
name = "bench"
labels = {json.dumps(LABELS)}
max_price_per_hour = "9.5"
ceiling = 1000
mode = "bare"
signed = false
""" + "".join(
    f'[[pool]]\nname = "pool-{n}"\nlabels = ["gpu", "pool-{n}"]\nceiling = 1000\nmode = "bare"\nsigned = false\n'
    for n in range(POOLS)
)


def session_of(number: int) -> str:
    """The secret that the seeded node speaks with."""
    return f"{number:043d}"


def runner_of(number: int) -> str:
    return f"seeded-{number}"


def seed(db: Database, count: int, first_job: int = 1) -> None:
    """That many leases at work, each with its machine, its node and its job, and nothing to do for hours."""
    now = datetime.now(UTC)  # noqa: TID251
    for start in range(0, count, 1_000):
        part = range(start, min(start + 1_000, count))
        leases.plan(db, lambda _, part=part: Plan(new=tuple(_at_work(n, now) for n in part)), now)
        told = [_job(n, first_job + n, now) for n in part]
        jobs.record(db, [jobs.Record("github", "", "seed", "", one) for one in told], now)
    sessions = [
        {
            "hash": hashlib.sha256(session_of(n).encode()).hexdigest(),
            "lease_id": f"{n:016x}",
            "created_at": now,
            "expires_at": now + timedelta(hours=9),
        }
        for n in range(count)
    ]
    with db.write() as conn:
        conn.execute(sa.text("UPDATE lease SET due = :due"), {"due": f"{now + timedelta(hours=3):%Y-%m-%d %H:%M:%S.%f}"})
        conn.execute(sa.text("UPDATE job SET pool = 'bench', scope = 'repository:acme/train', cleared_at = seen_at"))
        if sessions:
            conn.execute(sa.insert(node_session), sessions)


def _at_work(number: int, now: datetime) -> Lease:
    scope = Scope(ScopeKind.REPOSITORY, REPOSITORY)
    return Lease(
        id=f"{number:016x}",
        name=f"seed-{number}",
        key=DemandKey(f"pool-{number % POOLS}", "github", scope, ("gpu", f"pool-{number % POOLS}")),
        state=State.BUSY,
        attempt=1,
        tag=f"seed-{number}",
        created_at=now,
        entered_at=now,
        deadline=now + timedelta(hours=3),
        due=now,
        need=Need(),
        ask=Ask(),
        provider="cloud",
        region="sg",
        offer={"id": "o-1", "title": "a machine", "price_per_hour": "2.10"},
        price_per_hour=Decimal("2.10"),
        asked_at=now,
        billed_from=now,
        create_key="k",
        instance_id=f"i-{number}",
        hard_end=now + timedelta(hours=3),
        joined_at=now,
        heartbeat_at=now,
        runner_started_at=now,
        job_started_at=now,
        credential_taken_at=now,
        runner_id=str(number + 1),
        runner_name=runner_of(number),
    )


def _job(number: int, key: int, now: datetime) -> Job:
    name = runner_of(number)
    return Job(
        f"github-{key}",
        "github",
        str(key),
        REPOSITORY,
        JobState.IN_PROGRESS,
        run_id=str(key),
        labels=("gpu", f"pool-{number % POOLS}"),
        runner_name=name,
        queued_at=now,
        started_at=now,
    )


@dataclass
class Running:
    """The service, and what it told so far."""

    process: subprocess.Popen[str]
    port: int
    created: list[tuple[float, str, str]] = field(default_factory=list[tuple[float, str, str]])  # time, instance, user data
    destroyed: dict[str, float] = field(default_factory=dict[str, float])  # instance: time of the first call
    counted: dict[str, Any] = field(default_factory=dict[str, Any])

    def listen(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            line: list[Any] = json.loads(text)
            if line[0] == "create":
                self.created.append((line[1], line[2], line[3]))
            elif line[0] == "destroy":
                self.destroyed.setdefault(line[2], line[1])
            else:
                self.counted = line[1]

    def until(self, there: Any, within: float) -> bool:
        """Waits for it; False if it does not come."""
        end = time.perf_counter() + within
        while not there() and time.perf_counter() < end:
            threading.Event().wait(0.005)
        return bool(there())

    def tolls(self, jobs: int) -> dict[str, float]:
        """Microseconds of processor time for one job, by the function of the store or forge that took it, the dearest first;
        what the event loop took is `loop`. Known once the service has ended."""
        found = {name: round(toll[1] / jobs * 1e6) for name, toll in self.counted["tolls"].items()}
        dearest = sorted(found.items(), key=lambda one: -one[1])[:8]
        return {**dict(dearest), "loop": round(self.counted["loop_s"] / jobs * 1e6)}

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def memory(self) -> float:
        """MiB of resident memory."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    def send(self, folder: Path, requests: Iterable[bytes], connections: int) -> dict[str, Any]:
        """Requests from a process of their own, as fast as they are answered."""
        path = folder / "requests"
        load.pack(path, requests)
        command = [sys.executable, "-m", "tests.bench.load", str(self.port), str(connections), str(path)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
        told: dict[str, Any] = json.loads(done.stdout)
        assert set(told["statuses"]) <= {"200", "202"}, told["statuses"]
        return told


@contextmanager
def serving(folder: Path, *words: str, seeded: int = 0) -> Generator[Running]:
    """The service over this folder. With `seeded`, so many leases are at work in it."""
    folder.mkdir()
    (folder / "sublet.toml").write_text(SETTINGS)
    url = f"sqlite:///{folder / 'data' / 'sublet.db'}"
    (folder / "data").mkdir(mode=0o700)
    upgrade(url)
    if seeded:
        db = Database(url)
        seed(db, seeded)
        db.close()
    command = [sys.executable, "-m", "tests.bench.server", f"--seeded={seeded}", *words]
    command += ["--config", str(folder / "sublet.toml"), "--data", str(folder / "data"), "--port", "0", "--quiet"]
    env = {**os.environ, "BENCH_TOKEN": "t", "BENCH_SECRET": SECRET}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    running = Running(process, 0)
    ears = threading.Thread(target=running.listen, daemon=True)
    ears.start()
    try:
        ready = folder / "data" / "service.json"
        assert running.until(ready.exists, 60), (folder / "log").read_text()[-2000:]
        running.port = int(json.loads(ready.read_text())["url"].rpartition(":")[2])
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        ears.join(10)


def milliseconds(seconds: Iterable[float], share: float) -> float:
    """The value below which this share of them lies, in milliseconds."""
    ordered = sorted(seconds)
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 2) if ordered else float("nan")
