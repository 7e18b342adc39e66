"""Looks at the market: refreshes every provider's offers at its allowed rate, and keeps their history."""

from __future__ import annotations

import asyncio

import structlog

from app.core.breaker import Standing
from app.engine.placing import note, told
from app.engine.step import Deps
from app.store import standings
from providers.contract import Need, ProviderError

log = structlog.get_logger()


async def look(deps: Deps) -> None:
    """Ask each provider whose offers are due. One that is paused is left alone, one that is away until its time comes."""
    known, now = await deps.store(standings.standings, deps.db), deps.clock.now()
    names = [name for name in deps.providers if known.get(name, Standing(name)).no(now) is None]
    await asyncio.gather(*(_look(name, known.get(name), deps) for name in names))


async def _look(name: str, before: Standing | None, deps: Deps) -> None:
    for need in _wanted(name, deps):
        try:
            quote = await deps.catalogue.refreshed(name, need, deps.timing.market)
        except ProviderError as error:
            log.warning("market.unreadable", provider=name, error=str(error))
            await told(name, error, deps)
            return
        if quote is not None:
            await note(name, quote.offers, deps)
            if before is not None and (before.failures or before.trouble):
                await told(name, None, deps)


def _wanted(name: str, deps: Deps) -> list[Need]:
    """One question for the pools with GPUs and one for those without, of the pools that may rent here; both where none may:
    such a provider can be shown, and piloted."""
    needs = [pool.need for pool in deps.pools.values() if not pool.providers or name in pool.providers]
    both = (Need(gpus=1), Need())
    return [need for need in both if not needs or any(bool(one.gpus or one.gpu) is bool(need.gpus) for one in needs)]
