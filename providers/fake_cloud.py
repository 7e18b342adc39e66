"""The vendor behind the `fake` provider: machines in memory on a clock that is passed in, an invoice, and scripted trouble.

It outlives the provider objects that talk to it, as a real cloud outlives a restart of the service. Nothing happens
by itself: what is due by the clock (boots, late creates, ends) is worked out whenever somebody looks.
"""

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum

from providers.clock import SYSTEM, Clock
from providers.contract import ImageLogin, Offer, Order, Phase, Reach, Why

CENT = Decimal("0.01")
HOUR = timedelta(hours=1)


class Trouble(StrEnum):
    """What can go wrong with a call. Where it has its effect all the same, the word says so."""

    REFUSED = "refused"
    NO_CAPACITY = "no capacity"
    THROTTLED = "throttled"
    BROKEN_OFF = "broken off"  # no effect, and the caller cannot know that; on `owned`: a page failed
    LOST_REPLY = "lost reply"  # the effect happened
    LATE = "late"  # create: no answer now, the machine comes `wait` later
    HALF = "half"  # create: no answer, and a machine that will never run until the same create comes again
    DOUBLED = "doubled"  # create: two machines for one order, one of them named
    STALLED = "stalled"  # the answer takes `wait`
    STUCK = "stuck"  # destroy: accepted, and the machine ends only `wait` later
    IGNORED = "ignored"  # destroy: accepted, and nothing happens


@dataclass(slots=True)
class Fault:
    trouble: Trouble
    times: int | None = 1  # None: without end, or up to `until`
    until: datetime | None = None
    wait: timedelta = timedelta(seconds=30)
    text: str = ""
    why: Why = Why.CREDENTIALS  # of a refusal
    reach: Reach = Reach.OFFER  # of no capacity


@dataclass(frozen=True, slots=True)
class Call:
    """One line of the log: who asked what, and what came of it."""

    at: datetime
    verb: str
    subject: str  # a tag, an id, an owner
    outcome: str  # "ok", or the trouble or error


@dataclass(slots=True)
class Machine:
    id: str
    tag: str
    key: str
    owner: str
    offer: str
    region: str
    price_per_hour: Decimal
    created_at: datetime
    runs_from: datetime | None  # None: half-created, never runs
    user_data: str
    image: str | None
    hard_end: datetime
    stopped_at: datetime | None = None
    destroy_asked_at: datetime | None = None
    gone_at: datetime | None = None  # may lie ahead
    why: str = ""
    login: ImageLogin | None = None  # what its image was to be pulled with

    def phase(self, now: datetime) -> Phase | None:
        """None: gone."""
        if self.gone_at is not None and now >= self.gone_at:
            return None
        if self.destroy_asked_at is not None:
            return Phase.DESTROYING
        if self.stopped_at is not None:
            return Phase.STOPPED
        if self.runs_from is None:
            return Phase.FAILED
        return Phase.RUNNING if now >= self.runs_from else Phase.STARTING


@dataclass(frozen=True, slots=True)
class Line:
    """One machine on the invoice: used from creation until gone, rounded up to granularity and minimum."""

    machine: str
    tag: str
    since: datetime
    until: datetime
    billed: timedelta
    price_per_hour: Decimal
    exact: Decimal
    amount: Decimal  # to the cent


@dataclass(frozen=True, slots=True)
class Invoice:
    lines: tuple[Line, ...]
    currency: str

    @property
    def total(self) -> Decimal:
        return sum((line.amount for line in self.lines), Decimal("0.00"))

    @property
    def exact(self) -> Decimal:
        return sum((line.exact for line in self.lines), Decimal(0))


@dataclass
class Faults:
    """Trouble in store. Each verb ("offers", "create", "get", "owned", "destroy", "check") has its own queue."""

    list_lag: timedelta = timedelta(0)  # `owned` shows the world as it was this long ago
    chaos: float = 0.0  # share of calls that get a random trouble, from the seed
    _queues: dict[str, list[Fault]] = field(default_factory=dict[str, list[Fault]])

    def script(
        self,
        verb: str,
        trouble: Trouble,
        *,
        times: int | None = 1,
        until: datetime | None = None,
        wait: timedelta = timedelta(seconds=30),
        text: str = "",
        why: Why = Why.CREDENTIALS,
        reach: Reach = Reach.OFFER,
    ) -> None:
        """The next `times` calls of the verb meet this trouble; with `until` alone, every call before that time."""
        if until is not None and times == 1:
            times = None
        self._queues.setdefault(verb, []).append(Fault(trouble, times, until, wait, text, why, reach))

    def clear(self) -> None:
        self._queues.clear()
        self.chaos, self.list_lag = 0.0, timedelta(0)

    def take(self, verb: str, now: datetime) -> Fault | None:
        """The trouble that this call meets, used up by it."""
        queue = self._queues.get(verb, [])
        while queue:
            first = queue[0]
            if first.times == 0 or (first.until is not None and now >= first.until):
                queue.pop(0)
                continue
            if first.times is not None:
                first.times -= 1
            return first
        return None


class FakeCloud:
    """The vendor's side. Its fields are there to be set and read by tests."""

    def __init__(
        self,
        *,
        clock: Clock = SYSTEM,
        seed: int = 0,
        boot: timedelta = timedelta(seconds=20),
        ending: timedelta = timedelta(0),
        capacity: int | None = None,
        granularity: timedelta = timedelta(seconds=1),
        minimum: timedelta = timedelta(0),
        currency: str = "USD",
        honours_keys: bool = True,
        unique_names: bool = True,
        dead_man_switch: bool = False,
        keeps_records: bool = False,
    ) -> None:
        self.clock = clock
        self.random = random.Random(seed)  # noqa: S311  for repeatable tests, not for secrets
        self.boot = boot
        self.ending = ending
        self.capacity = capacity
        self.granularity = granularity
        self.minimum = minimum
        self.currency = currency
        self.honours_keys = honours_keys
        self.unique_names = unique_names
        self.dead_man_switch = dead_man_switch
        self.keeps_records = keeps_records  # of ended machines, for an hour in lists and for ever by id
        self.faults = Faults()
        self.shelf: list[Offer] = []
        self.machines: dict[str, Machine] = {}
        self.calls: list[Call] = []
        self._late: list[tuple[datetime, Order]] = []

    @property
    def now(self) -> datetime:
        return self.clock.now()

    def settle(self) -> None:
        """Let everything happen that is due by now."""
        due = [pair for pair in self._late if pair[0] <= self.now]
        self._late = [pair for pair in self._late if pair[0] > self.now]
        for at, order in due:
            if self.twin(order) is None:
                self.make(order, at=at)

    def later(self, order: Order, wait: timedelta) -> None:
        self._late.append((self.now + wait, order))

    def living(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.phase(self.now) is not None]

    def twin(self, order: Order) -> Machine | None:
        """What this vendor takes for the same order: the same key, or the same name, if it looks at them at all."""
        for machine in self.living():
            if (self.honours_keys and machine.key == order.key) or (self.unique_names and machine.tag == order.tag):
                return machine
        return None

    def make(self, order: Order, *, half: bool = False, at: datetime | None = None) -> Machine:
        """A new machine, whatever else is there."""
        at = at or self.now
        listed = next((offer for offer in self.shelf if offer.id == order.offer.id), order.offer)
        machine = Machine(
            id=f"fake-{self.random.getrandbits(48):012x}",
            tag=order.tag,
            key=order.key,
            owner=order.owner,
            offer=order.offer.id,
            region=listed.region,
            price_per_hour=listed.price_per_hour,
            created_at=at,
            runs_from=None if half else at + self.boot,
            user_data=order.user_data,
            image=order.image,
            login=order.login,
            hard_end=order.ends_at,
            gone_at=order.ends_at if self.dead_man_switch else None,
        )
        self.machines[machine.id] = machine
        return machine

    def end(self, machine: Machine, wait: timedelta, why: str) -> None:
        """Destroy. Asked again, the earlier end counts."""
        gone = self.now + wait
        machine.destroy_asked_at = machine.destroy_asked_at or self.now
        machine.gone_at = min(machine.gone_at, gone) if machine.gone_at else gone
        machine.why = machine.why or why

    def vanish(self, machine_id: str, why: str = "preempted") -> None:
        """Take the machine away without a word, as a spot reclaim does."""
        self.machines[machine_id].gone_at = self.now
        self.machines[machine_id].why = why

    def stop(self, machine_id: str) -> None:
        """Off, still there, still billed."""
        self.machines[machine_id].stopped_at = self.now

    def price(self, offer_id: str, per_hour: Decimal) -> None:
        """A new price for the next buyer; running machines keep theirs."""
        self.shelf = [replace(offer, price_per_hour=per_hour) if offer.id == offer_id else offer for offer in self.shelf]

    def seen(self, owner: str) -> list[Machine]:
        """What a listing shows: with a lag, neither the newest machines nor the newest ends."""
        then = self.now - self.faults.list_lag
        mine = (machine for machine in self.machines.values() if machine.owner == owner and machine.created_at <= then)
        shown = then - HOUR if self.keeps_records else then
        return [machine for machine in mine if machine.gone_at is None or machine.gone_at > shown]

    def invoice(self, now: datetime | None = None) -> Invoice:
        """What is owed by `now`, a machine a line, in the order of creation."""
        self.settle()
        at = now or self.now
        return Invoice(
            tuple(self._line(machine, at) for machine in self.machines.values() if machine.created_at <= at), self.currency
        )

    def _line(self, machine: Machine, at: datetime) -> Line:
        until = min(at, machine.gone_at or at)
        steps = max(0, -((machine.created_at - until) // self.granularity))  # rounded up
        billed = max(steps * self.granularity, self.minimum)
        exact = (
            machine.price_per_hour * Decimal(billed // timedelta(microseconds=1)) / Decimal(HOUR // timedelta(microseconds=1))
        )
        amount = exact.quantize(CENT, ROUND_HALF_UP)
        since = machine.created_at.astimezone(UTC)
        return Line(machine.id, machine.tag, since, until, billed, machine.price_per_hour, exact, amount)
