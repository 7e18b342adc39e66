"""Keep one online runner record per pool and scope on forges that fail a job after an hour without one (GitLab)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import structlog

from app.core.labels import normalise
from app.core.model import Pool, Scope
from app.engine.seal import seal, unseal
from app.engine.step import Deps
from app.forges.contract import ForgeError
from app.store import beacons, jobs
from app.store.vault import VaultError

log = structlog.get_logger()

REMEMBERED = timedelta(days=7)  # a scope that has sent no job for so long needs no beacon
"""GitLab fails a pending job after one hour without an online matching runner (stuck_builds/drop_pending_service.rb)."""


async def tend(deps: Deps) -> int:
    """Light or refresh every beacon that is due; how many were. A forge that is down is asked again at the next beat."""
    lit = 0
    now = deps.clock.now()
    wanted: set[tuple[str, str, str]] = set()
    for forge_name, pool_name, scope in await deps.store(jobs.scopes_since, deps.db, now - REMEMBERED):
        forge, pool = deps.forges.get(forge_name), deps.pools.get(pool_name)
        if forge is None or pool is None or not pool.beacon:
            continue
        labels = beacon_labels(pool)
        wanted.add((forge_name, str(scope), beacons.as_listed(",".join(labels))))
        known = await deps.store(beacons.get, deps.db, forge_name, str(scope), ",".join(labels))
        if known is not None and known.lit_at is not None and now - known.lit_at < deps.timing.beacon:
            continue
        lit += await _light(deps, forge_name, scope, labels, known)
    await _put_out(deps, wanted)
    return lit


async def _put_out(deps: Deps, wanted: set[tuple[str, str, str]]) -> None:
    """Take the beacons off the forge that no pool, or no job for a week, asks for any more."""
    for known in await deps.store(beacons.listing, deps.db):
        if (known.forge, known.scope, known.labels) in wanted:
            continue
        forge = deps.forges.get(known.forge)
        try:
            if forge is not None and known.runner_id:
                await deps.lane(forge)(forge.remove_runner, Scope.parse(known.scope), known.runner_id)
        except ForgeError:
            continue  # at the next beat
        await deps.store(beacons.remove, deps.db, known.forge, known.scope, known.labels)


async def _light(deps: Deps, forge_name: str, scope: Scope, labels: tuple[str, ...], known: beacons.Beacon | None) -> int:
    context = f"beacon:{forge_name}:{scope}"
    credential = None
    if known is not None and known.credential is not None:
        try:
            credential = unseal(deps.vault, known.credential, context)
        except VaultError as error:  # its key is lost: another one is lit in its place, and the other beacons burn on
            log.warning("beacon.unreadable", forge=forge_name, scope=str(scope), error=str(error))
            return await _light_anew(deps, known)
    runner_id = known.runner_id if known is not None else ""
    try:
        forge = deps.forges[forge_name]
        minted = await deps.lane(forge)(forge.light_beacon, scope, labels, credential, runner_id)
    except ForgeError:
        return 0
    if minted is None:
        return 0
    sealed = seal(deps.vault, minted.credential, context)
    await deps.store(beacons.put, deps.db, forge_name, str(scope), ",".join(labels), minted.runner_id, sealed, deps.clock.now())
    return 1


async def _light_anew(deps: Deps, lost: beacons.Beacon) -> int:
    """Take a record that nobody can speak for off the forge; the next beat lights another one. Always 0: none was lit."""
    forge = deps.forges[lost.forge]
    try:
        if lost.runner_id:
            await deps.lane(forge)(forge.remove_runner, Scope.parse(lost.scope), lost.runner_id)
    except ForgeError:
        return 0
    await deps.store(beacons.remove, deps.db, lost.forge, lost.scope, lost.labels)
    return 0


def beacon_labels(pool: Pool) -> tuple[str, ...]:
    """Every label that a job of the pool may carry: a runner matches a job whose tags are among its own."""
    return normalise((*pool.labels, *_options(pool.may_add)))


def _options(may_add: Iterable[str]) -> Iterable[str]:
    for option in may_add:
        name, _, value = option.partition(":")
        if name == "gpus" and value.isdigit():
            yield from (f"gpus:{count}" for count in range(1, min(int(value), 64) + 1))
        else:
            yield option
