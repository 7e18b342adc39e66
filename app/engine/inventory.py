"""The providers' lists of our instances, asked once for all who want to know."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from app.kit.clock import Clock
from providers.contract import Instance, Provider


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
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def since(self, name: str, moment: datetime) -> Listing:
        """A list that was asked for after `moment`: the last one, or a new one. Raises ProviderError."""
        async with self._turns[name]:
            known = self._listings.get(name)
            if known is not None and known.at > moment:
                return known
            at = self._clock.now()
            listing = _listing(at, await self._providers[name].owned(self._owner))
            self._listings[name] = listing
            return listing


def _listing(at: datetime, instances: Sequence[Instance]) -> Listing:
    by_tag: dict[str, tuple[Instance, ...]] = {}
    for instance in instances:
        by_tag[instance.tag] = (*by_tag.get(instance.tag, ()), instance)
    return Listing(at, tuple(instances), {instance.id: instance for instance in instances}, by_tag)
