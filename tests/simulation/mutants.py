"""Planted bugs, each a small change of a real function while a test lasts: what the campaign must find, it finds here."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast

import sqlalchemy as sa

from app.core import policy
from app.core.model import Job, Lease
from app.core.states import State
from app.engine import boot, launch, listen, loop, reaper, runner
from app.engine.step import Answer, Deps, Move, Wait
from app.store import jobs, leases, reruns, strays
from app.store.tables import lease as lease_table
from providers.contract import ProviderError


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted bug: what it does, which functions it replaces, and what the campaign says of it."""

    name: str
    does: str
    parts: tuple[tuple[Any, str, Any], ...]  # where, which name, by what
    found_as: tuple[str, ...]  # the beginnings of violations that give it away
    seeds: tuple[int, ...]  # that are known to find it

    @contextlib.contextmanager
    def planted(self) -> Generator[None]:
        kept = [(place, name, _look(place, name)) for place, name, _ in self.parts]
        for place, name, made in self.parts:
            _put(place, name, made)
        try:
            yield
        finally:
            for place, name, before in kept:
                _put(place, name, before)


def _look(place: Any, name: Any) -> Any:
    return place[name] if isinstance(place, Mapping) else getattr(place, name)  # pyright: ignore[reportUnknownVariableType]  either


def _put(place: Any, name: Any, made: Any) -> None:
    if isinstance(place, dict):
        place[name] = made
    else:
        setattr(place, name, made)


STATIONS = cast("dict[State, Any]", loop.STATIONS)
REAL_CREATE: Callable[..., Any] = launch.create
REAL_JOIN = jobs.join
REAL_DEMAND = policy.demand
REAL_UPDATE: Callable[..., Any] = leases._update  # pyright: ignore[reportPrivateUsage]  the one to be replaced


async def _never_looks(lease: Lease, deps: Deps) -> datetime:
    return deps.clock.now() + timedelta(days=1)


async def _believes_one_list(lease: Lease, deps: Deps) -> str | None:
    return "The list lacks it." if lease.missing_at is not None else None


async def _releases_at_once(lease: Lease, deps: Deps) -> Answer:
    now = deps.clock.now()
    if lease.asked_at is None or not lease.instance_id:
        return Move(State.RELEASED, values={"gone_at": now})
    try:
        await deps.providers[lease.provider].destroy(lease.instance_id)
    except ProviderError as error:
        return Wait(5.0, str(error), failed=True)
    return Move(State.RELEASED, text="It was asked to go.", values={"gone_at": deps.clock.now()})


async def _fresh_tag_each_time(lease: Lease, deps: Deps) -> Answer:
    return cast(Answer, await REAL_CREATE(replace(lease, tag=f"{lease.tag[:40]}-{deps.token(3)}"), deps))


async def _nothing(*_: object) -> int:
    return 0


async def _free_for_sure(lease: Lease, deps: Deps) -> bool:
    return True


def _covers_nothing(lease: Lease) -> bool:
    return False


def _last_word_wins(known: Job, told: Job) -> Job:
    return replace(REAL_JOIN(known, told), state=told.state)


def _no_charge(*_: object) -> None:
    return None


async def _leaves_the_runner(lease: Lease, deps: Deps) -> Answer:
    return Move(State.DESTROYING, text="Somebody else will see to the runner.")


def _still_ended(*_: object) -> int:
    return 0


def _any_job_will_do(queued: Any, pools: Any, *_: object) -> Any:
    return REAL_DEMAND(queued, pools)


@functools.lru_cache(maxsize=256)
def _held_by_anybody(columns: frozenset[str], rules: frozenset[Any]) -> sa.Update:
    statement: Any = REAL_UPDATE(columns, rules)._generate()
    mine = lease_table.c.id == sa.bindparam("the_id")
    whoever = (lease_table.c.claim == sa.bindparam("the_claim"), lease_table.c.state == sa.bindparam("the_state"))
    statement._where_criteria = (mine, sa.or_(mine, *whoever))
    return cast(sa.Update, statement)


MUTANTS = (
    Mutant(
        "retry without a look",
        "asks again for a machine without looking whether the first request made one",
        ((launch, "_find", _never_looks),),
        ("more instances than one of a lease",),
        (20, 9),
    ),
    Mutant(
        "one list is enough",
        "takes an instance for lost that one listing lacks",
        ((boot, "lost", _believes_one_list), (runner, "lost", _believes_one_list)),
        ("a busy machine was destroyed", "an instance was given up that was there"),
        (72, 66, 167),
    ),
    Mutant(
        "release before proof",
        "takes a destroy that was accepted for one that is done",
        ((STATIONS, State.DESTROYING, _releases_at_once),),
        ("released",),
        (1,),
    ),
    Mutant(
        "a tag for each try",
        "draws a new name for every create call",
        ((STATIONS, State.LAUNCHING, _fresh_tag_each_time),),
        ("an instance without its intent",),
        (0,),
    ),
    Mutant(
        "no sweep",
        "never lists the instances at a provider",
        ((reaper, "_survey", _nothing),),
        ("not settled", "an instance is left", "an instance whose end nobody wrote down"),
        (3, 21),
    ),
    Mutant(
        "webhooks are believed to come",
        "neither polls nor asks for redelivery",
        ((listen, "_poll", _nothing), (listen, "_redeliver", _nothing)),
        ("not settled", "a job failed, and no machine"),
        (6,),
    ),
    Mutant(
        "a silent node is dead",
        "destroys a busy machine when its node is silent, whatever the forge says",
        ((runner, "_forge_says_free", _free_for_sure),),
        ("a busy machine was destroyed",),
        (83, 46, 66, 197),
    ),
    Mutant(
        "coming leases do not count",
        "plans a lease for a job although one is on its way",
        ((policy, "_covers", _covers_nothing),),
        ("more leases are coming than jobs wait", "a ceiling"),
        (0,),
    ),
    Mutant(
        "the last word wins",
        "lets a late `queued` reopen a job",
        ((jobs, "join", _last_word_wins),),
        ("a job went back",),
        (142, 124),
    ),
    Mutant(
        "strays cost nothing",
        "destroys an instance beside a lease's own and forgets its price",
        ((strays, "stray_charge", _no_charge),),
        ("the books are not the invoice",),
        (21,),
    ),
    Mutant(
        "runners are left behind",
        "takes no runner off its forge, and never looks for those that stayed",
        ((STATIONS, State.DRAINING, _leaves_the_runner), (reaper, "_sweep_scope", _nothing)),
        ("not settled", "a runner is left"),
        (15, 7),
    ),
    Mutant(
        "no compare-and-set",
        "writes to a lease whoever holds it by now",
        ((leases, "_update", _held_by_anybody),),
        ("a lease was written to under an old claim", "a lease went back"),
        (11,),
    ),
    Mutant(
        "a re-run under the old id is stale",
        "leaves a job ended that Gitea runs again under the id it had",
        ((reruns, "reopen", _still_ended),),
        ("not settled",),
        (149, 43),
    ),
    Mutant(
        "a pinned lease is kept for another job",
        "counts Forgejo's jobs as if any runner could take any of them",
        ((policy, "demand", _any_job_will_do),),
        ("a lease is pinned that must not be", "a job ran on a lease that was pinned"),
        (32, 167),
    ),
)
