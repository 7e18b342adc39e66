"""Pilots over HTTP: what one would cost before it is rented, who may rent it, and how its lease shows on the pages."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.core.cooling import Setback
from app.core.model import Reason
from app.core.states import State
from app.store import leases, market, pilots, standings
from app.store.people import Role
from providers.contract import Availability, BootsFrom, Offer, Reach, Traits
from tests.web.conftest import Rebuilt, Service
from tests.web.story import HOLD, NOW

HOUR = timedelta(hours=1)
PATH = "/api/v1/providers/cloud-a/pilot"
WISH = {"max_price_per_hour": "9", "reason": "to see"}


def offer(name: str, price: str, **values: Any) -> Offer:
    given: dict[str, Any] = {"gpu": "h100", "gpus": 1, "gpu_memory_gib": 80, "type": name, **values}
    return Offer(name, "cloud-a", given.pop("region", "sg"), Decimal(price), "USD", NOW, **given)


@pytest.fixture
def shop(rebuilt: Rebuilt) -> Service:
    """A provider that bills whole hours, with three offers; and one that boots containers."""
    traits = {
        "cloud-a": Traits(billing_granularity=HOUR, billing_minimum=HOUR),
        "cloud-b": Traits(boots_from=BootsFrom.CONTAINER_IMAGE),
    }
    service = rebuilt(traits=traits)
    found = [
        offer("dear", "4.00", region="de"),
        offer("cheap", "2.00"),
        offer("none", "1.00", availability=Availability.NONE),
        offer("bare", "0.10", gpu=None, gpus=0, gpu_memory_gib=0),
    ]
    market.note(service.db, "cloud-a", found, NOW, HOUR)
    return service


async def test_the_preview_names_the_cheapest_that_passes_and_its_whole_bill(shop: Service) -> None:
    async with shop.client(Role.VIEWER) as client:
        told = (await client.get(PATH)).json()
        assert (told["offer"]["id"], told["price_per_hour"]["amount"]) == ("cheap", "2.0000")
        assert (told["expected"]["amount"], told["at_most"]["amount"]) == ("2.0000", "2.0000"), "it bills whole hours"
        assert (told["seen"], told["why"], told["lasts_seconds"], told["at_most_seconds"]) == (4, "", 120.0, 1200.0)
        there = (await client.get(PATH, params={"region": "DE", "gpu": "NVIDIA H100 80GB"})).json()
        assert there["offer"]["id"] == "dear"
        low = (await client.get(PATH, params={"max_price_per_hour": "1.99"})).json()
        assert low["offer"] is None and low["expected"] is None
        assert low["why"] == "No offer passes: 2 price, 1 gpu-count, 1 capacity."
    assert leases.listing(shop.db) == []


async def test_what_failed_lately_is_left_alone_and_an_absent_provider_says_why(shop: Service) -> None:
    no = Setback(NOW, "cloud-a", "sg", "cheap", "cheap", Reach.OFFER, Reason.NO_CAPACITY, "sold out")
    standings.told(shop.db, "cloud-a", lambda standing: standing, [no])
    async with shop.client(Role.OPERATOR) as client:
        assert (await client.get(PATH)).json()["offer"]["id"] == "dear"
        standings.pause(shop.db, "cloud-a", "ada", "audit", NOW)
        told = (await client.get(PATH)).json()
        assert told["offer"] is None and told["why"].startswith("Nothing is rented there now: paused by ada since")
        assert (await client.post(PATH, json=WISH)).status_code == 409
    assert pilots.listing(shop.db) == []


async def test_a_provider_of_containers_needs_a_pool_with_an_image(shop: Service) -> None:
    async with shop.client(Role.OPERATOR) as client:
        answer = await client.get("/api/v1/providers/cloud-b/pilot")
        assert answer.status_code == 409 and "--pool NAME" in answer.json()["error"]["hint"]
        lent = (await client.get("/api/v1/providers/cloud-b/pilot", params={"pool": "rubin"})).json()
        assert (lent["pool"], lent["why"]) == ("rubin", "No offer of it is known yet: it is asked every few minutes.")
        assert (await client.get(PATH, params={"pool": "none"})).status_code == 404
        assert (await client.get("/api/v1/providers/nobody/pilot")).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": "x"},
        {"max_price_per_hour": "9"},
        {**WISH, "max_price_per_hour": "-1"},
        {**WISH, "max_price_per_hour": "NaN"},
        {**WISH, "max_price_per_hour": "100001"},
        {**WISH, "reason": "x" * 201},
        {**WISH, "gpu": ""},
        {**WISH, "pool": "x" * 101},
    ],
)
async def test_a_wish_is_whole_or_nothing(shop: Service, body: dict[str, Any]) -> None:
    async with shop.client(Role.OPERATOR) as client:
        assert (await client.post(PATH, json=body)).status_code == 422
    assert pilots.listing(shop.db) == []


async def test_only_an_operator_rents_one(shop: Service) -> None:
    async with shop.client(Role.VIEWER) as client:
        assert (await client.post(PATH, json=WISH)).status_code == 403
    async with shop.client() as client:
        assert (await client.get("/api/v1/pilots")).status_code == 401
    assert leases.listing(shop.db) == []


async def test_its_lease_says_pilot_wherever_it_is_shown(shop: Service) -> None:
    async with shop.client(Role.OPERATOR) as client:
        asked = (await client.post(PATH, json=WISH)).json()
        assert (asked["state"], asked["offer"]["id"], asked["outcome"], asked["gone"]) == ("planned", "cheap", "", False)
        assert (asked["cost"]["amount"], asked["price_per_hour"], asked["usable_seconds"]) == ("0.0000", None, None)
        page = {"accept": "text/html"}
        head = (await client.get(f"/leases/{asked['lease']}", headers=page)).text
        assert "a pilot: it measures the machine and runs no job" in head and "no job yet" not in head
        table = (await client.get("/leases", headers=page)).text
        assert "(pilot)" in table and "no job yet" not in table
        assert (await client.get(f"/api/v1/leases/{asked['lease']}")).json()["pool"] == "(pilot)"
        assert 'provider="cloud-a"' in (await client.get("/metrics")).text
    (lease,) = leases.listing(shop.db)
    assert (lease.provider, lease.deadline) == ("cloud-a", NOW + timedelta(minutes=2))


async def test_one_that_is_over_counts_as_no_failure(shop: Service) -> None:
    async with shop.client(Role.OPERATOR) as client:
        asked = (await client.post(PATH, json={**WISH, "pool": None})).json()
        (held,) = leases.claim(shop.db, "engine", NOW, 9, HOLD)
        assert leases.move(
            shop.db,
            held,
            State.RELEASED,
            reason=Reason.PILOT_DONE,
            text="Done.",
            values={"gone_at": NOW},
            now=NOW,
            deadline=None,
        )
        assert pilots.close(shop.db, NOW) == 1 and pilots.close(shop.db, NOW) == 0
        told = (await client.get(f"/api/v1/pilots/{asked['id']}")).json()
        assert (told["outcome"], told["ended_at"]) == ("pilot done: Done.", "2026-11-21T12:16:05Z"), "it never was usable"
        page = (await client.get(f"/leases/{asked['lease']}", headers={"accept": "text/html"})).text
        assert "the pilot has measured it" in page
        shop.clock.advance(5)
        assert 'outcome="pilot"' in (await client.get("/metrics")).text
