"""What is there, read from everyone who was not killed: forge, database, provider, the machine's own processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from app.core.states import ORDER, State
from app.store import tables
from app.store.db import UNREACHABLE
from tests.chaos.load import Load
from tests.chaos.service import Exit
from tests.chaos.stage import Stage, marked, working_in


@dataclass(frozen=True, slots=True)
class LeaseFacts:
    """One lease with everything that the database says of it."""

    id: str
    name: str
    tag: str
    state: str
    reason: str
    runner_exit: int | None
    asked: bool  # whether a create was ever asked for
    booked: bool
    spans: tuple[tuple[State, datetime, datetime | None], ...] = ()  # in the order of the table: state, from, to
    charges: tuple[tuple[datetime, datetime, Decimal, datetime], ...] = ()  # from, to, amount, booked at
    audit: tuple[tuple[int, str], ...] = ()  # number and action, in the order they were written


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the verdict looks at."""

    forge_jobs: Mapping[int, Mapping[str, Any]]
    cancelled: frozenset[int]
    effects: tuple[tuple[str, str], ...]  # what a job wrote, and under which runner
    jobs: Mapping[int, tuple[str, str]]  # as the service has them: state and conclusion, by the forge's id
    leases: tuple[LeaseFacts, ...]
    struck: frozenset[str]  # tags of instances that the harness hurt
    ceiling: int
    runners: tuple[str, ...] = ()  # registrations left on the forge
    instances: tuple[str, ...] = ()  # folders or containers left at the provider
    processes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    exits: tuple[Exit, ...] = field(default=())


def open_ends(stage: Stage, load: Load) -> list[str]:
    """What is not at its end yet, a sentence each; empty when everything is quiet."""
    if not stage.whole():
        return ["not every part runs"]
    if not load.look():
        return ["the forge does not answer"]
    found = [f"{len(load.open)} jobs are open at the forge"] if load.open else []
    found += [f"the forge knows runner {name}" for name in load.runners]
    lease, job = tables.lease.c, tables.job.c
    unbooked = sa.and_(lease.state == "released", lease.asked_at.is_not(None), lease.booked_at.is_(None))
    try:
        with stage.db.read() as conn:
            for row in conn.execute(
                sa.select(lease.name, lease.state, lease.note).where(sa.or_(lease.state != "released", unbooked))
            ):
                found.append(f"lease {row.name} is {row.state}: {row.note}")
            for row in conn.execute(sa.select(job.key, job.state, job.wait).where(job.state != "completed")):
                found.append(f"the service takes job {row.key} for {row.state}: {row.wait}")
    except UNREACHABLE:
        return [*found, "the database does not answer"]
    return found + [f"the provider has {name}" for name in instances(stage)]


def instances(stage: Stage) -> list[str]:
    """What the provider still has: containers, or folders and processes."""
    if stage.engine is not None:
        return [str(one["Labels"].get("sublet.tag")) for one in stage.containers()]
    folders = [path.name for path in stage.instances.iterdir() if path.name != ".lock"] if stage.instances.exists() else []
    return sorted({*folders, *(tag for tag, _ in marked(stage.instances))})


def gather(stage: Stage, load: Load) -> Facts:
    """Everything, once the services have stopped; the forge and the database still run."""
    load.look()
    left = [f"{one.pid} {' '.join(one.cmdline())[:200]}" for one in working_in(stage.folder) if one.pid != stage.forge.pid]
    sockets = [str(path.relative_to(stage.folder)) for path in stage.folder.rglob("*") if path.is_socket()]
    temporary = [f"tmp/{path.name}" for path in (stage.folder / "tmp").iterdir()]
    effects = [line.split() for line in stage.effects.read_text().splitlines()]
    with stage.db.read() as conn:
        rows = conn.execute(sa.select(tables.job.c.key, tables.job.c.state, tables.job.c.conclusion))
        jobs = {int(row.key): (row.state, row.conclusion) for row in rows}
        leases = _leases(conn)
    return Facts(
        forge_jobs=dict(load.jobs),
        cancelled=frozenset(load.cancelled),
        effects=tuple((words[0], words[-1]) for words in effects if words),
        jobs=jobs,
        leases=leases,
        struck=frozenset(stage.struck),
        ceiling=stage.ceiling,
        runners=tuple(load.runners),
        instances=tuple(instances(stage)),
        processes=tuple(left),
        files=tuple(sorted({*sockets, *temporary})),
        exits=tuple(one for service in stage.services for one in service.exits),
    )


def _leases(conn: sa.Connection) -> tuple[LeaseFacts, ...]:
    lease, span, charge, audit = tables.lease, tables.span, tables.charge, tables.audit
    spans: dict[str, list[tuple[State, datetime, datetime | None]]] = {}
    for row in sorted(conn.execute(sa.select(span)), key=lambda row: ORDER[State(row.state)]):  # clocks differ by a little
        spans.setdefault(row.lease_id, []).append((State(row.state), row.entered_at, row.left_at))
    charges: dict[str, list[tuple[datetime, datetime, Decimal, datetime]]] = {}
    own = charge.c.kind != "stray"  # a stray is booked by itself, whenever it is found
    for row in conn.execute(sa.select(charge).where(own).order_by(charge.c.since, charge.c.until)):
        charges.setdefault(row.lease_id, []).append((row.since, row.until, row.amount, row.booked_at))
    actions: dict[str, list[tuple[int, str]]] = {}
    for row in conn.execute(sa.select(audit.c.object, audit.c.seq, audit.c.action).order_by(audit.c.seq)):
        actions.setdefault(row.object, []).append((row.seq, row.action))
    return tuple(
        LeaseFacts(
            id=row.id,
            name=row.name,
            tag=row.tag,
            state=row.state,
            reason=row.reason or "",
            runner_exit=row.runner_exit,
            asked=row.asked_at is not None,
            booked=row.booked_at is not None,
            spans=tuple(spans.get(row.id, ())),
            charges=tuple(charges.get(row.id, ())),
            audit=tuple(actions.get(f"lease:{row.id}", ())),
        )
        for row in conn.execute(sa.select(lease).order_by(lease.c.created_at))
    )
