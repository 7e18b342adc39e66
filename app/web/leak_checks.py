"""The doctor's checks of what costs money and should not: each provider's sweep, and destroys that do not come to their end."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from app.core.billing import accrued
from app.kit.telemetry import logger
from app.kit.words import money
from app.store import leaks
from app.store.leaks import Leaks
from app.web.parts import WebParts
from app.web.schema import Check, check
from app.web.words import duration

log = logger(__name__)

PATIENCE = 10.0
"""Seconds for the database's answer."""
UNSWEPT = timedelta(minutes=10)
"""A provider that gave no whole list for so long is not swept: what leaks there is not seen."""
NAMED = 3


async def leak_checks(parts: WebParts) -> list[Check]:
    """One check for each provider's sweep and one for all destroys; none if the database does not answer."""
    now = parts.clock.now()
    try:
        async with asyncio.timeout(PATIENCE):
            found = await parts.lane(leaks.leaks, parts.db, now)
    except Exception as error:  # noqa: BLE001  the database's own check says so
        log.error("leaks not read", error=f"{type(error).__name__}: {error}")
        return []
    return [*(_sweep(name, found, now) for name in sorted(parts.providers)), _destroys(found, now)]


def _sweep(name: str, found: Leaks, now: datetime) -> Check:
    title, broken = f"sweep {name}", "Look at this provider's own check."
    told, mine = found.surveys.get(name), [stray for stray in found.strays if stray.provider == name]
    if told is None or told.at is None:
        trouble = told.trouble if told else ""
        text = f"No whole list of its instances yet. {trouble}".strip()
        return check(title, "fail", text, broken) if trouble else check(title, "skip", text)
    text = f"{told.listed} listed, {told.owned} of leases, {duration(now - told.at)} ago."
    if told.stopped_at is not None:
        text = f"{text} {told.held} have no lease; none of them is destroyed until a person says so."
        return check(title, "fail", text, f"Look with `sublet sweep`, then run `sublet sweep confirm {name}`.")
    if now - told.at > UNSWEPT:
        return check(title, "fail", f"{text} {told.trouble}".strip(), broken)
    if mine:
        text = f"{text} {len(mine)} without a lease: being destroyed, or a job still runs there."
        return check(title, "warn", text, "Look with `sublet sweep`.")
    return check(title, "ok", text)


def _destroys(found: Leaks, now: datetime) -> Check:
    if not found.stuck:
        return check("destroys", "ok", "None is late.")
    told = [
        f"{lease.name} on {lease.provider} for {duration(now - lease.entered_at)}, "
        f"{money(accrued(lease, now), lease.currency, 2)} so far"
        for lease in found.stuck[:NAMED]
    ]
    more = f" and {len(found.stuck) - NAMED} more" if len(found.stuck) > NAMED else ""
    fix = f"See `sublet lease show {found.stuck[0].name}`; end the instance in the provider's console if it does not go."
    return check("destroys", "fail", f"Not proven gone: {'; '.join(told)}{more}.", fix)
