"""The `lambda` provider against a stand-in that Lambda's own description judges: every check, and its own traps."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio

from providers.conformance import Check
from providers.contract import (
    NoCapacity,
    Phase,
    ProviderError,
    Reach,
    Refused,
    Throttled,
    Unclear,
    Why,
)
from providers.lambda_cloud import CODES, LAUNCHES_EVERY, NO_CAPACITY, PHASES
from tests.providers import lambda_server
from tests.providers.lambda_bench import LAUNCH, SETTINGS, LambdaBench, bench
from tests.providers.suite import suite
from tests.providers.vendor_spec import Spec, standing


@pytest_asyncio.fixture
async def stand() -> AsyncGenerator[LambdaBench, None]:
    async with standing(bench) as made:
        yield made


@suite(LambdaBench.faults)
async def test_conformance(check: Check, stand: LambdaBench) -> None:
    await check.run(stand)


@suite(LambdaBench.faults, "destroy")
async def test_conformance_where_records_of_ended_instances_stay(check: Check, stand: LambdaBench) -> None:
    stand.cloud.keeps_records = True
    await check.run(stand)


def test_every_status_and_every_code_of_the_description_has_its_place() -> None:
    spec = Spec.needed(lambda_server.DESCRIPTION)
    assert set(spec.schema("InstanceStatus")["enum"]) == set(PHASES) == set(LambdaBench.states)
    errors = [name for name in spec.schemas if name.startswith("ApiError")]
    codes = {spec.schema(name)["properties"]["code"]["const"] for name in errors}
    assert len(errors) > 15
    assert codes == {*CODES, NO_CAPACITY}


# the launch


async def test_the_launch_carries_tag_owner_key_and_end(stand: LambdaBench) -> None:
    provider, order = await stand.provider(), stand.order()
    made = await provider.create(order)
    (body,) = stand.cloud.launches()
    tags = {tag["key"]: tag["value"] for tag in body.pop("tags")}
    assert body == {
        "region_name": "us-west-1",
        "instance_type_name": "gpu_1x_h100_sxm5",
        "ssh_key_names": ["ci"],
        "name": order.tag,
        "user_data": order.user_data,
    }
    assert tags == {
        "sublet-owner": order.owner,
        "sublet-tag": order.tag,
        "sublet-key": order.key,
        "sublet-ends-at": "2027-03-01T13:00:00+00:00",
        "sublet-asked-at": made.created_at and made.created_at.isoformat(),
    }
    shown = await provider.get(made.id)
    assert shown is not None
    assert (shown.phase, shown.region, shown.key, shown.created_at) == (Phase.STARTING, "us-west-1", order.key, made.created_at)


@pytest.mark.parametrize(
    ("setting", "image", "sent"),
    [
        ("", None, None),
        ("lambda-stack-24-04", None, {"family": "lambda-stack-24-04"}),
        ("lambda-stack-24-04", "f" * 32, {"id": "f" * 32}),
        ("43336648-096d-4cba-9aa2-f9bb7727639d", None, {"id": "43336648-096d-4cba-9aa2-f9bb7727639d"}),
    ],
)
async def test_images_rulesets_and_file_systems(setting: str, image: str | None, sent: object, stand: LambdaBench) -> None:
    rules = {"us-west-1": "c4d291f47f9d436fa39f58493ce3b50d", "us-south-1": "other"}
    settings = replace(SETTINGS, image=setting, firewall_rulesets=rules, file_systems={"us-west-1": "cache"})
    await stand.made(settings).create(replace(stand.order(), image=image))
    (body,) = stand.cloud.launches()
    assert body.get("image") == sent
    assert body["firewall_rulesets"] == [{"id": "c4d291f47f9d436fa39f58493ce3b50d"}]
    assert body["file_system_names"] == ["cache"]


async def test_the_rates_are_kept_by_all_who_use_the_account(stand: LambdaBench) -> None:
    stand.cloud.slow_launches = False
    one, two = await stand.provider(), await stand.provider()
    await one.create(stand.order())
    order = stand.order()
    with pytest.raises(Throttled) as told:
        await two.create(order)
    assert timedelta(seconds=10) < told.value.wait <= LAUNCHES_EVERY
    stand.clock.time += told.value.wait
    assert (await two.create(order)).tag == order.tag
    await asyncio.gather(*(provider.owned(order.owner) for provider in (one, two)))
    assert len(stand.cloud.launches()) == 2  # and the stand-in would have complained of a request too many


async def test_an_instance_of_another_attempt_is_in_the_way_until_it_ends(stand: LambdaBench) -> None:
    provider, order = await stand.provider(), stand.order()
    first = await provider.create(order)
    second = replace(order, key="another")
    with pytest.raises(Unclear, match="another attempt"):
        await provider.create(second)
    await provider.destroy(first.id)
    assert (await provider.create(second)).id != first.id
    assert [body["name"] for body in stand.cloud.launches()] == [order.tag, order.tag]


@pytest.mark.parametrize("offer", ["", "us-west-1", "us-west-1/", "../x", "us-west-1/a b", "us-west-1/x/y", "Us/x"])
async def test_strange_offers_are_refused_before_the_call(offer: str, stand: LambdaBench) -> None:
    provider, order = await stand.provider(), stand.order()
    with pytest.raises(Refused, match="no offer"):
        await provider.create(replace(order, offer=replace(order.offer, id=offer)))
    assert not stand.cloud.requests


# errors


EXPECTED = {
    "instance-operations/launch/insufficient-capacity": (400, NoCapacity, None),
    "instance-operations/launch/file-system-in-wrong-region": (400, Refused, Why.REQUEST),
    "global/quota-exceeded": (400, Refused, Why.QUOTA),
    "global/invalid-parameters": (400, Refused, Why.REQUEST),
    "global/invalid-api-key": (401, Refused, Why.CREDENTIALS),
    "global/account-inactive": (403, Refused, Why.CREDENTIALS),
    "global/forbidden": (403, Refused, Why.CREDENTIALS),
    "global/invalid-address": (403, Refused, Why.FUNDS),
    "global/object-does-not-exist": (404, Refused, Why.REQUEST),
    "global/not-found": (404, Refused, Why.REQUEST),
    "global/conflict": (409, Refused, Why.REQUEST),
    "global/duplicate": (400, Refused, Why.REQUEST),
    "filesystems/filesystem-in-use": (400, Refused, Why.REQUEST),
    "firewall-rulesets/firewall-ruleset-in-use": (400, Refused, Why.REQUEST),
    "global/internal-error": (400, Unclear, None),
    "provider/internal-unavailable": (400, Unclear, None),
    "provider/quota-exceeded": (403, Unclear, None),
    "global/of-tomorrow": (400, Refused, Why.REQUEST),
    "global/of-the-day-after": (403, Refused, Why.CREDENTIALS),
}


@pytest.mark.parametrize("code", EXPECTED)
async def test_every_code_becomes_what_is_to_be_done(code: str, stand: LambdaBench) -> None:
    status, kind, why = EXPECTED[code]
    stand.cloud.meet(LAUNCH, stand.cloud.error(status, code, "for reasons"))
    with pytest.raises(ProviderError) as told:
        await (await stand.provider()).create(stand.order())
    assert type(told.value) is kind
    assert code in str(told.value)
    assert "for reasons" in str(told.value)
    assert len(stand.cloud.launches()) == 1
    if isinstance(told.value, NoCapacity):
        assert told.value.reach is Reach.REGION
    if isinstance(told.value, Refused):
        assert told.value.why is why
    if isinstance(told.value, Unclear):
        assert told.value.maybe_created


def test_the_table_of_errors_leaves_no_code_out() -> None:
    assert {*CODES, NO_CAPACITY} <= set(EXPECTED)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(403, text="<p>The owner has banned you temporarily</p>"), Throttled),
        (httpx.Response(403, text="<h1>Forbidden</h1>"), Unclear),
        (httpx.Response(404, text="<h1>nginx</h1>"), Unclear),
        (httpx.Response(400, json={"error": "no"}), Unclear),
        (httpx.Response(400, json={"error": {"code": 7}}), Unclear),
        (httpx.Response(401, text="no"), Refused),
        (httpx.Response(503, text="busy"), Unclear),
        (httpx.Response(302, headers={"Location": "https://elsewhere.test/"}), Unclear),
        (httpx.Response(200, text="<html>"), Unclear),
        (httpx.Response(200, json=[]), Unclear),
        (httpx.Response(200, json={"data": {"instance_ids": []}}), Unclear),
        (httpx.Response(200, json={"data": {"instance_ids": "0920582c7ff041399e34823a0be62549"}}), Unclear),
        (httpx.Response(200, json={"data": {"instance_ids": ["../x"]}}), Unclear),
        (httpx.Response(200, json={"data": {"instance_ids": ["0" * 32, "1" * 32]}}), Unclear),
        (httpx.Response(200, json={"data": {"instance_ids": [None]}}), Unclear),
    ],
)
async def test_answers_that_are_not_lambdas_are_not_believed(
    answer: httpx.Response, kind: type[ProviderError], stand: LambdaBench
) -> None:
    stand.cloud.meet(LAUNCH, answer)
    with pytest.raises(kind) as told:
        await (await stand.provider()).create(stand.order())
    if isinstance(told.value, Unclear):
        assert told.value.maybe_created
    if isinstance(told.value, Refused):
        assert told.value.why is Why.CREDENTIALS
    if isinstance(told.value, Throttled):
        with pytest.raises(Throttled):
            await (await stand.provider()).owned("me")  # the whole account keeps still


async def test_only_the_vendors_own_code_proves_absence(stand: LambdaBench) -> None:
    provider = await stand.provider()
    made = await provider.create(stand.order())
    for answer in (httpx.Response(404, text="nginx"), stand.cloud.error(404, "global/not-found")):
        stand.cloud.meet(made.id, answer)
        with pytest.raises(ProviderError):
            await provider.get(made.id)
    other = {**stand.cloud.instances[made.id], "id": "f" * 32}
    stand.cloud.meet(made.id, httpx.Response(200, json={"data": other}))
    with pytest.raises(Unclear, match="another instance"):
        await provider.get(made.id)


async def test_hostile_ids_are_not_asked_for(stand: LambdaBench) -> None:
    provider = await stand.provider()
    for stranger in ("../../etc", "a/../b/c/d/e/f", "", "x?y=z#w", "-rf-------", "0" * 65, "0920582c\n", "٠" * 32):
        assert await provider.get(stranger) is None
        await provider.destroy(stranger)
    assert not stand.cloud.requests


async def test_a_termination_that_was_not_done_is_unclear(stand: LambdaBench) -> None:
    provider = await stand.provider()
    made = await provider.create(stand.order())
    stand.cloud.ignores_terminations = True
    with pytest.raises(Unclear, match="still booting"):
        await provider.destroy(made.id)
    stand.cloud.ignores_terminations = False
    await provider.destroy(made.id)
    await provider.destroy(made.id)  # it is on its way, and is in no list of terminations any more
    assert stand.cloud.instances[made.id]["status"] == "terminating"


# the listing


async def test_preemption_is_told(stand: LambdaBench) -> None:
    provider, order = await stand.provider(), stand.order()
    made = await provider.create(order)
    assert not made.preempted
    stand.cloud.instances[made.id]["status"] = "preempted"
    (shown,) = await provider.owned(order.owner)
    assert shown.preempted
    assert (shown.phase, shown.detail) == (Phase.STOPPED, "preempted")


@pytest.mark.parametrize(
    "spoilt",
    [
        {"id": None},
        {"id": "../x"},
        {"tags": "sublet"},
        {"tags": [{"key": "sublet-owner"}]},
        {"status": ["active"], "region": "us"},
    ],
)
async def test_a_listing_with_a_strange_row_is_unclear_as_a_whole(spoilt: dict[str, Any], stand: LambdaBench) -> None:
    provider, order = await stand.provider(), stand.order()
    made = await provider.create(order)
    rows = [stand.cloud.instances[made.id], {**stand.cloud.instances[made.id], **spoilt}]
    stand.cloud.meet("/instances", httpx.Response(200, json={"data": rows}))
    with pytest.raises(Unclear):
        await provider.owned(order.owner)


async def test_a_list_that_speaks_of_another_page_is_not_whole(stand: LambdaBench) -> None:
    answer = httpx.Response(200, json={"data": [], "page_token": "eyJuZXh0Ijox"})
    stand.cloud.meet("/instances", answer)
    with pytest.raises(Unclear, match="another page"):
        await (await stand.provider()).owned("me")


async def test_others_machines_and_edited_tags_are_no_trouble(stand: LambdaBench) -> None:
    provider, order = await stand.provider(), stand.order()
    made = await provider.create(order)
    row = stand.cloud.instances[made.id]
    stand.cloud.instances["e" * 32] = {key: value for key, value in row.items() if key not in ("tags", "name")} | {
        "id": "e" * 32
    }
    for asked_at in ("yesterday", "2027-03-01T12:00:00"):
        row["tags"] = [{"key": "sublet-owner", "value": order.owner}, {"key": "sublet-asked-at", "value": asked_at}]
        (shown,) = await provider.owned(order.owner)
        assert (shown.id, shown.tag, shown.created_at) == (made.id, "", None)


async def test_a_status_of_tomorrow_is_unknown(stand: LambdaBench) -> None:
    provider = await stand.provider()
    made = await provider.create(stand.order())
    row = {**stand.cloud.instances[made.id], "status": "hibernated"}
    stand.cloud.meet(made.id, httpx.Response(200, json={"data": row}))
    shown = await provider.get(made.id)
    assert shown is not None
    assert (shown.phase, shown.detail) == (Phase.UNKNOWN, "hibernated")
