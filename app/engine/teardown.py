"""draining, destroying: off the forge, off the provider, proven gone."""

from __future__ import annotations

from datetime import timedelta

from app.core.model import Lease, Reason
from app.core.states import State
from app.engine.step import Answer, Deps, Move, Wait, pause
from app.engine.watch import ended, meter, settled
from app.forges.contract import ForgeDown, ForgeRefused, RunnerBusy
from app.store import lease_views
from providers.contract import Phase, Provider, ProviderError, Throttled

LATELY = timedelta(seconds=1)  # a list that was asked for so long ago is new enough to look for an instance in
AGREE = timedelta(seconds=5)  # between two lists that must agree that nothing was ever made: one may lack a page and not say so
OVERRULE = frozenset(
    {
        Reason.OPERATOR,
        Reason.SHUTDOWN,
        Reason.JOB_DONE,
        Reason.JOB_TIMEOUT,
        Reason.JOB_REFUSED,
        Reason.JOIN_REUSED,
        Reason.INSTANCE_LOST,
        Reason.NODE_SILENT,
    }
)
"""With these reasons a forge that still says "busy" does not keep the machine: its record lags, or no longer matters."""


async def drain(lease: Lease, deps: Deps) -> Answer:
    """draining: take the runner off the forge. A registration that cannot be removed never keeps a paid machine alive."""
    forge = deps.forges.get(lease.key.forge)
    if forge is None or not lease.runner_name:
        return Move(State.DESTROYING, text="No runner was registered.")
    if forge.single_use and lease.job_id and (lease.job_done_at is not None or lease.runner_exit == 0):
        return Move(State.DESTROYING, text=f"{forge.name} takes runner {lease.runner_name} off by itself after its one job.")
    installation, _ = await deps.store(lease_views.mint_hints, deps.db, lease)
    try:
        if lease.runner_id:
            await deps.lane(forge)(forge.remove_runner, lease.key.scope, lease.runner_id, installation)
        else:
            for view in await deps.lane(forge)(forge.runners, lease.key.scope, lease.runner_name, installation):
                await deps.lane(forge)(forge.remove_runner, lease.key.scope, view.runner_id, installation)
    except RunnerBusy:
        over = lease.hard_end is not None and lease.hard_end <= deps.clock.now()
        over = over or lease.runner_exited_at is not None or lease.destroy_asked_at is not None
        if over or lease.reason in OVERRULE:
            return Move(State.DESTROYING, text="The forge still shows the runner as busy; its record goes with the machine.")
        return Wait(pause(lease.tries, first=2.0, longest=30.0), "The forge says that the runner has a job.", failed=True)
    except (ForgeDown, ForgeRefused) as error:
        if lease.tries >= 3:
            return Move(State.DESTROYING, text=f"The runner could not be taken off the forge: {error}")
        return Wait(pause(lease.tries, first=0.5, longest=5.0), str(error), failed=True)
    return Move(State.DESTROYING, text=f"Runner {lease.runner_name} is off the forge.")


async def destroy(lease: Lease, deps: Deps) -> Answer:
    """destroying: ask, then believe only what the provider shows. Never gives up; `tries` counts for the alarm."""
    now = deps.clock.now()
    if lease.asked_at is None:
        return Move(State.RELEASED, text="Nothing was ever created.", values={"gone_at": now})
    provider = deps.providers.get(lease.provider)
    if provider is None:
        return Wait(
            60.0, f"The provider {lease.provider} is not in the settings: the instance may still cost money.", failed=True
        )
    try:
        if not lease.instance_id:
            return await _look_for_it(lease, deps, provider)
        await provider.destroy(lease.instance_id)
        instance = await provider.get(lease.instance_id)
    except Throttled as error:
        return Wait(max(error.wait.total_seconds(), 1.0), str(error), failed=True)
    except ProviderError as error:
        return Wait(pause(lease.tries), f"{lease.provider} did not destroy it yet: {error}", failed=True)
    now = deps.clock.now()
    if instance is not None and instance.phase is not Phase.ENDED:
        note = f"{lease.provider} still shows it as {instance.phase}."
        return Wait(pause(lease.tries, first=0.2, longest=30.0), note, failed=True, values={"missing_at": None})
    first = lease.missing_at if lease.missing_at is not None and lease.missing_at >= lease.entered_at else now
    if instance is None and not settled(lease, provider, now):
        note = f"{lease.provider} does not know it, which so soon after its create proves nothing; it is asked again."
        return Wait(pause(lease.tries, first=2.0, longest=15.0), note, failed=True, values={"missing_at": first})
    gone_at = first if instance is None else ended(lease, instance, now)
    return Move(State.RELEASED, text=f"{lease.provider} no longer has it.", values={"gone_at": gone_at})


async def _look_for_it(lease: Lease, deps: Deps, provider: Provider) -> Answer:
    """A create without a clear answer: it is gone only when two lists lack it and a late create is past its time."""
    now = deps.clock.now()
    patient = (lease.last_asked_at or lease.asked_at or now) + provider.traits.unknown_window
    listing = await deps.inventory.since(lease.provider, now - LATELY)
    found = next(iter(listing.by_tag.get(lease.tag, ())), None)
    if found is not None:
        if not await deps.keep(lease, instance_id=found.id, missing_at=None, **meter(lease, found, now)):
            return Wait(0)
        return Wait(0, f"Found {found.id} under the lease's tag.")
    if listing.at <= patient:
        wait = min(pause(lease.tries, first=2.0, longest=30.0), max((patient - now).total_seconds() + 0.1, 1.0))
        return Wait(wait, "Waiting until a late create would show in the list.", failed=True)
    first = lease.missing_at if lease.missing_at is not None and lease.missing_at >= lease.entered_at else None
    if first is None or listing.at < first + AGREE:
        note = f"{lease.provider}'s list lacks it; it is read once more before that is believed."
        return Wait(AGREE.total_seconds(), note, values={"missing_at": first or listing.at})
    return Move(State.RELEASED, text=f"{lease.provider} never had it.", values={"gone_at": now})
