"""What the providers offer, kept in memory: placement is served from here, and history is written as it is refreshed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from app.core.gpus import GpuNames
from app.core.placement import sound
from app.kit.clock import Clock
from providers.contract import Need, Offer, Provider, ProviderError, Unclear

ASK_TIMEOUT = 20.0  # seconds for one provider's offers; the others do not wait for it
WANTED = timedelta(minutes=10)  # so long after a placement asked, its offers are kept warm
ANYTHING, WITH_GPUS = Need(), Need(gpus=1)
"""A provider is asked for all that it has, not for what one pool may rent: the rest is turned down with the rule it broke."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What one provider offered at one moment, in our words."""

    at: datetime
    offers: tuple[Offer, ...]


def question(need: Need) -> Need:
    """What a provider is asked for this need."""
    return WITH_GPUS if need.gpus or need.gpu else ANYTHING


class Catalogue:
    """One question at a time for each provider; whoever comes meanwhile gets the same answer."""

    def __init__(self, providers: Mapping[str, Provider], clock: Clock, names: GpuNames) -> None:
        self._providers, self._clock, self._names = providers, clock, names
        self._quotes: dict[tuple[str, Need], Quote] = {}
        self._wanted: dict[tuple[str, Need], datetime] = {}
        self._turns: dict[tuple[str, Need], asyncio.Lock] = defaultdict(asyncio.Lock)
        self.noted: dict[str, tuple[datetime, frozenset[object]]] = {}  # what the store was last told of a provider, and when
        self.usual: dict[str, tuple[datetime, timedelta]] = {}  # pool -> when it was learnt, and how long its jobs take

    def canonical(self, gpu: str) -> str:
        return self._names.canonical(gpu)

    async def offers(self, name: str, need: Need) -> tuple[Quote, bool]:
        """What the provider offers for this kind of need, and whether it was asked just now. Raises ProviderError."""
        asked = question(need)
        self._wanted[name, asked] = self._clock.now()
        return await self._fresh(name, asked, 2 * self._providers[name].traits.offers_every)

    async def refreshed(self, name: str, need: Need, idle: timedelta) -> Quote | None:
        """Ask again if it is time: soon where placements asked lately, else each `idle`. None: it is not.

        Raises ProviderError."""
        asked = question(need)
        every = self._providers[name].traits.offers_every
        wanted = self._wanted.get((name, asked))
        warm = wanted is not None and self._clock.now() - wanted < WANTED
        quote, new = await self._fresh(name, asked, every if warm else max(every, idle))
        return quote if new else None

    def remembered(self, name: str, need: Need) -> tuple[Offer, ...]:
        """What it offered when it was last asked, without asking."""
        quote = self._quotes.get((name, question(need)))
        return () if quote is None else quote.offers

    def forget(self, name: str) -> None:
        """What was offered is not to be had: the next placement asks anew."""
        for key in [key for key in self._quotes if key[0] == name]:
            del self._quotes[key]

    async def _fresh(self, name: str, asked: Need, oldest: timedelta) -> tuple[Quote, bool]:
        async with self._turns[name, asked]:
            known, now = self._quotes.get((name, asked)), self._clock.now()
            if known is not None and timedelta(0) <= now - known.at < oldest:
                return known, False
            quote = Quote(now, await self._ask(name, asked))
            self._quotes[name, asked] = quote
            return quote, True

    async def _ask(self, name: str, asked: Need) -> tuple[Offer, ...]:
        provider = self._providers[name]
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                told = await provider.offers(asked)
            good = sound(told, name, provider.traits)
        except TimeoutError:
            raise Unclear(f"no answer within {ASK_TIMEOUT:.0f} s", maybe_created=False) from None
        except ProviderError:
            raise
        except Exception as error:  # noqa: BLE001  an answer of the wrong shape delays no other provider
            raise Unclear(f"an unreadable answer ({type(error).__name__})", maybe_created=False) from None
        if told and not good:
            raise Unclear(f"{len(told)} offers, none of which makes sense", maybe_created=False)
        return tuple(self._named(offer) for offer in good)

    def _named(self, offer: Offer) -> Offer:
        """With our name of its GPU; the vendor's own stays in the title."""
        if offer.gpu is None:
            return offer
        return replace(offer, gpu=self.canonical(offer.gpu), title=offer.title or f"{offer.gpus} x {offer.gpu}")
