"""One list per provider and beat: leases that miss their instance are woken, and instances that miss a lease are destroyed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from datetime import timedelta

import structlog

from app.core.model import Scope
from app.engine.inventory import Listing
from app.engine.step import Deps
from app.forges.contract import ForgeError, ForgeRefused, RunnerBusy
from app.store import audit, jobs, leaks, lease_views, strays, surveys, sweep
from app.store.strays import Owned, Stray
from providers.contract import Instance, Phase, ProviderError

APART = timedelta(seconds=45)  # between the two sightings; more than any list lags behind a create whose row is there
REMEMBERED = timedelta(days=7)  # scopes whose last job is older are left alone
SWEEP_TIMEOUT = 60.0  # seconds for one provider
LEAST = 3  # so many orphans may go without asking a person, however small the fleet
BUSY_FOR = timedelta(minutes=1)  # how long a forge's word counts that a job runs on a stray: then it is asked again
UNHEARD = timedelta(minutes=10)  # how long a stray is left alone because a forge does not answer
GONE = (Phase.STOPPED, Phase.FAILED, Phase.ENDED)

log = structlog.get_logger()


async def survey(deps: Deps) -> int:
    """One look at every provider; how many strays were proven gone. One bad provider delays no other."""
    now = deps.clock.now()
    for lease in await deps.store(leaks.alarm, deps.db, now):
        log.error("destroy.stuck", lease=lease.name, provider=lease.provider, instance=lease.instance_id, note=lease.note)
    if now - deps.since > deps.timing.silent:
        await deps.store(strays.wake_silent, deps.db, now - deps.timing.silent, now)
    return sum(await asyncio.gather(*(_survey_in_time(name, deps) for name in deps.providers)))


async def _survey_in_time(name: str, deps: Deps) -> int:
    try:
        async with asyncio.timeout(SWEEP_TIMEOUT):
            return await _survey(name, deps)
    except TimeoutError:
        trouble = f"no end within {SWEEP_TIMEOUT:.0f} s"
    except ProviderError as error:
        trouble = str(error)
    log.warning("sweep.unreadable", provider=name, error=trouble)
    await deps.store(surveys.fail, deps.db, name, trouble, deps.clock.now())
    return 0


async def _survey(name: str, deps: Deps) -> int:
    before = await deps.store(strays.owned, deps.db, name)
    listing = await deps.inventory.since(name, deps.clock.now())
    after = await deps.store(strays.owned, deps.db, name)  # a lease may have come while the list was read
    gone, back = _missed(before, after, listing)
    await deps.store(strays.miss, deps.db, gone, back, deps.clock.now())
    strangers = await _strangers(name, before, after, listing, deps)
    twice = await deps.store(sweep.sight, deps.db, f"provider:{name}", set(strangers), deps.clock.now(), APART)
    found = {thing: (strangers[thing].tag, strangers[thing].created_at) for thing in twice}
    await deps.store(strays.find, deps.db, name, found, deps.clock.now())
    return await _clear(name, strangers, after, listing, deps)


def _missed(before: Mapping[str, Owned], after: Mapping[str, Owned], listing: Listing) -> tuple[list[str], list[str]]:
    """Leases whose instance the list lacks or shows as stopped, and those whose instance it shows again. A lease that got
    its instance while the list was read is in neither."""
    gone: list[str] = []
    back: list[str] = []
    for tag, owned in before.items():
        if not owned.watched or tag not in after:
            continue
        instance = listing.by_id.get(owned.instance_id)
        if instance is None or instance.phase in GONE:
            gone.extend([] if owned.missing else [owned.lease_id])
        elif owned.missing:
            back.append(owned.lease_id)
    return gone, back


async def _strangers(
    name: str, before: Mapping[str, Owned], after: Mapping[str, Owned], listing: Listing, deps: Deps
) -> dict[str, Instance]:
    """Instances that are no live lease's own: under a tag that no live lease has, or second ones under a tag that one has.

    A record of an ended instance is one, too, where no lease has it in its books: it has cost money."""
    odd: dict[str, Instance] = {}
    for instance in listing.instances:
        owners = [owned for owned in (before.get(instance.tag), after.get(instance.tag)) if owned is not None]
        if not owners or all(owned.instance_id not in ("", instance.id) for owned in owners):
            odd[instance.id] = instance
    ended = {instance.id: instance.tag for instance in odd.values() if instance.phase is Phase.ENDED}
    if ended:
        books = await deps.store(strays.known_tags, deps.db, set(ended.values()))
        closed = await deps.store(strays.known, deps.db, name, set(ended))
        for thing, tag in ended.items():
            if books.get(tag, thing) == thing or thing in closed:
                del odd[thing]
    return odd


async def _clear(name: str, strangers: Mapping[str, Instance], after: Mapping[str, Owned], listing: Listing, deps: Deps) -> int:
    """Destroy the strays that are written down, until each is proven gone. Too many new ones at once wait for a person."""
    found = await deps.store(strays.open_ones, deps.db, name)
    mine = {owned.instance_id for owned in after.values()}
    for stray in [stray for stray in found if stray.instance_id in mine]:
        await deps.store(strays.forget, deps.db, stray)  # a lease has found its own after all
        found.remove(stray)
    now = deps.clock.now()
    ended = {thing for thing, instance in strangers.items() if instance.phase is Phase.ENDED}
    new = [stray for stray in found if stray.waits(now) and stray.instance_id not in ended]
    held = new if len(new) > max(LEAST, len(listing.instances) // 5) else []
    counts = {"listed": len(listing.instances), "owned": len(listing.instances) - len(strangers), "held": len(held)}
    if await deps.store(surveys.note, deps.db, name, **counts, now=now):
        log.error("sweep.stopped", provider=name, orphans=len(held), listed=len(listing.instances))
    working = [] if held else await _working([stray for stray in new if stray.tag not in after], strangers, deps)
    working += [stray for stray in found if _may_be_the_node(stray, strangers, after)]
    cleared = 0
    for stray in found:
        if stray in held or stray in working:
            continue
        try:
            cleared += await _destroy(stray, strangers.get(stray.instance_id), deps)
        except ProviderError as error:  # one that stays hides no other; the next survey asks again
            log.warning("sweep.kept", provider=name, instance=stray.instance_id, error=str(error))
    return cleared


def _may_be_the_node(stray: Stray, shown: Mapping[str, Instance], after: Mapping[str, Owned]) -> bool:
    """Two machines of one order: nobody knows on which of them the node speaks, and the job runs. Both go when it ends.

    If both spoke, the second one's join token would have been used before, and the lease be at its end."""
    instance = shown.get(stray.instance_id)
    runs = instance is not None and instance.phase is Phase.RUNNING
    return runs and stray.tag in after and after[stray.tag].speaks


async def _working(new: Sequence[Stray], shown: Mapping[str, Instance], deps: Deps) -> list[Stray]:
    """Strays that a job runs on, as a forge says: after a database was put back, that is a job somebody waits for.

    Each runs on until its job ends; its own dead-man switch and its hard end stand behind that. A forge that gives no
    answer is waited for a while, so that its outage kills no job either."""
    now = deps.clock.now()
    running = [stray for stray in new if stray.instance_id in shown and shown[stray.instance_id].phase is Phase.RUNNING]
    told = [stray for stray in running if stray.busy_at is not None and now - stray.busy_at < BUSY_FOR]
    unsure = [stray for stray in running if stray not in told]
    if not unsure:
        return told
    busy, answered = await _busy_runners(deps)
    found = [stray for stray in unsure if any(name.startswith(stray.tag.removeprefix("sublet-")) for name in busy)]
    await deps.store(strays.busy, deps.db, found, now)
    patient = [] if answered else [stray for stray in unsure if now - stray.found_at < UNHEARD]
    return [*told, *found, *(stray for stray in patient if stray not in found)]


async def _busy_runners(deps: Deps) -> tuple[set[str], bool]:
    """The runners of ours that a forge calls busy, without what all our names begin with; and whether every forge answered."""
    busy: set[str] = set()
    answered = True
    for forge_name, scope in await _scopes(deps):
        forge = deps.forges[forge_name]
        try:
            listed = await deps.lane(forge)(forge.runners, scope, deps.runner_prefix)
        except ForgeError as error:
            log.warning("sweep.unreadable", forge=forge_name, scope=str(scope), error=str(error))
            answered = False
            continue
        busy |= {view.name.removeprefix(deps.runner_prefix) for view in listed if view.busy is True}
    return busy, answered


async def _scopes(deps: Deps) -> list[tuple[str, Scope]]:
    """Where runners of ours may be."""
    found = await deps.store(jobs.scopes_since, deps.db, deps.clock.now() - REMEMBERED)
    return sorted({(forge, scope) for forge, _, scope in found if forge in deps.forges})


async def _destroy(stray: Stray, shown: Instance | None, deps: Deps) -> bool:
    provider = deps.providers[stray.provider]
    if shown is None or shown.phase is not Phase.ENDED:
        await deps.store(strays.ask, deps.db, stray, deps.clock.now())
        log.warning("sweep.orphan", provider=stray.provider, instance=stray.instance_id, tag=stray.tag, tries=stray.tries)
        await provider.destroy(stray.instance_id)
        shown = await provider.get(stray.instance_id)
        if shown is not None and shown.phase is not Phase.ENDED:
            return False
    now = deps.clock.now()
    at = now if shown is None or shown.ended_at is None else min(shown.ended_at, now)
    await deps.store(strays.gone, deps.db, stray, at, now)
    return True


async def reap_runners(deps: Deps) -> int:
    """One sweep over the forges: runners under our name that no live lease owns, seen twice and not busy, are removed."""
    gone = 0
    for forge, scope in await _scopes(deps):
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
