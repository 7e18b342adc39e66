"""Several regions as one account, and the walk of a launch through the zones of one."""

import re
from collections.abc import Mapping, Sequence

import pytest

from providers import regions
from providers.contract import NoCapacity, Offer, Reach, Refused, Throttled, Unclear, Why
from providers.regions import NoMachine, Zones, answering, looked, place_of, walk, whole
from tests.providers.benches import ManualClock, plain_offer

OFFER = plain_offer("vendor", ManualClock().now())
ZONES = ("a", "b", "c")


class Vendor:
    """Gives what it was told for each region or zone, raises what is an error, and notes who was asked."""

    def __init__(self, **answers: object) -> None:
        self.answers: Mapping[str, object] = answers
        self.asked: list[str] = []

    async def rows(self, region: str) -> Sequence[Offer]:
        self._answer(region)
        return [OFFER]

    async def word(self, zone: str) -> str:
        return str(self._answer(zone))

    async def nothing(self) -> str | None:
        self.asked.append("look")
        return None

    def _answer(self, name: str) -> object:
        self.asked.append(name)
        answer = self.answers.get(name, name)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_a_list_is_of_every_region_or_an_error() -> None:
    assert await whole("vendor", ("x", "y"), Vendor().rows) == [OFFER, OFFER]
    with pytest.raises(Throttled):
        await whole("vendor", ("x", "y"), Vendor(y=Throttled()).rows)
    with pytest.raises(Unclear, match="vendor y: an unreadable list"):
        await whole("vendor", ("x", "y"), Vendor(y=KeyError("secret")).rows)


async def test_offers_are_of_the_regions_that_answer() -> None:
    troubles: dict[str, str] = {}
    assert await answering(("x", "y", "z"), Vendor(y=Unclear("no line"), z=KeyError("secret")).rows, troubles) == [OFFER]
    assert troubles == {"y": "no line", "z": "KeyError"}


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ({"x": Throttled(), "y": Unclear()}, Throttled),
        ({"y": Refused(why=Why.CREDENTIALS)}, Refused),
    ],
)
async def test_no_region_that_answers_and_bad_credentials_are_no_empty_list(
    answers: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await answering(("x", "y"), Vendor(**answers).rows, {})


async def test_a_region_that_refuses_for_another_reason_hides_no_other() -> None:
    assert await answering(("x", "y"), Vendor(y=Refused(why=Why.QUOTA)).rows, {}) == [OFFER]


async def test_a_look_tells_what_is_good_and_what_is_not() -> None:
    facts, bad = await looked("vendor", ("x", "y", "z"), Vendor(y=Unclear("no line"), z=KeyError("secret")).word)
    assert facts == {"x": "x"} and bad == "no line; vendor z check: unexpected KeyError"


@pytest.mark.parametrize(
    ("instance_id", "place"), [("x/i-1", ("x", "i-1")), ("x/1", None), ("X/i-1", None), ("i-1", None), ("x/i-1/i-2", None)]
)
def test_an_id_is_its_region_and_the_vendors_own(instance_id: str, place: tuple[str, str] | None) -> None:
    assert place_of(instance_id, region=re.compile("[a-z]+"), name=re.compile(r"i-\d"), ours=("x",)) == place


def test_of_a_region_that_is_not_ours_nothing_is_known() -> None:
    with pytest.raises(Unclear, match="not in the settings") as caught:
        place_of("y/i-1", region=re.compile("[a-z]+"), name=re.compile(r"i-\d"), ours=("x",))
    assert not caught.value.maybe_created


def test_each_key_has_an_order_of_its_own_and_goes_on_from_where_it_stands() -> None:
    orders = {tuple(walk(f"key-{number}", ZONES, None)) for number in range(30)}
    assert orders == {("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b")}
    order = walk("key", ZONES, None)
    assert list(walk("key", ZONES, order[1])) == list(order[1:])
    assert walk("key", ZONES, "a zone of before") == ["a zone of before"]
    assert walk("key", (), None) == []


async def test_a_walk_goes_on_after_a_definite_no_and_stays_at_doubt() -> None:
    first, second, third = walk("key", ZONES, None)
    zones, vendor = Zones(), Vendor(**{first: NoMachine(), second: Unclear()})
    with pytest.raises(Unclear):
        await zones.first("key", ZONES, vendor.word, look=vendor.nothing, reach=Reach.REGION)
    vendor.answers = {first: "a second machine", second: NoMachine()}
    assert await zones.first("key", ZONES, vendor.word, look=vendor.nothing, reach=Reach.REGION) == third
    assert vendor.asked == ["look", first, second, second, third], "the look is for a key that is not remembered"


async def test_no_zone_has_one() -> None:
    zones, vendor = Zones(), Vendor(**{zone: NoMachine(f"none in {zone}") for zone in ZONES})
    for _ in range(2):
        with pytest.raises(NoCapacity, match=f"none in {walk('key', ZONES, None)[-1]}") as caught:
            await zones.first("key", ZONES, vendor.word, look=vendor.nothing, reach=Reach.REGION)
        assert caught.value.reach is Reach.REGION and not isinstance(caught.value, NoMachine)
    assert vendor.asked.count("look") == 2, "nothing is remembered of a key that every zone said no to"


async def test_a_key_that_is_forgotten_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "REMEMBERED", 2)
    zones, vendor = Zones(), Vendor()
    for key in ("one", "two", "three", "three", "one"):
        await zones.first(key, ZONES, vendor.word, look=vendor.nothing, reach=Reach.OFFER)
    assert vendor.asked.count("look") == 4


async def test_what_the_look_finds_asks_no_zone() -> None:
    async def found() -> str:
        return "it is there"

    vendor = Vendor()
    assert await Zones().first("key", ZONES, vendor.word, look=found, reach=Reach.OFFER) == "it is there"
    assert vendor.asked == []
