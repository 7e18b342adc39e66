"""The bench that the attic's own author proves it on: `python -m providers.conformance sublet_attic.bench:bench`."""

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from providers.conformance import Fault
from providers.contract import Offer, Order, Phase, Secret
from sublet_attic import AtticProvider, AtticSettings, utc_now
from sublet_attic.desk import BadKey, Desk, Row

KEY = "the-key-under-the-mat"


class ClumsyDesk(Desk):
    """Drops the next receipt after the booking, or takes the next key for a wrong one."""

    drops = refuses = False

    def book(self, *values: object) -> Row:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.refuses:
            self.refuses = False
            raise BadKey
        row = super().book(*values)  # pyright: ignore[reportArgumentType]
        if self.drops:
            self.drops = False
            raise ConnectionError("the receipt is gone")
        return row


class AtticBench:
    name = "attic"
    faults: frozenset[Fault] = frozenset({Fault.LOST_REPLY, Fault.NO_CAPACITY, Fault.CREDENTIALS, Fault.PREEMPTED})
    states: Mapping[str, Phase] = {
        "booked": Phase.STARTING,
        "off": Phase.STOPPED,
        "broken": Phase.FAILED,
        "on fire": Phase.UNKNOWN,
    }
    secrets: Sequence[str] = (KEY,)
    crowd = 30

    def __init__(self, folder: Path) -> None:
        self.settings = AtticSettings(folder / "book.sqlite", Secret(KEY), machines=40)
        self.desk = ClumsyDesk(self.settings.book, self.settings.machines)
        self._numbers = itertools.count(1)

    async def provider(self) -> AtticProvider:
        provider = AtticProvider(self.name, self.settings)
        provider.desk = self.desk
        return provider

    def order(self) -> Order:
        number, now = next(self._numbers), utc_now()
        offer = Offer("attic", self.name, "home", Decimal("1.20"), "USD", now, gpu="VR200", gpus=1)
        return Order(offer, f"key-{number}", f"sublet-{number}", "ours", "echo hello\n", now + timedelta(hours=1))

    async def cause(self, fault: Fault) -> None:
        match fault:
            case Fault.LOST_REPLY:
                self.desk.drops = True
            case Fault.NO_CAPACITY:
                for number in range(self.settings.machines):
                    self.desk.book(KEY, f"other-{number}", "others", "k", "", utc_now(), utc_now())
            case Fault.CREDENTIALS:
                self.desk.refuses = True
            case _:
                for row in self.desk.everything():
                    self.desk.switch(row.id, "off")

    async def put(self, instance_id: str, state: str) -> None:
        self.desk.switch(instance_id, state)

    async def pause(self) -> None:
        await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def bench() -> AsyncGenerator[AtticBench, None]:
    with tempfile.TemporaryDirectory(prefix="sublet-attic-") as folder:
        yield AtticBench(Path(folder))
