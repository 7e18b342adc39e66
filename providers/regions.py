"""An account with several regions: their offers, instances and machine images, and one launch through the zones of one."""

import asyncio
import hashlib
import re
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from typing import TypeVar

from providers.contract import NoCapacity, Offer, Order, ProviderError, Reach, Refused, Unclear, Why, guarded

REMEMBERED = 1000
"""Keys whose zone is kept in memory. The engine has far fewer creates open at once."""
ARCHITECTURES = ("amd64", "arm64")
T = TypeVar("T")


class NoMachine(NoCapacity):
    """One zone has none: the next zone is asked."""


async def whole(vendor: str, regions: Iterable[str], ask: Callable[[str], Awaitable[Sequence[T]]]) -> list[T]:
    """The rows of every region, or an error: never a part."""
    asked = list(regions)
    answers = await asyncio.gather(*(ask(region) for region in asked), return_exceptions=True)
    rows: list[T] = []
    for region, answer in zip(asked, answers, strict=True):
        if isinstance(answer, BaseException):
            raise answer if isinstance(answer, ProviderError) else Unclear(f"{vendor} {region}: an unreadable list")
        rows += answer
    return rows


async def answering(
    regions: Iterable[str], ask: Callable[[str], Awaitable[Sequence[Offer]]], troubles: MutableMapping[str, str]
) -> list[Offer]:
    """Of the regions that answer; what is wrong with the others is written into `troubles`. Raises if none answers, or if the
    credentials are refused."""
    asked = list(regions)
    answers = await asyncio.gather(*(ask(region) for region in asked), return_exceptions=True)
    offers: list[Offer] = []
    errors: list[BaseException] = []
    for region, answer in zip(asked, answers, strict=True):
        if isinstance(answer, BaseException):
            errors.append(answer)
            troubles[region] = str(answer) if isinstance(answer, ProviderError) else type(answer).__name__
        else:
            offers += answer
    refused = [error for error in errors if isinstance(error, Refused) and error.why is Why.CREDENTIALS]
    if errors and (refused or len(errors) == len(asked)):
        raise (refused or errors)[0]
    return offers


async def looked(vendor: str, regions: Iterable[str], look: Callable[[str], Awaitable[str]]) -> tuple[dict[str, str], str]:
    """What a look at each region tells, by region; and what is wrong with those that do not answer, empty if all do."""
    facts: dict[str, str] = {}
    bad: list[str] = []
    for region in regions:
        try:
            with guarded(f"{vendor} {region} check"):
                facts[region] = await look(region)
        except ProviderError as error:
            bad.append(str(error))
    return facts, "; ".join(bad)[:600]


def place_of(
    instance_id: str, *, region: re.Pattern[str], name: re.Pattern[str], ours: Collection[str]
) -> tuple[str, str] | None:
    """Region and the vendor's own id of REGION/ID; None if the vendor has no such thing. Raises `Unclear` for a region that is
    not `ours`: nothing is known of it, and nobody has said that it is gone."""
    where, _, own = instance_id.partition("/")
    if not region.fullmatch(where) or not name.fullmatch(own):
        return None
    if where not in ours:
        raise Unclear(f"{where} is not in the settings any more: nothing is known of {own[:60]}", maybe_created=False)
    return where, own


def vet_images(images: Mapping[str, str], *, form: re.Pattern[str], shape: str, ours: Collection[str]) -> None:
    """For a setting that says the machine image of each place, "REGION" or "REGION/arm64". Raises ValueError."""
    for place, image in images.items():
        region, _, architecture = place.partition("/")
        if region not in ours or (architecture or "amd64") not in ARCHITECTURES or not form.fullmatch(image):
            raise ValueError(f"images: {place[:60]!r} is REGION or REGION/arm64 of subnets, and its image is {shape}")


def image_at(images: Mapping[str, str], region: str, architecture: str) -> str | None:
    return images.get(f"{region}/{architecture}") or (images.get(region) if architecture == "amd64" else None)


def boots(images: Mapping[str, str], region: str, architecture: str) -> bool:
    """Whether there is an image for it; a region without any image leaves that to the pools' `machine_image`."""
    named = any(place.partition("/")[0] == region for place in images)
    return not named or image_at(images, region, architecture) is not None


def image_for(order: Order, region: str, images: Mapping[str, str], *, form: re.Pattern[str], shape: str) -> str:
    """The pool's image, else that of the place. Raises `Refused` where there is none, or it is none of the vendor's."""
    architecture = order.offer.architecture
    name = order.image or image_at(images, region, architecture)
    if name is None:
        where = region if architecture == "amd64" else f"{region}/{architecture}"
        raise Refused(f"no image: the pool names none, and the provider's images have no {where!r}")
    if not form.fullmatch(name):
        raise Refused(f"{name[:80]!r} is no machine image of this vendor: they look like {shape}")
    return name


class Zones:
    """The walk of a launch through the zones of its region. Belongs to one event loop.

    A vendor that honours a create token honours it per zone: the same token in another zone is another machine. So the walk
    goes on only after a definite no, and stays at the zone that gave no clear answer."""

    def __init__(self) -> None:
        self._stands: OrderedDict[str, str] = OrderedDict()  # key -> the zone that was asked last
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def first(
        self,
        key: str,
        zones: Sequence[str],
        ask: Callable[[str], Awaitable[T]],
        *,
        look: Callable[[], Awaitable[T | None]],
        reach: Reach,
    ) -> T:
        """What the first zone that has a machine gives for the key, one call of a key at a time. `ask` raises `NoMachine` for
        a definite no of its zone; `look` gives what may be there under the key, and is asked first where it is not known how
        far the walk came. Raises `NoCapacity` with `reach` if no zone has one."""
        async with self._turns.setdefault(key, asyncio.Lock()):
            stands = self._stands.get(key)
            if stands is None:
                found = await look()
                if found is not None:
                    return found
            no = "no zone"
            for zone in walk(key, zones, stands):
                self._remember(key, zone)
                try:
                    return await ask(zone)
                except NoMachine as error:
                    no = str(error)
            self._stands.pop(key, None)  # a definite no of every zone: nothing is left of this key
            raise NoCapacity(no, reach=reach)

    def _remember(self, key: str, zone: str) -> None:
        self._stands[key] = zone
        self._stands.move_to_end(key)
        while len(self._stands) > REMEMBERED:
            self._stands.popitem(last=False)


def walk(key: str, zones: Sequence[str], stands: str | None) -> Sequence[str]:
    """The zones to ask, in an order that is the key's own: the same each time, and another for another key.

    From `stands` on, where a zone was asked before: those that went before it gave a definite no."""
    first = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % len(zones) if zones else 0
    order = [*zones[first:], *zones[:first]]
    if stands is None:
        return order
    return order[order.index(stands) :] if stands in order else [stands]
