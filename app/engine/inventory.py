"""What the providers have, asked once for all who want to know: their lists of our instances, and their offers."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.kit.clock import Clock
from providers.contract import Instance, Need, Offer, Provider

FRESH = timedelta(seconds=2)  # offers asked for the same need within so long are the same
KEPT_NEEDS = 200


@dataclass(frozen=True, slots=True)
class Listing:
    """One whole list of one provider: the world as it was at `at` or later, or earlier where the vendor's list lags."""

    at: datetime  # just before it was asked for
    instances: tuple[Instance, ...]
    by_id: Mapping[str, Instance] = field(default_factory=dict[str, Instance])
    by_tag: Mapping[str, tuple[Instance, ...]] = field(default_factory=dict[str, tuple[Instance, ...]])


class Inventory:
    """One question at a time for each provider; whoever comes meanwhile waits for a question that began after they came."""

    def __init__(self, providers: Mapping[str, Provider], owner: str, clock: Clock) -> None:
        self._providers, self._owner, self._clock = providers, owner, clock
        self._listings: dict[str, Listing] = {}
        self._offers: dict[tuple[str, Need], tuple[datetime, tuple[Offer, ...]]] = {}
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def since(self, name: str, moment: datetime) -> Listing:
        """A list that was asked for after `moment`: the last one, or a new one. Raises ProviderError."""
        async with self._turns[f"list {name}"]:
            known = self._listings.get(name)
            if known is not None and known.at > moment:
                return known
            at = self._clock.now()
            listing = _listing(at, await self._providers[name].owned(self._owner))
            self._listings[name] = listing
            return listing

    async def offers(self, name: str, need: Need) -> Sequence[Offer]:
        """What the provider would rent now for this need; a burst of leases with one need asks once. Raises ProviderError."""
        async with self._turns[f"offers {name} {hash(need)}"]:
            known = self._offers.get((name, need))
            now = self._clock.now()
            if known is not None and timedelta(0) <= now - known[0] < FRESH:
                return known[1]
            told = tuple(await self._providers[name].offers(need))
            if len(self._offers) >= KEPT_NEEDS:
                self._offers.clear()
                self._turns = defaultdict(asyncio.Lock, {key: turn for key, turn in self._turns.items() if turn.locked()})
            self._offers[name, need] = (now, told)
            return told

    def forget_offers(self, name: str) -> None:
        """What was offered is not to be had: the next lease asks anew."""
        for key in [key for key in self._offers if key[0] == name]:
            del self._offers[key]


def _listing(at: datetime, instances: Sequence[Instance]) -> Listing:
    by_tag: dict[str, tuple[Instance, ...]] = {}
    for instance in instances:
        by_tag[instance.tag] = (*by_tag.get(instance.tag, ()), instance)
    return Listing(at, tuple(instances), {instance.id: instance for instance in instances}, by_tag)
