"""Seen twice, owned by no lease: destroy it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta

import structlog

from app.core.model import Scope
from app.engine.step import Deps
from app.forges.contract import ForgeError, ForgeRefused, RunnerBusy
from app.store import audit, jobs, lease_views, sweep
from providers.contract import Instance, ProviderError

APART = timedelta(seconds=45)  # between the two sightings; more than any list lags behind a create whose row is there
REMEMBERED = timedelta(days=7)  # scopes whose last job is older are left alone
SWEEP_TIMEOUT = 60.0  # seconds for one provider
LEAST = 3  # so many orphans may go without asking a person, however small the fleet

log = structlog.get_logger()


async def reap(deps: Deps) -> int:
    """One sweep over every provider; how many orphans were destroyed. One bad provider delays no other."""
    return sum(await asyncio.gather(*(_sweep_in_time(name, deps) for name in deps.providers)))


async def _sweep_in_time(name: str, deps: Deps) -> int:
    try:
        async with asyncio.timeout(SWEEP_TIMEOUT):
            return await _sweep(name, deps)
    except TimeoutError:
        log.warning("sweep.unreadable", provider=name, error=f"no end within {SWEEP_TIMEOUT:.0f} s")
    except ProviderError as error:
        log.warning("sweep.unreadable", provider=name, error=str(error))
    return 0


async def _sweep(name: str, deps: Deps) -> int:
    provider = deps.providers[name]
    before = await deps.store(lease_views.live_tags, deps.db)
    listed = await provider.owned(deps.owner)
    after = await deps.store(lease_views.live_tags, deps.db)  # a lease may have come while the list was read
    strangers = {instance.id: instance for instance in listed if instance.tag not in before and instance.tag not in after}
    twice = await deps.store(sweep.sight, deps.db, f"provider:{name}", set(strangers), deps.clock.now(), APART)
    orphans = [strangers[thing] for thing in sorted(twice)]
    if len(orphans) > max(LEAST, len(listed) // 5):
        await _ask_a_person(name, orphans, len(listed), deps)
        return 0
    gone = 0
    for orphan in orphans:
        log.warning("sweep.orphan", provider=name, instance=orphan.id, tag=orphan.tag)
        text = f"{name} lists {orphan.tag}, which no live lease owns; seen twice."
        await deps.store(audit.note, deps.db, deps.clock.now(), "reaper", "instance.orphan", f"instance:{orphan.id}", text)
        try:
            await provider.destroy(orphan.id)
            gone += 1
        except ProviderError as error:  # one that stays hides no other; the next sweep asks again
            log.warning("sweep.kept", provider=name, instance=orphan.id, error=str(error))
    return gone


async def reap_runners(deps: Deps) -> int:
    """One sweep over the forges: runners under our name that no live lease owns, seen twice and not busy, are removed."""
    gone = 0
    scopes = await deps.store(jobs.scopes_since, deps.db, deps.clock.now() - REMEMBERED)
    for forge, scope in sorted({(forge, scope) for forge, _, scope in scopes if forge in deps.forges}):
        try:
            gone += await _sweep_scope(forge, scope, deps)
        except ForgeError as error:
            log.warning("sweep.unreadable", forge=forge, scope=str(scope), error=str(error))
    return gone


async def _sweep_scope(name: str, scope: Scope, deps: Deps) -> int:
    forge = deps.forges[name]
    before = await deps.store(lease_views.live_runners, deps.db)
    listed = await deps.lane(forge)(forge.runners, scope, deps.runner_prefix)
    owned = before | await deps.store(lease_views.live_runners, deps.db)
    strangers = {view.runner_id: view for view in listed if view.name not in owned and view.busy is not True}
    twice = await deps.store(sweep.sight, deps.db, f"forge:{name}:{scope}", set(strangers), deps.clock.now(), APART)
    for runner_id in sorted(twice):
        name_there = strangers[runner_id].name
        log.warning("sweep.orphan_runner", forge=name, scope=str(scope), runner=name_there)
        text = f"{name} lists {name_there} in {scope}, which no live lease owns; seen twice."
        await deps.store(audit.note, deps.db, deps.clock.now(), "reaper", "runner.orphan", f"runner:{runner_id}", text)
        with contextlib.suppress(RunnerBusy, ForgeRefused):  # one that stays hides no other
            await deps.lane(forge)(forge.remove_runner, scope, runner_id)
    return len(twice)


async def _ask_a_person(name: str, orphans: Sequence[Instance], listed: int, deps: Deps) -> None:
    """An old backup or a wrong database makes everything look like an orphan: stop and say so."""
    text = f"{len(orphans)} of {listed} instances of {name} have no lease. Nothing was destroyed: is this the right database?"
    log.error("sweep.stopped", provider=name, orphans=len(orphans), listed=listed)
    await deps.store(audit.note, deps.db, deps.clock.now(), "reaper", "sweep.stopped", f"provider:{name}", text)
