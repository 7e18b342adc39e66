"""The `shadeform` provider against a stand-in that the vendor's own description judges: every check, and its own traps."""

import asyncio
import base64
import logging
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
import pytest_asyncio

from providers.conformance import Check
from providers.contract import Need, NoCapacity, Phase, ProviderError, Refused, Throttled, Unclear, Why
from providers.shadeform import PHASES
from tests.providers.shadeform_bench import CREATE, SETTINGS, ShadeformBench, bench
from tests.providers.shadeform_server import DESCRIPTION, OTHER_DESCRIPTION, SOLD_OUT, SSH_KEY, ZERO_TIME
from tests.providers.suite import suite
from tests.providers.vendor_spec import Spec, standing


@pytest_asyncio.fixture
async def stand() -> AsyncGenerator[ShadeformBench, None]:
    async with standing(bench) as made:
        yield made


@suite(ShadeformBench.faults)
async def test_conformance(check: Check, stand: ShadeformBench) -> None:
    await check.run(stand)


@pytest.mark.parametrize("gone_is", [400, 410])
@suite(ShadeformBench.faults, "destroy", "unknown")
async def test_conformance_whatever_it_says_of_what_is_gone(check: Check, gone_is: int, stand: ShadeformBench) -> None:
    stand.cloud.keeps_records, stand.cloud.gone_is = gone_is == 410, gone_is
    await check.run(stand)


def test_every_status_of_both_descriptions_has_its_place() -> None:
    mine, other = Spec.needed(DESCRIPTION).schema("Status"), Spec.needed(OTHER_DESCRIPTION).schema("Instance")
    assert set(mine["enum"]) == set(other["properties"]["status"]["enum"]) == set(PHASES) == set(ShadeformBench.states)


# the create


async def test_the_create_carries_tag_owner_key_script_and_end(stand: ShadeformBench) -> None:
    settings = replace(SETTINGS, ssh_key_id=SSH_KEY, os="ubuntu_22_shade_os")
    provider, order = stand.made(settings), stand.order()
    made = await provider.create(order)
    (body,) = stand.cloud.creates()
    script = body.pop("launch_configuration")
    assert script["type"] == "script"
    assert base64.b64decode(script["script_configuration"]["base64_script"]).decode() == order.user_data
    assert body == {
        "cloud": "hyperstack",
        "region": "canada-1",
        "shade_instance_type": "A6000",
        "shade_cloud": True,
        "name": order.tag,
        "os": "ubuntu_22_shade_os",
        "ssh_key_id": SSH_KEY,
        "auto_delete": {"date_threshold": "2027-03-01T13:00:00Z", "spend_threshold": "1.00"},
        "tags": [f"sublet-owner={order.owner}", f"sublet-tag={order.tag}", f"sublet-key={order.key}"],
    }
    assert (made.phase, made.region, made.key, made.ended_at) == (Phase.STARTING, "canada-1", order.key, None)
    assert made.created_at == datetime(2027, 3, 1, 12, 0, 0, 123456, UTC)


@pytest.mark.parametrize(
    ("price", "hours", "most"),
    [("0.01", 1, "1.00"), ("2.57", 1, "3.86"), ("23.92", 6, "215.28"), ("29.99", 0.5, "22.50"), ("0.3333333", 10, "5.00")],
)
async def test_the_sum_has_headroom_and_is_never_rounded_down(
    price: str, hours: float, most: str, stand: ShadeformBench
) -> None:
    order = stand.order()
    ends = stand.clock.now() + timedelta(hours=hours)
    order = replace(order, offer=replace(order.offer, price_per_hour=Decimal(price)), ends_at=ends)
    await (await stand.provider()).create(order)
    end = stand.cloud.creates()[0]["auto_delete"]
    assert end["spend_threshold"] == most
    assert Decimal(most) >= Decimal(price) * Decimal(str(hours)) * Decimal("1.49")
    assert datetime.fromisoformat(end["date_threshold"]) == ends


async def test_a_machine_without_an_end_is_refused_before_the_call(stand: ShadeformBench) -> None:
    provider, order = await stand.provider(), stand.order()
    with pytest.raises(Refused, match="lies in the past"):
        await provider.create(replace(order, ends_at=stand.clock.now()))
    with pytest.raises(Refused, match="without a price"):
        await provider.create(replace(order, offer=replace(order.offer, price_per_hour=Decimal(0))))
    assert not stand.cloud.requests


async def test_an_end_that_was_not_taken_is_told(stand: ShadeformBench, caplog: pytest.LogCaptureFixture) -> None:
    provider = await stand.provider()
    with caplog.at_level(logging.WARNING):
        await provider.create(stand.order())
        assert not caplog.records
        stand.cloud.takes_ends = False
        made = await provider.create(stand.order())
    (record,) = caplog.records
    assert record.getMessage() == f"shadeform shadeform shows no end of its own for {made.id}: only Sublet would end it"


async def test_a_record_that_cannot_be_read_loses_no_instance(stand: ShadeformBench) -> None:
    provider = await stand.provider()
    answers = [httpx.Response(404, json={}), httpx.Response(200, json={"id": "?"}), httpx.Response(200, json=[])]
    for answer in (*answers, httpx.Response(503), None):
        order = stand.order()
        stand.cloud.meet("/info", answer, times=3)
        made = await provider.create(order)
        stand.cloud.faults.clear()
        assert (made.tag, made.phase, made.detail, made.key) == (order.tag, Phase.STARTING, "creating", order.key)
        assert made.created_at is not None
        assert [row.id for row in await provider.owned(order.owner) if row.tag == order.tag] == [made.id]


async def test_an_instance_of_another_attempt_is_in_the_way_until_it_ends(stand: ShadeformBench) -> None:
    provider, order = await stand.provider(), stand.order()
    first = await provider.create(order)
    second = replace(order, key="another")
    with pytest.raises(Unclear, match="another attempt"):
        await provider.create(second)
    await provider.destroy(first.id)
    assert (await provider.create(second)).id != first.id
    assert len(stand.cloud.creates()) == 2


@pytest.mark.parametrize("offer", ["", "hyperstack/canada-1", "a/b/c/d", "../../x", "a/b/c d", "/b/c"])
async def test_strange_offers_are_refused_before_the_call(offer: str, stand: ShadeformBench) -> None:
    provider, order = await stand.provider(), stand.order()
    with pytest.raises(Refused, match="no offer"):
        await provider.create(replace(order, offer=replace(order.offer, id=offer)))
    assert not stand.cloud.requests


async def test_linked_accounts_and_images(stand: ShadeformBench) -> None:
    provider = stand.made(replace(SETTINGS, shade_cloud=False, os="ubuntu_22_shade_os"))
    await provider.create(replace(stand.order(), image="ubuntu22.04_cuda12.2_shade_os"))
    (body,) = stand.cloud.creates()
    assert (body["shade_cloud"], body["os"]) == (False, "ubuntu22.04_cuda12.2_shade_os")


async def test_what_the_two_descriptions_make_of_a_create(stand: ShadeformBench) -> None:
    """The smaller file has other words for the end of a machine: see the page of this provider."""
    other = Spec.needed(OTHER_DESCRIPTION)
    await (await stand.provider()).create(stand.order())
    (body,) = stand.cloud.creates()
    with pytest.raises(AssertionError, match="'date_threshold', 'spend_threshold' were unexpected"):
        other.request("POST", "/v1" + CREATE, body=body)
    assert set(other.schema("AutoDelete")["properties"]) == {"delete_at", "spend_limit_in_cents"}
    other.request("POST", "/v1" + CREATE, body={key: value for key, value in body.items() if key != "auto_delete"})
    mine, theirs = (dict.fromkeys(spec.operations) for spec in (stand.cloud.spec, other))
    assert {path for _, path in mine if (_, path) not in theirs} == {path for _, path in mine if path.startswith("/clusters")}
    assert all(operation in mine for operation in theirs)


# errors


@pytest.mark.parametrize(
    ("status", "body", "kind", "why"),
    [
        (409, SOLD_OUT, NoCapacity, None),
        (400, SOLD_OUT, NoCapacity, None),
        (409, {"error_code": "OF_TOMORROW", "error": "reworded"}, NoCapacity, None),
        (422, {"error": "H100 is sold out"}, NoCapacity, None),
        (404, {"message": "The instance type is currently out of stock."}, NoCapacity, None),
        (401, SOLD_OUT, Refused, Why.CREDENTIALS),
        (401, None, Refused, Why.CREDENTIALS),
        (403, SOLD_OUT, Refused, Why.CREDENTIALS),
        (403, {"error": "forbidden"}, Refused, Why.CREDENTIALS),
        (402, {"error": "no"}, Refused, Why.FUNDS),
        (400, {"error_code": "INSUFFICIENT_BALANCE", "error": "no"}, Refused, Why.FUNDS),
        (403, {"error": "Please top up your wallet."}, Refused, Why.FUNDS),
        (409, {"error": "Not enough credits."}, Refused, Why.FUNDS),
        (400, {"error": "Missing credentials"}, Refused, Why.REQUEST),
        (403, {"code": "quota_exceeded", "message": "no"}, Refused, Why.QUOTA),
        (400, {"error": "You have reached your instance limit."}, Refused, Why.QUOTA),
        (409, {"error": "Spending limit reached"}, Refused, Why.QUOTA),
        (400, {"code": "bad", "message": "invalid os"}, Refused, Why.REQUEST),
        (404, {"error": "template not found"}, Refused, Why.REQUEST),
        (400, None, Unclear, None),
        (403, None, Unclear, None),
        (409, None, Unclear, None),
        (404, [], Unclear, None),
        (400, {}, Unclear, None),
        (500, SOLD_OUT, Unclear, None),
        (302, None, Unclear, None),
        (200, None, Unclear, None),
        (200, {"id": 7}, Unclear, None),
        (200, {"id": "../x"}, Unclear, None),
        (200, {"id": None}, Unclear, None),
        (200, [], Unclear, None),
    ],
)
async def test_errors_become_what_is_to_be_done(
    status: int, body: object, kind: type[ProviderError], why: Why | None, stand: ShadeformBench
) -> None:
    answer = httpx.Response(status, text="<h1>proxy</h1>") if body is None else httpx.Response(status, json=body)
    stand.cloud.meet(CREATE, answer)
    with pytest.raises(ProviderError) as told:
        await (await stand.provider()).create(stand.order())
    assert type(told.value) is kind
    assert len(stand.cloud.creates()) == 1
    if isinstance(told.value, Refused):
        assert told.value.why is why
    if isinstance(told.value, Unclear):
        assert told.value.maybe_created


async def test_words_about_stock_mean_nothing_where_nothing_is_created(stand: ShadeformBench) -> None:
    provider = await stand.provider()
    for path, call in (("/instances", provider.owned("me")), ("/types", provider.offers(Need()))):
        stand.cloud.meet(path, httpx.Response(409, json=SOLD_OUT))
        with pytest.raises(Refused) as told:
            await call
        assert told.value.why is Why.REQUEST


async def test_the_whole_account_keeps_still_when_it_is_told_to(stand: ShadeformBench) -> None:
    one, two = await stand.provider(), await stand.provider()
    stand.cloud.meet("/instances", httpx.Response(429, headers={"Retry-After": "30"}))
    with pytest.raises(Throttled):
        await one.owned("me")
    with pytest.raises(Throttled) as told:
        await two.owned("me")
    assert told.value.wait == timedelta(seconds=30)
    assert len(stand.cloud.requests) == 1


# absence, and what is left


async def test_absence_is_what_the_list_proves(stand: ShadeformBench) -> None:
    provider = await stand.provider()
    made = await provider.create(stand.order())
    for answer in (
        httpx.Response(404, text="nginx"),
        httpx.Response(404, json={"message": "no route"}),
        httpx.Response(400, json={}),
    ):
        stand.cloud.meet("/info", answer)
        shown = await provider.get(made.id)
        assert shown is not None
        assert shown.id == made.id
    for status in (401, 403, 500):
        stand.cloud.meet("/info", httpx.Response(status, json={"error": "no"}), times=3)
        with pytest.raises(ProviderError):
            await provider.get(made.id)
        stand.cloud.faults.clear()
    stand.cloud.meet("/info", httpx.Response(404, json={}))
    stand.cloud.meet("/instances", httpx.Response(200, json={"instances": [{"id": "?"}]}))
    with pytest.raises(Unclear):
        await provider.get(made.id)
    other = {**stand.cloud.instances[made.id], "id": "d290f1ee-6c54-4b01-90e6-ffffffffffff"}
    stand.cloud.meet("/info", httpx.Response(200, json=other))
    with pytest.raises(Unclear, match="another instance"):
        await provider.get(made.id)


async def test_a_delete_that_was_refused_is_told(stand: ShadeformBench) -> None:
    provider = await stand.provider()
    made = await provider.create(stand.order())
    for answer, why in ((httpx.Response(400, json={"error": "not yet"}), Why.REQUEST), (httpx.Response(401), Why.CREDENTIALS)):
        stand.cloud.meet("/delete", answer)
        with pytest.raises(Refused) as told:
            await provider.destroy(made.id)
        assert told.value.why is why
    stand.cloud.meet("/delete", httpx.Response(409, json={"error": "already deleting"}), reaches=True)
    await provider.destroy(made.id)
    assert stand.cloud.instances[made.id]["status"] == "deleting"
    assert {method for method, path, _ in stand.cloud.requests if path.endswith("/delete")} == {"POST"}  # DELETE is a 405 there


async def test_hostile_ids_are_not_asked_for(stand: ShadeformBench) -> None:
    provider = await stand.provider()
    for stranger in (
        "../../etc",
        "types",
        "create",
        "",
        "x?y=z#w",
        "d290f1ee-6c54-4b01-90e6-d701748f0851/../x",
        "D290F1EE" * 4,
    ):
        assert await provider.get(stranger) is None
        await provider.destroy(stranger)
    assert not stand.cloud.requests


async def test_a_record_of_what_has_ended_is_dated(stand: ShadeformBench) -> None:
    provider = await stand.provider()
    made = await provider.create(stand.order())
    stand.cloud.keeps_records = True
    stand.clock.time += timedelta(minutes=9)
    stand.cloud.end(made.id)
    shown = await provider.get(made.id)
    assert shown is not None
    assert (shown.phase, shown.ended_at) == (Phase.ENDED, stand.clock.now())
    stand.cloud.instances[made.id]["deleted_at"] = ZERO_TIME
    shown = await provider.get(made.id)
    assert shown is not None
    assert (shown.phase, shown.ended_at) == (Phase.ENDED, None)


async def test_what_could_not_be_had_says_why(stand: ShadeformBench) -> None:
    """Creates are taken first and tried later: a shortage may show as an instance in error."""
    provider, order = await stand.provider(), stand.order()
    made = await provider.create(order)
    stand.cloud.instances[made.id] |= {"status": "error", "status_details": "provider is out of stock\n" + "x" * 500}
    (shown,) = await provider.owned(order.owner)
    assert shown.phase is Phase.FAILED
    assert shown.detail.startswith("error: provider is out of stock x")
    assert len(shown.detail) == 160
    stand.cloud.instances[made.id] |= {"status": "error"}
    stand.cloud.meet(
        "/info", httpx.Response(200, json={**stand.cloud.instances[made.id], "status": "rebooting", "status_details": 7})
    )
    unknown = await provider.get(made.id)
    assert unknown is not None
    assert (unknown.phase, unknown.detail) == (Phase.UNKNOWN, "rebooting")


@pytest.mark.parametrize("spoilt", [{"id": None}, {"id": "x"}, {"tags": "sublet"}, {"tags": {"a": "b"}}])
async def test_a_listing_with_a_strange_row_is_unclear_as_a_whole(spoilt: dict[str, Any], stand: ShadeformBench) -> None:
    provider, order = await stand.provider(), stand.order()
    made = await provider.create(order)
    mine = stand.cloud.instances[made.id]
    stand.cloud.meet("/instances", httpx.Response(200, json={"instances": [mine, {**mine, **spoilt}]}))
    with pytest.raises(Unclear):
        await provider.owned(order.owner)


async def test_others_machines_are_no_trouble(stand: ShadeformBench) -> None:
    provider, order = await stand.provider(), stand.order()
    made = await provider.create(order)
    foreign = {key: value for key, value in stand.cloud.instances[made.id].items() if key != "tags"}
    for number, more in enumerate([{}, {"tags": ["web", "sublet-owner", "a=b"]}]):
        instance_id = f"d290f1ee-6c54-4b01-90e6-ffffffffff{number:02}"
        stand.cloud.instances[instance_id] = {**foreign, "id": instance_id, **more}
    assert [row.id for row in await provider.owned(order.owner)] == [made.id]
    assert len({row.id for row in await asyncio.gather(*(provider.create(order) for _ in range(3)))}) == 1
