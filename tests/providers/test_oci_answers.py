"""What Oracle may answer the wrapper with: each code, broken pages, foreign ids; offers and their capacity; bad settings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from providers import oci_api
from providers.contract import Availability, Need, NoCapacity, Offer, ProviderError, Refused, Secret, Throttled, Unclear, Why
from providers.oci import OciProvider
from providers.oci_errors import sort_answer
from tests.providers.oci_bench import ARM_IMAGE, AWAY, HOME, SUBNETS, OciBench, bench
from tests.providers.oci_cloud import A10, DOMAINS, GB200, GET, H100, LAUNCH, LIST, PLACES, REPORT, SHAPES, Trip, cloud, error
from tests.providers.oci_model import misfit


def answered(status: object, code: object, message: object = "so it is") -> ProviderError:
    return sort_answer("oci", status, code, message, creates=True, hidden=("hush-hush",))


@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "why"),
    [
        (500, "InternalError", "Out of host capacity.", NoCapacity, None),
        (500, "InternalServerError", "Out of capacity for shape BM.GPU.H100.8 in availability domain AD-1", NoCapacity, None),
        (400, "LimitExceeded", "service limits were exceeded", Refused, Why.QUOTA),
        (400, "QuotaExceeded", "quota", Refused, Why.QUOTA),
        (401, "NotAuthenticated", "", Refused, Why.CREDENTIALS),
        (401, None, "", Refused, Why.CREDENTIALS),
        (403, "NotAuthorized", "", Refused, Why.CREDENTIALS),
        (403, "NotAllowed", "", Refused, Why.CREDENTIALS),
        (404, "NotAuthorizedOrNotFound", "", Refused, Why.CREDENTIALS),
        (400, "RelatedResourceNotAuthorizedOrNotFound", "", Refused, Why.CREDENTIALS),
        (403, "SignUpRequired", "", Refused, Why.FUNDS),
        (400, "InvalidParameter", "shape", Refused, Why.REQUEST),
        (422, "OfTomorrow", "", Refused, Why.REQUEST),
        (429, "TooManyRequests", "", Throttled, None),
        (429, None, "", Throttled, None),
        (409, "Conflict", "", Unclear, None),
        (500, "InternalError", "something", Unclear, None),
        (503, "ServiceUnavailable", "", Unclear, None),
        (408, "RequestTimeout", "", Unclear, None),
        (403, None, "<html>a proxy's page</html>", Unclear, None),
        (400, {"code": 1}, ["x"], Unclear, None),
        (None, None, None, Unclear, None),
    ],
)
def test_every_code_has_its_meaning(
    status: object, code: object, message: object, kind: type[ProviderError], why: Why | None
) -> None:
    told = answered(status, code, message)
    assert isinstance(told, kind) and getattr(told, "why", None) is why
    assert not isinstance(told, Unclear) or told.maybe_created


def test_an_error_shows_no_secret_and_one_line() -> None:
    text = str(answered(401, "NotAuthenticated", "key hush-hush\n\x1b[31m is " + "long " * 200))
    assert "hush-hush" not in text and "\n" not in text and "\x1b" not in text and len(text) <= 300


async def test_codes_on_the_wire() -> None:
    """Through the SDK's own reading of errors, on create."""
    async with bench() as stood_up:
        provider = stood_up.oci()
        for status, body, kind in (
            (400, error("QuotaExceeded"), Refused),
            (404, error("NotAuthorizedOrNotFound"), Refused),
            (500, error("InternalError", "Out of host capacity."), NoCapacity),
            (502, b"<html>bad gateway</html>", Unclear),
            (200, b"[]", Unclear),
            (200, b'{"id": 7, "lifecycleState": "RUNNING"}', Unclear),
        ):
            stood_up.trip(LAUNCH, status, body, times=3 if kind is NoCapacity else 1)
            with pytest.raises(kind) as told:
                await provider.create(stood_up.order())
            assert not isinstance(told.value, Unclear) or told.value.maybe_created
        stood_up.away.trips.append(Trip(LAUNCH, 429, error("TooManyRequests"), headers={"Retry-After": "41"}))
        with pytest.raises(Throttled) as throttled:
            await provider.create(stood_up.order())
        assert throttled.value.wait == timedelta(seconds=41)
        before = len(stood_up.away.calls)
        with pytest.raises(Throttled):  # the account keeps still without another call
            await provider.create(stood_up.order())
        assert not any(call.operation == LAUNCH for call in stood_up.away.calls[before:])


async def test_a_wrong_key_is_told() -> None:
    """The fake proves the signature of every request."""
    async with bench(fingerprint=":".join(["aa"] * 16)) as stood_up:
        with pytest.raises(Refused) as refused:
            await stood_up.oci().owned("nobody")
        assert refused.value.why is Why.CREDENTIALS
        health = await stood_up.oci().check()
        assert not health.ok and "NotAuthenticated" in health.summary


def test_a_key_that_is_none_is_named_and_not_shown() -> None:
    with pytest.raises(ValueError, match="private_key cannot be used") as told:
        OciProvider("oci", OciBench(cloud(), private_key=Secret("-----BEGIN hush-hush")).settings)
    assert "hush-hush" not in str(told.value) and told.value.__suppress_context__


async def test_nobody_there_is_unclear_and_nothing_was_sent() -> None:
    stood_up = OciBench(cloud())
    provider = OciProvider(
        "oci", stood_up.settings, clock=stood_up.clock, endpoints=dict.fromkeys(SUBNETS, "http://127.0.0.1:9")
    )
    with pytest.raises(Unclear, match="cannot connect") as unclear:
        await provider.create(stood_up.order())
    assert not unclear.value.maybe_created
    await provider.aclose()


async def test_one_failed_region_makes_the_list_unclear() -> None:
    async with bench() as stood_up:
        provider = stood_up.oci()
        await provider.create(stood_up.another(HOME))
        stood_up.trip(LIST, 500, error("InternalServerError"), times=3)
        with pytest.raises(Unclear, match=AWAY):
            await provider.owned(stood_up.order.owner)


@pytest.mark.parametrize("following", ["same", "always another"])
async def test_pages_without_end_are_unclear(following: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci_api, "MOST_PAGES", 12)
    async with bench() as stood_up:
        for number in range(13):
            page = {"opc-next-page": "x" if following == "same" else str(number)}
            stood_up.away.trips.append(Trip(LIST, 200, b"[]", headers=page))
        with pytest.raises(Unclear, match="do not end"):
            await stood_up.oci().owned(stood_up.order.owner)


@pytest.mark.parametrize(
    "body", [b"{}", b"null", b'[{"lifecycleState": "RUNNING", "freeformTags": 7}, 7]', b'["x"]', b"nonsense", b"[{}]", b""]
)
async def test_a_list_of_no_shape_is_unclear(body: bytes) -> None:
    async with bench() as stood_up:
        stood_up.trip(LIST, 200, body, times=3)
        with pytest.raises(Unclear):
            await stood_up.oci().owned(stood_up.order.owner)


async def test_a_foreign_id_is_never_sent() -> None:
    async with bench() as stood_up:
        provider = stood_up.oci()
        for stranger in (
            "ocid1.instance.oc1.phx.anzwsljr0123456789",
            f"{AWAY}/ocid1.bootvolume.oc1.phx.anzwsljr0123456789",
            f"{AWAY}/ocid1.instance.oc1.phx.anzwsljr/../../x",
            f"{AWAY}/ocid1.instance.oc1.phx.anzwsljr0123456789?x=y",
        ):
            assert await provider.get(stranger) is None
            await provider.destroy(stranger)
        assert not stood_up.away.calls
        with pytest.raises(Unclear, match="not in the settings"):  # its machine may well live: that proves nothing
            await provider.get("me-dubai-1/ocid1.instance.oc1.me-dubai-1.anzwsljr0123456789")


async def test_an_id_that_oracle_does_not_take_is_looked_for_in_the_list() -> None:
    async with bench() as stood_up:
        provider = stood_up.oci()
        made = await provider.create(stood_up.order())
        stood_up.trip(GET, 400, error("InvalidParameter", "Invalid instanceId"), times=2)
        there = await provider.get(made.id)
        assert there is not None and there.id == made.id
        assert await provider.get(made.id[:-1] + "-") is None, "not even asked"
        assert await provider.get(made.id[:-1] + ("0" if made.id[-1] != "0" else "1")) is None
        stood_up.trip(GET, 401, error("NotAuthenticated"))
        with pytest.raises(Refused):
            await provider.get(made.id)


async def test_an_answer_about_another_machine_proves_nothing() -> None:
    async with bench() as stood_up:
        provider = stood_up.oci()
        other = b'{"id": "ocid1.instance.oc1.phx.anzwsljr0123456789", "lifecycleState": "TERMINATED", "freeformTags": {}}'
        stood_up.trip(GET, 200, other)
        with pytest.raises(Unclear, match="another instance"):
            await provider.get(f"{AWAY}/ocid1.instance.oc1.phx.anzwsljr9876543210")
        stood_up.trip(LAUNCH, 200, other)
        with pytest.raises(Unclear, match="another machine") as unclear:
            await provider.create(stood_up.order())
        assert unclear.value.maybe_created


async def test_an_order_that_does_not_fit_is_refused_before_the_call() -> None:
    async with bench(images={}) as stood_up:
        provider = stood_up.oci()
        for order, word in (
            (stood_up.order(), "no image"),
            (stood_up.another(image="ubuntu:24.04"), "no machine image"),
            (stood_up.another("me-dubai-1"), "no offer of this provider"),
        ):
            with pytest.raises(Refused, match=word):
                await provider.create(order)
        assert not any(call.operation == LAUNCH for call in stood_up.away.calls)


def by_id(offers: Sequence[Offer]) -> dict[str, Offer]:
    return {offer.id: offer for offer in offers}


async def test_offers_say_what_the_machine_is_and_whether_it_is_had() -> None:
    async with bench() as stood_up:
        stood_up.away.short = {(H100, domain) for domain in DOMAINS[AWAY]} | {(A10, DOMAINS[AWAY][0])}
        stood_up.cloud.regions[HOME].left = {H100: 2, A10: 17}
        offers = by_id(await stood_up.oci().offers(Need()))
        assert set(offers) == {
            f"{HOME}/{H100}",
            f"{HOME}/{A10}",
            f"{HOME}/{A10}/preemptible",
            f"{AWAY}/{H100}",
            f"{AWAY}/{A10}",
            f"{AWAY}/{A10}/preemptible",
            f"{AWAY}/{GB200}",
        }, "no preemptible bare metal, no flexible shape, none without a price"
        h100, gb200 = offers[f"{HOME}/{H100}"], offers[f"{AWAY}/{GB200}"]
        assert (h100.gpu, h100.gpus, h100.gpu_memory_gib, h100.architecture, h100.country) == ("H100", 8, 80, "amd64", "SG")
        assert (h100.memory_gib, h100.disk_gib, h100.price_per_hour, h100.type) == (2048, 200, Decimal(80), H100)
        assert (gb200.gpu, gb200.gpus, gb200.architecture) == ("GB200", 4, "arm64"), "a Grace host is no amd64"
        assert offers[f"{AWAY}/{A10}/preemptible"].price_per_hour == Decimal(1) and offers[f"{AWAY}/{A10}/preemptible"].spot
        told = {name: offer.availability for name, offer in offers.items()}
        assert told[f"{HOME}/{H100}"] is Availability.SCARCE and told[f"{HOME}/{A10}"] is Availability.AVAILABLE
        assert told[f"{AWAY}/{H100}"] is Availability.NONE, "no domain has one"
        assert told[f"{AWAY}/{A10}"] is Availability.AVAILABLE, "another domain has one"
        only = await stood_up.oci().offers(Need(regions=frozenset({HOME})))
        assert {offer.region for offer in only} == {HOME}


async def test_a_shape_of_tomorrow_is_offered_by_its_own_name() -> None:
    rubin = "BM.GPU.VR200.4"
    async with bench(prices={rubin: Decimal(99)}, gpu_memory_gib={rubin: 288}) as stood_up:
        order = stood_up.another(kind=rubin)
        made = await stood_up.oci().create(replace(order, offer=replace(order.offer, architecture="arm64")))
        launch = next(call for call in stood_up.away.calls if call.operation == LAUNCH)
        assert made.tag and launch.content["sourceDetails"]["imageId"] == ARM_IMAGE[f"{AWAY}/arm64"]
        offers = await stood_up.oci().offers(Need())
        assert {(offer.gpu, offer.gpu_memory_gib, offer.architecture) for offer in offers} == {(rubin, 288, "arm64")}
        assert {offer.region for offer in offers} == {AWAY}, "the other region has no image for Arm"


async def test_prices_of_a_region_and_of_preemptible_go_first() -> None:
    prices = {A10: Decimal(2), f"{AWAY}/{A10}": Decimal(3), f"{HOME}/{A10}/preemptible": Decimal("0.5")}
    async with bench(prices=prices, currency="SGD") as stood_up:
        offers = by_id(await stood_up.oci().offers(Need()))
        assert {name: offer.price_per_hour for name, offer in offers.items()} == {
            f"{HOME}/{A10}": 2,
            f"{HOME}/{A10}/preemptible": Decimal("0.5"),
            f"{AWAY}/{A10}": 3,
            f"{AWAY}/{A10}/preemptible": Decimal("1.5"),
        }
        assert {offer.currency for offer in offers.values()} == {"SGD"}


@pytest.mark.parametrize("body", [error("NotAuthorizedOrNotFound"), b'{"shapeAvailabilities": 7}', b"{}"])
async def test_capacity_that_is_not_told_is_unknown(body: bytes) -> None:
    async with bench() as stood_up:
        stood_up.trip(REPORT, 404 if b"NotAuthorized" in body else 200, body, times=30)
        provider = stood_up.oci()
        offers = await provider.offers(Need(regions=frozenset({AWAY})))
        assert offers and {offer.availability for offer in offers} == {Availability.UNKNOWN}
        health = await provider.check()
        assert health.ok and f"{AWAY} capacity" in health.facts and "BM.GPU.VR200.4" in health.facts["unpriced"]


async def test_shapes_are_remembered_and_capacity_is_not() -> None:
    async with bench() as stood_up:
        provider = stood_up.oci()
        await provider.offers(Need())
        before = [call.operation for call in stood_up.away.calls]
        await provider.offers(Need())
        assert [call.operation for call in stood_up.away.calls][len(before) :] == [REPORT] * 3
        assert before.count(SHAPES) == 3 and before.count(PLACES) == 1


async def test_a_region_that_is_away_costs_its_own_offers_only() -> None:
    async with bench() as stood_up:
        provider = stood_up.oci()
        stood_up.trip(SHAPES, 500, error("InternalServerError"), times=3)
        assert {offer.region for offer in await provider.offers(Need())} == {HOME}
        stood_up.trip(SHAPES, 401, error("NotAuthenticated"))
        with pytest.raises(Refused):
            await provider.offers(Need())


def test_what_is_billed_at_least_is_an_hour_with_bare_metal() -> None:
    """Oracle: bare metal is billed for an hour at least, and a provider has one minimum."""
    for shapes, minimum in (
        (("VM.GPU*",), timedelta(minutes=1)),
        (("VM.GPU*", "BM.GPU.H100.8"), timedelta(hours=1)),
        (("*",), timedelta(hours=1)),
    ):
        provider = OciProvider("oci", OciBench(cloud(), shapes=shapes).settings)
        assert provider.traits.billing_minimum == minimum


def test_the_judge_of_the_fake_finds_what_is_wrong() -> None:
    """The SDK's models are read rightly: names, types, what is required, which words are allowed."""
    good = {"availabilityDomain": "a", "compartmentId": "c", "shape": "s"}
    assert misfit("LaunchInstanceDetails", good) == ""
    for changed, word in (
        ({"colour": "red"}, "does not know"),
        ({"compartmentId": None}, "lacks compartmentId"),
        ({"shape": 7}, "is no str"),
        ({"sourceDetails": {"sourceType": "image", "imageId": 7}}, "is no str"),
        ({"createVnicDetails": {"nsgIds": "x"}}, "is no list"),
        ({"metadata": {"user_data": 7}}, "is no str"),
    ):
        assert word in misfit("LaunchInstanceDetails", good | changed)
    report = {"availabilityStatus": "PERHAPS"}
    assert "none of its words" in misfit("CapacityReportShapeAvailability", report)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"tenancy": "acme"}, "tenancy is an OCID"),
        ({"user": "me"}, "user is an OCID"),
        ({"compartment": "ci"}, "compartment is an OCID"),
        ({"fingerprint": "aa:bb"}, "fingerprint"),
        ({"subnets": {}}, "at least one region"),
        ({"subnets": {HOME: "subnet-1"}}, "subnets"),
        ({"security_groups": {"me-dubai-1": ("x",)}}, "security_groups"),
        ({"images": {HOME: "ubuntu"}}, "images"),
        ({"shapes": ()}, "shapes"),
        ({"shapes": ("p5",)}, "shapes"),
        ({"on_demand": False, "preemptible": False}, "nothing is offered"),
        ({"disk_gib": 10}, "disk_gib"),
        ({"kms_key": "alias/x"}, "kms_key"),
        ({"gpu_memory_gib": {H100: 0}}, "gpu_memory_gib"),
        ({"prices": {"H100": Decimal(1)}}, "prices"),
        ({"prices": {f"me-dubai-1/{H100}": Decimal(1)}}, "prices"),
        ({"prices": {H100: Decimal(-1)}}, "prices"),
    ],
)
def test_settings_that_contradict_themselves(settings: Mapping[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        OciBench(cloud(), **settings)
