"""What a check stands on: the bench that stands a provider up, the faults, and the words that checks are written in."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from providers.contract import Instance, Order, Phase, Provider, ProviderError

T = TypeVar("T")


class Fault(StrEnum):
    """What a bench can cause. Each hits the next create, except where the word says otherwise."""

    LOST_REPLY = "lost reply"  # the create has its effect, and its answer is lost
    HALF_CREATED = "half created"  # the create leaves something that does not run
    NO_CAPACITY = "no capacity"
    QUOTA = "quota"
    CREDENTIALS = "credentials"
    THROTTLED = "throttled"
    SERVER_ERROR = "server error"  # the vendor answers with an error of its own; nothing is created
    MALFORMED = "malformed answer"  # the create has its effect, and its answer cannot be read
    BROKEN_LIST = "broken list"  # a page of the next listing fails
    PREEMPTED = "preempted"  # the vendor takes the only instance away, now


class Failed(AssertionError):
    """A provider broke the contract."""


class Missing(Exception):
    """The machine lacks what a bench stands on."""


class Bench(Protocol):
    """One provider, stood up for one check."""

    name: str
    faults: frozenset[Fault]
    states: Mapping[str, Phase]  # vendor states that `put` can bring about -> the phase each must show as
    secrets: Sequence[str]  # values that must never be shown
    crowd: int  # instances that do not fit one page of the listing; at least 2

    async def provider(self) -> Provider:
        """A new provider object on the same backing. The bench closes it in the end."""
        ...

    def order(self) -> Order:
        """A new order, with a tag and a key of its own, of the bench's one owner."""
        ...

    async def cause(self, fault: Fault) -> None: ...

    async def put(self, instance_id: str, state: str) -> None:
        """Bring the instance into one of `states`."""
        ...

    async def pause(self) -> None:
        """Let a moment pass, by whatever clock the bench goes."""
        ...


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    title: str
    needs: frozenset[Fault]
    run: Callable[[Bench], Awaitable[None]]

    def applies_to(self, faults: frozenset[Fault]) -> bool:
        return self.needs <= faults


CHECKS: list[Check] = []


def check(*needs: Fault) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[Bench], Awaitable[None]]]:
    """Registers a check; its docstring is its title."""

    def register(run: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
        name = getattr(run, "__name__", "check")
        CHECKS.append(Check(name, (run.__doc__ or name).strip().splitlines()[0].rstrip("."), frozenset(needs), run))
        return run

    return register


def expect(claim: bool, sentence: str) -> None:
    if not claim:
        raise Failed(sentence)


async def refusal(call: Awaitable[Any]) -> ProviderError:
    """The error that a call must end in; anything else than a `ProviderError` breaks the contract."""
    try:
        result = await call
    except ProviderError as error:
        return error
    except Exception as error:
        raise Failed(f"raised {type(error).__name__}, which is no ProviderError") from error
    raise Failed(f"gave {type(result).__name__} where an error was due")


async def until(bench: Bench, look: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Look until it gives something, through 200 pauses of the bench."""
    for _ in range(200):
        found = await look()
        if found is not None:
            return found
        await bench.pause()
    raise Failed(f"still not: {what}")


async def settled(bench: Bench, provider: Provider, instance: Instance) -> Instance:
    """The instance once it runs."""

    async def look() -> Instance | None:
        now = await provider.get(instance.id)
        return now if now is not None and now.phase is Phase.RUNNING else None

    return await until(bench, look, f"{instance.tag} running")


async def absent(provider: Provider, instance_id: str) -> bool:
    """Proven: the provider does not have it, or shows the record of one that has ended, with the time of its end."""
    now = await provider.get(instance_id)
    if now is not None and now.phase is Phase.ENDED:
        expect(now.ended_at is None or now.ended_at.tzinfo is not None, "an end without a time zone dates nothing")
        return True
    return now is None


async def gone(bench: Bench, provider: Provider, instance_id: str) -> None:
    async def look() -> bool | None:
        return True if await absent(provider, instance_id) else None

    await until(bench, look, f"{instance_id} proven gone")


async def tagged(bench: Bench, provider: Provider, order: Order) -> Instance:
    """The one instance with the order's tag, as `owned` shows it; two of them break the contract."""

    async def look() -> Instance | None:
        found = [instance for instance in await provider.owned(order.owner) if instance.tag == order.tag]
        expect(len(found) < 2, f"{len(found)} instances bear the tag {order.tag}")
        return found[0] if found else None

    return await until(bench, look, f"{order.tag} listed")
