"""planned, launching: choose a placement, write it down, ask the provider."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from app.core.images import ImageVerdict, to_json
from app.core.labels import sharpen
from app.core.model import Lease, Pool, Reason
from app.core.placement import Placement, bans, rank, sound
from app.core.states import State
from app.core.verdicts import architectures
from app.engine.image import admit, login, objection
from app.engine.step import Answer, Deps, Move, Wait, pause
from app.engine.watch import meter
from app.node.bootstrap import Boot, render
from app.store import lease_views
from providers.contract import (
    Availability,
    BootsFrom,
    Instance,
    Need,
    NoCapacity,
    Offer,
    Order,
    Provider,
    ProviderError,
    Refused,
    Secret,
    Throttled,
    Traits,
    Unclear,
)

LATELY = timedelta(seconds=1)  # a list that was asked for so long ago is new enough to look for an instance in
ASK_TIMEOUT = 20.0  # seconds for one provider's offers; the others do not wait for it


async def choose(lease: Lease, deps: Deps) -> Answer:
    """planned: first the image, then the money: ask for offers, rank them, write choice and verdicts on the lease."""
    pool = deps.pool_of(lease)
    judged = await admit(lease, pool, deps)
    if isinstance(judged, Move | Wait):
        return judged
    seen = {} if judged is None else {"image_digest": judged.digest, "image_verdict": to_json(judged)}
    need = sharpen(lease.need, lease.ask, lease.key.labels)
    names = [name for name in (pool.providers or tuple(deps.providers)) if name in deps.providers]
    answers = await asyncio.gather(*(_offers(deps.providers[name], need, deps) for name in names))
    offers = [offer for answer in answers if not isinstance(answer, str) for offer in answer]
    troubles = [f"Provider {name}: {answer}" for name, answer in zip(names, answers, strict=True) if isinstance(answer, str)]
    now = deps.clock.now()
    recent = await deps.store(lease_views.recent, deps.db, now)
    traits = {name: deps.providers[name].traits for name in names}
    banned = bans(recent, now, deps.timing.ban)
    placement = rank(need, lease.ask, pool, offers, traits, banned, now, architectures(judged))
    if not placement.ranked:
        note = _no_offer(placement, troubles, pool.providers if not names else ())
        record = placement.record(None) | {"troubles": troubles}
        return Wait(pause(lease.tries, first=3.0, longest=30.0), note, failed=True, values={"decision": record, **seen})
    offer = placement.ranked[0]
    chosen = traits[offer.provider]
    return Move(
        State.LAUNCHING,
        text=f"Chose {offer.title or offer.id} of {offer.provider} at {offer.price_per_hour} {offer.currency}/h.",
        values={
            "provider": offer.provider,
            "region": offer.region,
            "offer": offer_json(offer),
            "decision": placement.record(offer) | {"troubles": troubles},
            "price_per_hour": offer.price_per_hour,
            "currency": offer.currency,
            "granularity_s": chosen.billing_granularity.total_seconds(),
            "minimum_s": chosen.billing_minimum.total_seconds(),
            "image": _boots(pool, judged, chosen),
            "mode": str(pool.mode),
            "signed": pool.signed,
            **seen,
            "hard_end": now + pool.max_duration,
            "create_key": hashlib.sha256(f"{lease.id}|{lease.attempt}|{offer.provider}|{offer.id}".encode()).hexdigest()[:40],
        },
    )


def _boots(pool: Pool, judged: ImageVerdict | None, traits: Traits) -> str | None:
    """What the provider is told to boot: a container by its digest and never by a tag, else what lies below."""
    return judged.reference if judged is not None and traits.boots_from is BootsFrom.CONTAINER_IMAGE else pool.machine_image


async def _offers(provider: Provider, need: Need, deps: Deps) -> Sequence[Offer] | str:
    try:
        async with asyncio.timeout(ASK_TIMEOUT):
            told = await deps.inventory.offers(provider.name, need)
        good = sound(told, provider.name, provider.traits)
    except TimeoutError:
        return f"no answer within {ASK_TIMEOUT:.0f} s"
    except ProviderError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  an answer of the wrong shape delays no other provider
        return f"an unreadable answer ({type(error).__name__})"
    return good if good or not told else f"{len(told)} offers, none of which makes sense"


def _no_offer(placement: Placement, troubles: Sequence[str], missing: Sequence[str]) -> str:
    counts = placement.record(None)["rejected"]
    seen = ", ".join(f"{count} {rule}" for rule, count in counts.items())
    parts = [f"No offer passes ({seen})." if seen else "No provider has an offer now."]
    if missing:
        parts = [f"The pool's providers ({', '.join(missing)}) are not in the settings."]
    return " ".join([*parts, *troubles])


def offer_json(offer: Offer) -> dict[str, Any]:
    """An offer as JSON values: money as text, times as RFC 3339."""
    values = asdict(offer)
    return {
        key: format(v, "f") if isinstance(v, Decimal) else v.isoformat() if isinstance(v, datetime) else v
        for key, v in values.items()
    }


def offer_of(values: Mapping[str, Any]) -> Offer:
    """The inverse of `offer_json`."""
    given = dict(values)
    given["price_per_hour"] = Decimal(given["price_per_hour"])
    given["seen_at"] = datetime.fromisoformat(given["seen_at"])
    given["availability"] = Availability(given["availability"])
    return Offer(**given)


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
            return _created(lease, found, now)
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
        return _created(replace(lease, asked_at=lease.asked_at or now), instance, deps.clock.now())
    except NoCapacity as error:
        deps.inventory.forget_offers(lease.provider)
        return Move(State.DESTROYING, Reason.NO_CAPACITY, str(error), nothing)
    except Refused as error:
        return Move(State.DESTROYING, Reason.PROVIDER_REFUSED, str(error), nothing)
    except Throttled as error:
        return Wait(max(error.wait.total_seconds(), 1.0), str(error), failed=True, values=nothing)
    except Unclear as error:
        values = nothing if not error.maybe_created else {}
        return Wait(
            pause(lease.tries, first=1.0, longest=30.0), f"No clear answer to create: {error}", failed=True, values=values
        )


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
