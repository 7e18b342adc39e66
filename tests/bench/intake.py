"""How many deliveries a second are taken in durably, beside what the disk, the store and the web can do alone."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.dialects import sqlite

from app.forges.github import GitHubForge
from app.store import jobs
from app.store.db import Database, upgrade
from app.store.rows import job_values
from app.store.tables import delivery, job
from providers.contract import Secret
from tests.bench.deliveries import SECRET, Deliveries
from tests.bench.ground import milliseconds, serving

GROUP = 64
CONNECTIONS = 64
ELSEWHERE = ["gpu", "another-fleet"]  # labels that no pool has: the engine places the job, and rents nothing


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Rates are of the best of two rounds: what else the machine does only ever slows it."""
    rounds = 2
    whole = [_served(folder / f"whole-{n}", count) for n in range(rounds)]
    bare = [_served(folder / f"bare-{n}", count, "--without-store") for n in range(rounds)]
    best, best_bare = max(whole, key=lambda one: one["per_s"]), max(bare, key=lambda one: one["per_s"])
    records = _records(count)
    store = max(_rate(lambda n=n: _through_store(folder / f"store-{n}", records), count) for n in range(rounds))
    disk = max(_rate(lambda n=n: _straight(folder / f"disk-{n}", records), count) for n in range(rounds))
    return {
        "intake_per_s": round(best["per_s"]),
        "intake_vs_commit_limit": round(best["per_s"] / disk, 3),
        "intake_vs_no_store": round(best["per_s"] / best_bare["per_s"], 3),
        "intake_p99_ms": best["p99_ms"],
        "intake_server_cpu_us": best["cpu_us"],
        "no_store_server_cpu_us": best_bare["cpu_us"],
        "load_cpu_us": best["load_us"],
        "no_store_per_s": round(best_bare["per_s"]),
        "commit_limit_per_s": round(disk),
        "store_per_s": round(store),
    }


def _served(folder: Path, count: int, *words: str) -> dict[str, float]:
    made = Deliveries()
    with serving(folder, *words) as service:
        service.send(folder, (made.request(n, labels=ELSEWHERE) for n in range(1, 300)), CONNECTIONS)
        before = service.cpu()
        told = service.send(folder, (made.request(n, labels=ELSEWHERE) for n in range(1_000, 1_000 + count)), CONNECTIONS)
        cpu = service.cpu() - before
    return {
        "per_s": count / told["seconds"],
        "p99_ms": milliseconds(told["waits"], 0.99),
        "cpu_us": round(cpu / count * 1e6),
        "load_us": round(told["cpu_s"] / count * 1e6),
    }


def _records(count: int) -> list[jobs.Record]:
    made, now = Deliveries(), datetime.now(UTC)  # noqa: TID251
    forge = GitHubForge(webhook_secret=Secret(SECRET), now=lambda: now, token=Secret("t"))
    records: list[jobs.Record] = []
    for number in range(count):
        content = made.body(number + 1)
        told = forge.parse({name.lower(): value for name, value in made.headers(content).items()}, content)
        records.append(jobs.Record(told.forge, told.guid, told.event, told.action, told.job))
    return records


def _rate(work: Callable[[], float], count: int) -> float:
    return count / work()


def _through_store(folder: Path, records: Sequence[jobs.Record]) -> float:
    """Seconds for all, through the store's own function, in groups."""
    folder.mkdir()
    url, now = f"sqlite:///{folder / 'x.db'}", datetime.now(UTC)  # noqa: TID251
    upgrade(url)
    db = Database(url)
    began = time.perf_counter()
    for start in range(0, len(records), GROUP):
        jobs.record(db, records[start : start + GROUP], now)
    seconds = time.perf_counter() - began
    db.close()
    return seconds


def _straight(folder: Path, records: Sequence[jobs.Record]) -> float:
    """Seconds for the same rows in the same tables in the same groups, by SQLite alone: the machine's own limit."""
    folder.mkdir()
    path, now = folder / "x.db", datetime.now(UTC)  # noqa: TID251
    upgrade(f"sqlite:///{path}")
    deliveries = [(one.forge, one.guid, one.event, one.action, now.isoformat()) for one in records]
    dialect = sqlite.dialect()
    shape = [column.type.dialect_impl(dialect).bind_processor(dialect) for column in job.c]
    rows = [_bound(one.job, shape) for one in records if one.job is not None]
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("PRAGMA journal_mode=WAL")
    conn.execute("PRAGMA synchronous=FULL")
    first = f"INSERT INTO delivery ({', '.join(delivery.c.keys())}) VALUES (?, ?, ?, ?, ?)"
    second = f"INSERT INTO job ({', '.join(job.c.keys())}) VALUES ({', '.join('?' * len(job.c))})"
    began = time.perf_counter()
    for start in range(0, len(records), GROUP):
        conn.execute("BEGIN IMMEDIATE")
        conn.executemany(first, deliveries[start : start + GROUP])
        conn.executemany(second, rows[start : start + GROUP])
        conn.execute("COMMIT")
    seconds = time.perf_counter() - began
    conn.close()
    return seconds


def _bound(one: Any, shape: Sequence[Callable[[Any], Any] | None]) -> tuple[Any, ...]:
    values = {**dict.fromkeys(job.c.keys()), "asks": 0, **job_values(one)}
    values["seen_at"] = values["seen_at"] or values["queued_at"]
    return tuple(
        values[name] if change is None or values[name] is None else change(values[name])
        for name, change in zip(job.c.keys(), shape, strict=True)
    )
