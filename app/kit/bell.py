"""A hint: "look now". It carries no data and may be lost; whoever waits also looks by the clock."""

import asyncio
from collections.abc import Callable
from typing import Protocol


class Ringing(Protocol):
    """What whoever wrote a fact is given."""

    def ring(self) -> None: ...


class Bell:
    """Rung by whoever wrote a fact, awaited by whoever acts on facts. One event loop only."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.rings = 0  # so that whoever was woken knows whether there is news

    def ring(self) -> None:
        self.rings += 1
        self._event.set()

    def nudge(self) -> None:
        """Wake whoever waits, without news."""
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """True if it rang within the time; a ring before the call counts."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Chime:
    """Several rung as one: the bell of this process, and whatever carries the hint to others."""

    def __init__(self, *rings: Callable[[], None]) -> None:
        self._rings = rings

    def ring(self) -> None:
        for ring in self._rings:
            ring()
