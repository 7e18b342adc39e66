"""demand + leases + now -> decisions, each with its reason. Pure: the store runs it inside one transaction.

Supply is counted, never paired: a lease that is still coming, or one that started a job which the
forge has not named yet, covers one waiting job of its key. What is missing is planned, oldest
demand first, under the pool's ceiling; what is too many is given back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.core.demand import demand
from app.core.model import FAILED, Demand, DemandKey, Job, Lease, Pool, Reason
from app.core.pilot import is_pilot
from app.core.states import COMING, ORDER, State

FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=5)
IMAGE_PAUSE = timedelta(seconds=30)
"""The first pause after an image was refused: another offer would not change that, and signing it takes a person a moment."""
UNSTARTABLE = 126
"""The exit code of a runner that its node could not start, or found too old for its forge: what is on the image is to be
mended, and until then each machine is money for nothing."""
LONGEST_HOPELESS = timedelta(minutes=20)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What policy sees, read in one transaction."""

    queued: tuple[Job, ...]
    coming: tuple[Lease, ...]  # live ones that may still cover a waiting job; what runs a job that has a name is not needed
    alive: Mapping[str, int]  # live leases by pool, whatever their state; of pools without a waiting job nobody asks
    ended: tuple[Lease, ...]  # those that failed lately, gone or on their way, and of their keys the last one that served
    now: datetime


@dataclass(frozen=True, slots=True)
class Plan:
    """What policy wants: new leases, drains with their reason, and a sentence for every job that waits."""

    new: tuple[Lease, ...] = ()
    drain: tuple[tuple[str, Reason, str], ...] = ()
    waits: Mapping[str, str] = field(default_factory=dict[str, str])


Draw = Callable[[DemandKey, Demand, Pool, int], Lease]
"""Makes the row of a new lease (ids and names are random, so they come from outside): key, demand, pool, attempt."""


def decide(snapshot: Snapshot, pools: Mapping[str, Pool], draw: Draw, pinned: AbstractSet[str] = frozenset()) -> Plan:
    """One look at everything: plan what is missing, give back what is too many, explain every wait.

    `pinned`: the forges that give a runner the one job it was made for."""
    wanted = demand(snapshot.queued, pools, pinned)
    coming = _by_key(lease for lease in snapshot.coming if _covers(lease))
    ended = _by_key(snapshot.ended)
    alive = dict(snapshot.alive)
    new: list[Lease] = []
    drain: list[tuple[str, Reason, str]] = []
    waits: dict[str, str] = {}
    for want in wanted:
        pool = pools[want.key.pool]
        supply = coming.pop(want.key, [])
        failed = failures(ended.get(want.key, ()))
        pause = _pause(failed, snapshot.now)
        for place, job in enumerate(want.jobs):
            if place < len(supply):
                waits[job.id] = _coming_sentence(supply[place])
            elif alive.get(pool.name, 0) >= pool.ceiling:
                waits[job.id] = (
                    f"The pool {pool.name} is at its ceiling of {pool.ceiling} machines; the next free place is this job's."
                )
            elif pause is not None:
                waits[job.id] = _failed_sentence(failed, pause)
            else:
                lease = draw(want.key, want, pool, len(failed) + 1)
                new.append(lease)
                alive[pool.name] = alive.get(pool.name, 0) + 1
                waits[job.id] = f"Lease {lease.name} is planned for it."
        drain.extend(_surplus(supply[want.count :]))
    for supply in coming.values():
        drain.extend(_surplus(supply))
    return Plan(tuple(new), tuple(drain), waits)


def failures(ended: Sequence[Lease]) -> list[Lease]:
    """Those of one key that failed in a row, oldest first, gone or on their way; one that served ends the row."""
    row: list[Lease] = []
    for lease in sorted(ended, key=lambda lease: lease.gone_at or lease.entered_at):
        if lease.reason in FAILED:
            row.append(lease)
        else:
            row.clear()
    return row


def _pause(failed: Sequence[Lease], now: datetime) -> datetime | None:
    """None: try now. The first failure is tried again at once, on another offer; later ones wait 5 s, 10 s, ... 5 min.

    An image that was refused is looked at again after 30 s, 1 min, ... 5 min; a runner that cannot be started is tried again
    after 30 s, 2 min, 8 min, 20 min."""
    if not failed:
        return None
    last = failed[-1]
    if last.reason is Reason.IMAGE_REFUSED:
        wait = IMAGE_PAUSE * 2 ** min(len(failed) - 1, 10)
    elif _hopeless(last):
        wait = min(IMAGE_PAUSE * 4 ** min(len(failed) - 1, 5), LONGEST_HOPELESS)
        until = (last.gone_at or last.entered_at) + wait
        return until if until > now else None
    elif len(failed) < 2:
        return None
    else:
        wait = FIRST_PAUSE * 2 ** min(len(failed) - 2, 10)
    until = (last.gone_at or last.entered_at) + min(wait, LONGEST_PAUSE)
    return until if until > now else None


def _hopeless(lease: Lease) -> bool:
    return lease.reason is Reason.RUNNER_FAILED and lease.runner_exit == UNSTARTABLE


def _failed_sentence(failed: Sequence[Lease], pause: datetime) -> str:
    last = failed[-1]
    if last.reason is Reason.IMAGE_REFUSED:
        return f"The image may not run, so nothing is rented: {last.reason_text} It is looked at again at {pause:%H:%M:%S} UTC."
    if _hopeless(last):
        again = f"Each try is a machine for nothing; the next is at {pause:%H:%M:%S} UTC."
        return f"The runner cannot be started: {last.reason_text} {again}"
    why = f"the last as {str(last.reason).replace('_', ' ')}: {last.reason_text}"
    return f"{len(failed)} tries failed, {why} Next try at {pause:%H:%M:%S} UTC."


def _covers(lease: Lease) -> bool:
    if is_pilot(lease.key):
        return False  # it runs no job, and is no surplus either
    if lease.drain_asked_at is not None or lease.destroy_asked_at is not None:
        return False
    if lease.runner_exited_at is not None and lease.job_started_at is None:
        return False  # its runner ended without a job
    if lease.state in COMING:
        return not lease.job_id
    return lease.state is State.BUSY and not lease.job_id  # once its runner has ended, its station asks which job it was


def _by_key(leases: Iterable[Lease]) -> dict[DemandKey, list[Lease]]:
    groups: dict[DemandKey, list[Lease]] = {}
    for lease in leases:
        groups.setdefault(lease.key, []).append(lease)
    for group in groups.values():
        group.sort(key=lambda lease: (-ORDER[lease.state], lease.created_at, lease.id))  # the furthest first: they are kept
    return groups


def _surplus(leases: Sequence[Lease]) -> list[tuple[str, Reason, str]]:
    """Machines that nobody waits for are given back at once, but not a registered runner: it may be taking a job
    right now, and its own idle limit ends it. One that was made for a single job has none to wait for: its station asks
    the forge whether it is at work on it, and gives it back if not."""
    early = {State.PLANNED, State.LAUNCHING, State.BOOTING, State.PROVING}
    return [
        (lease.id, Reason.JOB_GONE, "No job waits for it any more: cancelled, or taken by another runner.")
        for lease in leases
        if lease.state in early or (lease.key.job and lease.state in (State.REGISTERING, State.IDLE))
    ]


def _coming_sentence(lease: Lease) -> str:
    words = {
        State.PLANNED: "is looking for an offer",
        State.LAUNCHING: "is being created",
        State.BOOTING: "is booting",
        State.PROVING: "is being checked",
        State.REGISTERING: "is registering its runner",
        State.IDLE: "has a runner online that may take this job any moment",
        State.BUSY: "has just started a job",
    }
    note = f" {lease.note}" if lease.note else ""
    return f"Lease {lease.name} {words[lease.state]}.{note}"
