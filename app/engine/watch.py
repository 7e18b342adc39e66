"""Is the instance still there, and does its node still speak? Shared by the stations that wait on a machine."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from app.core.model import Lease
from app.engine.step import Deps
from providers.contract import Instance, Phase, ProviderError


def meter(lease: Lease, instance: Instance, now: datetime) -> dict[str, Any]:
    """When the provider's bill began, as it says itself; a clock of its own cannot move that before we asked or after now."""
    if instance.created_at is None or instance.created_at.tzinfo is None or lease.asked_at is None:
        return {}
    return {"billed_from": min(max(instance.created_at, lease.asked_at), now)}


async def lost(lease: Lease, deps: Deps) -> str | None:
    """A sentence if the provider says that the instance has ended; None if it lives or nobody can say.

    Lists lag, so absence counts only after the provider's own unknown window has passed since the create."""
    provider = deps.providers.get(lease.provider)
    if provider is None or not lease.instance_id:
        return None
    try:
        instance = await provider.get(lease.instance_id)
    except ProviderError:
        return None
    if instance is None:
        settled = lease.asked_at is None or deps.clock.now() >= lease.asked_at + provider.traits.unknown_window
        return f"{lease.provider} no longer has the instance {lease.instance_id}." if settled else None
    if instance.phase in (Phase.STOPPED, Phase.FAILED):
        detail = f" ({instance.detail})" if instance.detail else ""
        return f"{lease.provider} says that the instance is {instance.phase}{detail}."
    return None


def silent(lease: Lease, deps: Deps) -> bool:
    """The node has said nothing for longer than it may, while we were there to hear it."""
    last = lease.heartbeat_at or lease.joined_at
    if last is None:
        return False
    return deps.clock.now() - max(last, deps.since) > deps.timing.silent
