"""Is the instance still there, and does its node still speak? Shared by the stations that wait on a machine."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from app.core.model import Lease
from app.engine.step import Deps
from providers.contract import Instance, Phase, Provider, ProviderError


def meter(lease: Lease, instance: Instance, now: datetime) -> dict[str, Any]:
    """When the provider's bill began, as it says itself; a clock of its own cannot move that before we asked or after now."""
    if instance.created_at is None or instance.created_at.tzinfo is None or lease.asked_at is None:
        return {}
    return {"billed_from": min(max(instance.created_at, lease.asked_at), now)}


def ended(lease: Lease, instance: Instance | None, now: datetime) -> datetime:
    """When a machine that is proven gone went: as its vendor's record says, else now. A vendor's clock cannot move it
    before the machine began to cost, nor after now."""
    told = None if instance is None else instance.ended_at
    if told is None or told.tzinfo is None:
        return now
    return min(max(told, lease.billed_from or lease.asked_at or told), now)


def settled(lease: Lease, provider: Provider, now: datetime) -> bool:
    """Whether the provider's "no such instance" counts: many vendors know a new id only some time after its create."""
    asked_at = lease.last_asked_at or lease.asked_at
    return provider.traits.knows_at_once or asked_at is None or now >= asked_at + provider.traits.unknown_window


async def lost(lease: Lease, deps: Deps) -> str | None:
    """A sentence if the instance has ended; None if it lives or nobody can say.

    Asked only about an instance that the provider's list lacks or shows as stopped (the sweep writes that down), so that
    a fleet at rest costs no calls. What the provider then says of this one instance counts, once lists have had time to
    catch up; and a node that has spoken since is alive, whatever the provider says."""
    provider = deps.providers.get(lease.provider)
    if provider is None or not lease.instance_id or lease.missing_at is None:
        return None
    heard = lease.heartbeat_at or lease.joined_at
    if heard is not None and deps.clock.now() < max(heard, lease.missing_at) + deps.timing.hush:
        return None  # one source's word: its node has spoken a moment ago
    try:
        instance = await provider.get(lease.instance_id)
    except ProviderError:
        return None
    if instance is None:
        sure = settled(lease, provider, deps.clock.now())
        return f"{lease.provider} no longer has the instance {lease.instance_id}." if sure else None
    if instance.phase in (Phase.STOPPED, Phase.FAILED, Phase.ENDED):
        detail = f" ({instance.detail})" if instance.detail else ""
        return f"{lease.provider} says that the instance is {instance.phase}{detail}."
    return None


def silent(lease: Lease, deps: Deps) -> bool:
    """The node has said nothing for longer than it may, while we were there to hear it."""
    last = lease.heartbeat_at or lease.joined_at
    if last is None:
        return False
    return deps.clock.now() - max(last, deps.since) > deps.timing.silent


def rest(lease: Lease, deps: Deps) -> float:
    """Seconds until a lease that waits for a fact is looked at again: a fact wakes it, and so does the sweep that misses
    its instance or its node; only one that is being missed is looked at often. The state's deadline comes first anyway."""
    if lease.missing_at is not None or silent(lease, deps):
        return deps.timing.watch.total_seconds() / 2
    return deps.timing.rest.total_seconds()
