"""planned, launching: choose a placement, write it down, ask the provider."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from app.core.images import to_json
from app.core.model import Lease, Reason
from app.core.offers import offer_of
from app.core.states import State
from app.core.verdicts import verdict_on
from app.engine.image import admit, login, objection
from app.engine.placing import pick, setback_of, told, tried_of
from app.engine.step import Answer, Deps, Move, Wait, pause
from app.engine.watch import meter
from app.node.bootstrap import Boot, render
from app.store import lease_views
from providers.contract import (
    Instance,
    NoCapacity,
    Offer,
    Order,
    ProviderError,
    Secret,
    Throttled,
    Unclear,
)

LATELY = timedelta(seconds=1)  # a list that was asked for so long ago is new enough to look for an instance in


async def choose(lease: Lease, deps: Deps) -> Answer:
    """planned: first the image, then the money: rank the offers, write choice and verdicts on the lease."""
    pool = deps.pool_of(lease)
    judged = await admit(lease, pool, deps)
    if isinstance(judged, Move | Wait):
        return judged
    seen = {} if judged is None else {"image_digest": judged.digest, "image_verdict": to_json(judged)}
    choice = await pick(lease, pool, deps, judged)
    if choice.offer is None:
        return Wait(pause(lease.tries, first=3.0, longest=30.0), choice.note, failed=True, values={**choice.values, **seen})
    terms = {"mode": str(pool.mode), "signed": pool.signed, "hard_end": deps.clock.now() + pool.max_duration}
    return Move(State.LAUNCHING, text=choice.note, values={**choice.values, **terms, **seen})


async def create(lease: Lease, deps: Deps) -> Answer:
    """launching: look whether it happened already; if surely not, write down that we ask, and ask."""
    provider = deps.providers.get(lease.provider)
    if provider is None or lease.offer is None:
        return Move(
            State.DESTROYING, Reason.PROVIDER_REFUSED, f"The provider {lease.provider} is not in the settings any more."
        )
    if no := await objection(lease, deps):
        return Move(State.DESTROYING, Reason.IMAGE_REFUSED, no)
    now = deps.clock.now()
    first = lease.asked_at is None
    if lease.asked_at is not None:  # asked before, and no answer was written down: look before asking again
        patient = (lease.last_asked_at or lease.asked_at) + provider.traits.unknown_window
        found = await _find(lease, deps)
        if isinstance(found, Instance):
            return _created(lease, found, deps.clock.now())  # the list may have taken its time
        sure = provider.traits.idempotent_create or provider.traits.unique_names
        if isinstance(found, str) or (found <= patient and not sure):
            wait = found if isinstance(found, str) else "Waiting until a late create would show in the provider's list."
            return Wait(pause(lease.tries, first=2.0, longest=30.0), wait, failed=True)
    entry = await login(lease, deps)
    if isinstance(entry, Wait):
        return entry
    token = await _join_token(lease, deps)
    values: dict[str, Any] = {} if token is None else token[1]
    if first:
        values["asked_at"] = now
    if not await deps.keep(lease, **values, last_asked_at=now):
        return Wait(0)
    join_token = (
        token[0] if token is not None else Secret(deps.vault.open(await _sealed(lease, deps), f"join:{lease.id}").decode())
    )
    boot = Boot(deps.service_url, lease.id, deps.agent_hash, join_token, deps.node_ca, provider.traits.boots_from)
    order = Order(
        offer=offer_of(lease.offer),
        key=lease.create_key,
        tag=lease.tag,
        owner=deps.owner,
        user_data=render(boot, "shell"),
        ends_at=lease.hard_end or now + deps.pool_of(lease).max_duration,
        image=lease.image,
        login=entry,
    )
    limit = provider.traits.user_data_limit
    nothing = {"asked_at": None} if first else {}  # a definite no to the only create: nothing is owed
    if limit is not None and len(order.user_data.encode()) > limit:
        text = f"The start-up script is longer than the {limit} bytes that {lease.provider} allows."
        return Move(State.DESTROYING, Reason.PROVIDER_REFUSED, text, nothing)
    try:
        instance = await provider.create(order)
        if instance.tag != lease.tag or not instance.id:  # whatever it names may be somebody else's: look under our tag
            raise Unclear("the answer names another machine")
        if (lease.decision or {}).get("doubted"):
            await told(lease.provider, None, deps)  # it works again
        return _created(replace(lease, asked_at=lease.asked_at or now), instance, deps.clock.now())
    except Unclear as error:
        if error.maybe_created or not first:
            wait = pause(lease.tries, first=1.0, longest=30.0)
            return Wait(
                wait, f"No clear answer to create: {error}", failed=True, values=nothing if not error.maybe_created else {}
            )
        return await _elsewhere(lease, error, deps)
    except ProviderError as error:
        if first:
            return await _elsewhere(lease, error, deps)
        await _learn(lease, error, deps)
        if isinstance(error, Throttled):
            return Wait(max(error.wait.total_seconds(), 1.0), str(error), failed=True)
        return Move(State.DESTROYING, _reason(error), str(error))


async def _elsewhere(lease: Lease, error: ProviderError, deps: Deps) -> Answer:
    """A definite no to the only create so far: nothing is owed, so the next offer is taken in the same cycle.

    Where there is none, what may pass is waited for; anything else ends the lease, and demand plans the next one."""
    offer, now = await _learn(lease, error, deps), deps.clock.now()
    pool, before = deps.pool_of(lease), verdict_on(lease)
    tried = [*((lease.decision or {}).get("tried") or ()), tried_of(offer, error, now)]
    choice = await pick(replace(lease, asked_at=None), pool, deps, before, tried)
    values = {**choice.values, "asked_at": None}
    if choice.offer is not None:
        return Wait(0.0, f"{lease.provider} said no: {error} {choice.note}", values=values)
    if isinstance(error, Throttled | Unclear):
        wait = error.wait.total_seconds() if isinstance(error, Throttled) else pause(lease.tries, first=1.0, longest=30.0)
        return Wait(max(wait, 1.0), str(error), failed=True, values=values)
    return Move(State.DESTROYING, _reason(error), str(error), values)


async def _learn(lease: Lease, error: ProviderError, deps: Deps) -> Offer:
    """Write down what the no speaks against. The offer that it was said to."""
    offer = offer_of(lease.offer or {})
    setback = setback_of(offer, error, deps.clock.now())
    await told(lease.provider, error, deps, () if setback is None else (setback,), lease.id)
    if isinstance(error, NoCapacity):
        deps.catalogue.forget(lease.provider)
    return offer


def _reason(error: ProviderError) -> Reason:
    return Reason.NO_CAPACITY if isinstance(error, NoCapacity) else Reason.PROVIDER_REFUSED


def _created(lease: Lease, instance: Instance, now: datetime) -> Move:
    return Move(
        State.BOOTING, text=f"Instance {instance.id}.", values={"instance_id": instance.id, **meter(lease, instance, now)}
    )


async def _find(lease: Lease, deps: Deps) -> Instance | datetime | str:
    """The instance under the lease's tag; or since when a whole list lacks it; or a sentence if the list could not be had."""
    try:
        listing = await deps.inventory.since(lease.provider, deps.clock.now() - LATELY)
    except ProviderError as error:
        return f"The provider's list could not be read: {error}"
    return next(iter(listing.by_tag.get(lease.tag, ())), listing.at)


async def _join_token(lease: Lease, deps: Deps) -> tuple[Secret, dict[str, Any]] | None:
    """A fresh token and the columns that keep it; None if the lease has one already (a repeated create sends the same)."""
    if lease.join_hash:
        return None
    token = deps.token(32)
    sealed = deps.vault.seal(token.encode(), f"join:{lease.id}")
    return Secret(token), {"join_hash": hashlib.sha256(token.encode()).hexdigest(), "join_sealed": sealed}


async def _sealed(lease: Lease, deps: Deps) -> bytes:
    return await deps.store(lease_views.join_sealed, deps.db, lease.id)
