"""Offers of AWS: types from moto's copy of AWS's own catalogue, prices from settings, price list and spot market."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

import pytest

from providers.aws_offers import ASK_AGAIN, PRICES_EVERY
from providers.contract import Need, Offer, Refused, Unclear, Why
from providers.regions import boots
from tests.providers.aws_bench import B300, H200, HOME, AwsBench
from tests.providers.aws_cloud import PRICES, REGIONS, SPOT, cloud, error

AWAY = REGIONS[1]
SUBNETS = "DescribeSubnets"


def asked(stood_up: AwsBench, action: str) -> int:
    return sum(call.action == action for call in stood_up.cloud.wire.calls)


def by_id(offers: Sequence[Offer]) -> dict[str, Offer]:
    return {offer.id: offer for offer in offers}


async def test_offers_say_what_the_machine_is() -> None:
    stood_up = AwsBench(cloud())
    try:
        offers = by_id(await stood_up.aws().offers(Need()))
        assert set(offers) == {f"{HOME}/{B300}", f"{HOME}/{B300}/spot", f"{HOME}/{H200}", f"{AWAY}/{H200}"}
        plain, spot = offers[f"{HOME}/{B300}"], offers[f"{HOME}/{B300}/spot"]
        assert (plain.gpu, plain.gpus, plain.architecture, plain.country) == ("B300", 8, "amd64", "ID")
        assert plain.gpu_memory_gib >= 250 and plain.memory_gib == 4096 and plain.disk_gib == 200 and plain.type == B300
        assert (plain.price_per_hour, plain.spot, plain.notice) == (Decimal("142.42"), False, None)
        assert (spot.price_per_hour, spot.spot, spot.notice) == (Decimal("60.5"), True, timedelta(minutes=2))
        assert offers[f"{AWAY}/{H200}"].country == "AE" and offers[f"{AWAY}/{H200}"].gpu == "H200"
        only = by_id(await stood_up.aws().offers(Need(regions=frozenset({AWAY, "eu-west-1"}))))
        assert {offer.region for offer in only.values()} == {AWAY}
    finally:
        await stood_up.aclose()


async def test_types_and_zones_are_remembered_and_spot_prices_are_not() -> None:
    stood_up = AwsBench(cloud())
    try:
        provider = stood_up.aws()
        await provider.offers(Need())
        before = asked(stood_up, SUBNETS), asked(stood_up, SPOT)
        await provider.offers(Need())
        assert (asked(stood_up, SUBNETS), asked(stood_up, SPOT)) == (before[0], before[1] + 2)
    finally:
        await stood_up.aclose()


async def test_the_spot_price_is_that_of_the_dearest_zone_that_may_give_the_machine() -> None:
    stood_up = AwsBench(cloud())
    try:
        spot = stood_up.cloud.wire.spot
        spot[f"{HOME}b", B300] = "71.25"
        spot[f"{HOME}a", H200] = "99"  # a zone that does not have it
        spot[f"{HOME}b", H200], spot[f"{HOME}c", H200] = "nan", "21.3"
        offers = by_id(await stood_up.aws().offers(Need()))
        assert offers[f"{HOME}/{B300}/spot"].price_per_hour == Decimal("71.25")
        assert offers[f"{HOME}/{H200}/spot"].price_per_hour == Decimal("21.3")
    finally:
        await stood_up.aclose()


async def test_settings_set_a_price_for_one_region_or_all_and_for_spot() -> None:
    prices = {
        B300: Decimal(1),
        f"{AWAY}/{H200}": Decimal(2),
        H200: Decimal(3),
        f"{H200}/spot": Decimal(4),
        f"{B300}/spot": Decimal(5),
    }
    stood_up = AwsBench(cloud(), prices=prices)
    try:
        offers = by_id(await stood_up.aws().offers(Need()))
        assert {key: offer.price_per_hour for key, offer in offers.items()} == {
            f"{HOME}/{B300}": 1,
            f"{HOME}/{B300}/spot": 5,
            f"{HOME}/{H200}": 3,
            f"{HOME}/{H200}/spot": 4,
            f"{AWAY}/{H200}": 2,
            f"{AWAY}/{H200}/spot": 4,
        }
        assert not asked(stood_up, PRICES) and not asked(stood_up, SPOT), "what the settings say is not asked for"
    finally:
        await stood_up.aclose()


async def test_the_price_list_is_asked_once_a_day_and_what_has_no_price_is_left_out() -> None:
    stood_up = AwsBench(cloud(), prices={}, spot=False)
    try:
        provider, listed = stood_up.aws(), stood_up.cloud.wire.prices
        listed[HOME, B300], listed[AWAY, H200] = "142.4160000000", "0.0000000000"
        offers = by_id(await provider.offers(Need()))
        assert {key: offer.price_per_hour for key, offer in offers.items()} == {f"{HOME}/{B300}": Decimal("142.416")}
        health = await provider.check()
        assert health.ok and "1 machine types are left out" in health.summary and H200 in health.facts["unpriced"]
        before = asked(stood_up, PRICES)
        assert before == 3
        await provider.offers(Need())
        assert asked(stood_up, PRICES) == before
        stood_up.clock.time += ASK_AGAIN
        listed[HOME, H200] = "63.3"
        assert len(await provider.offers(Need())) == 2 and asked(stood_up, PRICES) == before + 2
        stood_up.clock.time += PRICES_EVERY
        listed[HOME, B300] = "99.5"
        assert by_id(await provider.offers(Need()))[f"{HOME}/{B300}"].price_per_hour == Decimal("99.5")
    finally:
        await stood_up.aclose()


@pytest.mark.parametrize("body", [b'{"PriceList": ["{"]}', b'{"PriceList": [7]}', b'{"PriceList": ["{}"]}', b"{}"])
async def test_an_unreadable_price_list_costs_offers_and_is_told(body: bytes) -> None:
    stood_up = AwsBench(cloud(), prices={}, spot=False, types=(B300,))
    try:
        stood_up.trip(PRICES, 200, body)
        provider = stood_up.aws()
        assert await provider.offers(Need()) == []
        assert "unreadable price list" in (await provider.check()).facts["unpriced"]
    finally:
        await stood_up.aclose()


async def test_a_known_price_outlives_a_price_list_that_is_away() -> None:
    stood_up = AwsBench(cloud(), prices={}, spot=False, types=(B300,))
    try:
        provider = stood_up.aws()
        stood_up.cloud.wire.prices[HOME, B300] = "142.4"
        assert len(await provider.offers(Need())) == 1
        stood_up.clock.time += PRICES_EVERY
        stood_up.trip(PRICES, 400, b'{"__type": "AccessDeniedException", "Message": "no right"}', times=3)
        assert len(await provider.offers(Need())) == 1
    finally:
        await stood_up.aclose()


async def test_a_region_that_is_away_costs_its_own_offers_only() -> None:
    stood_up = AwsBench(cloud(), spot=False)
    try:
        provider = stood_up.aws()
        stood_up.trip(SUBNETS, 500, error("Unavailable"), times=3, region=AWAY)
        assert {offer.region for offer in await provider.offers(Need())} == {HOME}
        stood_up.trip(SUBNETS, 500, error("Unavailable"), times=3, region=AWAY)
        health = await provider.check()
        assert not health.ok and AWAY in health.summary and HOME in health.facts
        with pytest.raises(Unclear):
            stood_up.trip(SUBNETS, 500, error("Unavailable"), times=6)
            await stood_up.aws().offers(Need())
    finally:
        await stood_up.aclose()


async def test_refused_credentials_are_told_although_another_region_answers() -> None:
    stood_up = AwsBench(cloud(), spot=False)
    try:
        stood_up.trip(SUBNETS, 401, error("AuthFailure"), region=AWAY)
        with pytest.raises(Refused) as refused:
            await stood_up.aws().offers(Need())
        assert refused.value.why is Why.CREDENTIALS
    finally:
        await stood_up.aclose()


async def test_what_cannot_boot_is_not_offered() -> None:
    """A region that has images of its own, and none for Arm, leaves Arm out; one without any leaves it to the pool's."""
    arm = cloud()._image(AWAY, "arm64")  # pyright: ignore[reportPrivateUsage]
    stood_up = AwsBench(cloud(), images={f"{AWAY}/arm64": arm}, spot=False)
    try:
        images = stood_up.settings.images
        assert not boots(images, AWAY, "amd64") and boots(images, AWAY, "arm64")
        assert {offer.region for offer in await stood_up.aws().offers(Need())} == {HOME}, "H200 machines are no Arm machines"
    finally:
        await stood_up.aclose()
