"""RunPod: conformance, what a create sends, what each answer means, what is left behind and swept."""

import base64
import json
import subprocess
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from providers.conformance import Check
from providers.contract import (
    Health,
    Need,
    NoCapacity,
    Phase,
    ProviderError,
    Refused,
    Secret,
    Throttled,
    Unclear,
    Why,
)
from providers.runpod import ENTRY, RunPodSettings, Start
from providers.runpod_catalogue import Place
from tests.providers import runpod_bench
from tests.providers.runpod_bench import PASSWORD, RunPodBench
from tests.providers.runpod_cloud import KEY, NONE_LEFT, SPEC_400, problem
from tests.providers.suite import suite
from tests.providers.vendor_spec import standing

H100 = "secure/AP-JP-1/1/NVIDIA H100 80GB HBM3"


@pytest.fixture
async def bench() -> AsyncGenerator[RunPodBench, None]:
    async with standing(runpod_bench.bench) as found:
        yield found


@suite(RunPodBench.faults)
async def test_conformance(check: Check, bench: RunPodBench) -> None:
    await check.run(bench)


def creates(bench: RunPodBench) -> int:
    return bench.cloud.seen.count(("POST", "/v2/pods"))


async def refusal(bench: RunPodBench, offer_id: str = H100) -> ProviderError:
    provider, order = bench.runpod(), replace(bench.order(), offer=bench.offer(offer_id))
    with pytest.raises(ProviderError) as caught:
        await provider.create(order)
    return caught.value


async def test_what_a_create_sends(bench: RunPodBench) -> None:
    order = bench.orders()
    await bench.runpod().create(order)
    (sent,) = bench.cloud.sent
    start = sent["env"].pop("SUBLET_START")
    assert base64.b64decode(start).decode() == order.user_data
    assert sent == {
        "name": order.tag,
        "image": order.image,
        "cloud": "SECURE",
        "gpu": {"id": "NVIDIA H100 80GB HBM3", "count": 1},
        "dataCenterIds": ["AP-JP-1"],
        "disk": 60,
        "ports": [],
        "args": json.dumps({"entrypoint": ["/bin/sh", "-c"], "cmd": [ENTRY]}),
        "env": {
            "SUBLET_TAG": order.tag,
            "SUBLET_OWNER": order.owner,
            "SUBLET_KEY": order.key,
            "SUBLET_ENDS_AT": "2027-03-01T13:00:00+00:00",
            "SUBLET_PLACE": "AP-JP-1",
        },
    }


async def test_settings_ride_in_the_create(bench: RunPodBench) -> None:
    settings = RunPodSettings(Secret(KEY), disk_gib=200, min_cuda="12.8", start=Start.ARGUMENTS)
    await bench.runpod(settings).create(bench.order())
    (sent,) = bench.cloud.sent
    assert sent["gpu"]["minCudaVersion"] == "12.8"
    assert sent["disk"] == 200
    assert sent["args"] == f"/bin/sh -c '{ENTRY}'"


def test_the_start_command_runs_the_script_and_hides_what_it_came_by() -> None:
    script = (
        "#!/bin/sh\nvalue='{{ a \"b\" }} é $HOME'\ncat <<'END'\n$value\nEND\n"
        'printf "%s|%s|%s" "$value" "$SUBLET_START" "$RUNPOD_API_KEY"\n'
    )
    given = {"SUBLET_START": base64.b64encode(script.encode()).decode(), "RUNPOD_API_KEY": "pods-own", "PATH": "/usr/bin:/bin"}
    said = subprocess.run(["/bin/sh", "-c", ENTRY], env=given, capture_output=True, text=True, check=True).stdout
    assert said == '$value\n{{ a "b" }} é $HOME||'


@pytest.mark.parametrize(
    "image", ["ghcr.io/example/runner:latest", "ghcr.io/example/runner@sha256:5e", "a b@sha256:" + "5e" * 32]
)
async def test_an_image_without_a_digest_is_refused_before_any_call(bench: RunPodBench, image: str) -> None:
    with pytest.raises(Refused, match="DIGEST"):
        await bench.runpod().create(replace(bench.order(), image=image))
    assert not bench.cloud.seen


@pytest.mark.parametrize(
    "offer_id", ["", "secure", "public/AP-JP-1/1/x", "secure/../1/x", "secure/AP-JP-1/0/x", "secure/AP/1e3/x"]
)
async def test_an_offer_that_is_not_ours_is_refused_before_any_call(bench: RunPodBench, offer_id: str) -> None:
    order = bench.order()
    with pytest.raises(Refused, match="no offer of RunPod"):
        await bench.runpod().create(replace(order, offer=replace(order.offer, id=offer_id)))
    assert not bench.cloud.seen


async def test_an_offer_is_enough_to_create_from_after_a_restart() -> None:
    place = Place.of("community/any/2/NVIDIA RTX PRO 6000 Blackwell / Server")
    assert (place.count, place.gpu) == (2, "NVIDIA RTX PRO 6000 Blackwell / Server")
    assert Place.of(place.id) == place


# The ambiguous 400


async def test_400_with_none_in_stock_is_no_capacity_whatever_the_words(bench: RunPodBench) -> None:
    bench.cloud.gpus[0].stock["AP-JP-1"] = "NONE"
    bench.cloud.trouble("POST", "/v2/pods", 400, SPEC_400)
    error = await refusal(bench)
    assert isinstance(error, NoCapacity)
    assert "none in stock" in str(error)


async def test_400_in_stock_and_without_the_words_is_the_request(bench: RunPodBench) -> None:
    bench.cloud.trouble("POST", "/v2/pods", 400, "gpu.minCudaVersion and gpu.allowedCudaVersions are exclusive")
    error = await refusal(bench)
    assert isinstance(error, Refused)
    assert error.why is Why.REQUEST
    assert "exclusive" in str(error)


async def test_400_in_stock_with_the_words_is_no_capacity_for_the_first(bench: RunPodBench) -> None:
    bench.cloud.trouble("POST", "/v2/pods", 400, NONE_LEFT)
    assert isinstance(await refusal(bench), NoCapacity)


async def test_400_on_every_candidate_in_stock_is_the_request(bench: RunPodBench) -> None:
    """One provider object, as the service has it: the other data centre of the type, and again, then all are tried."""
    provider = bench.runpod()
    errors: list[ProviderError] = []
    for place in ("AP-JP-1", "US-KS-2", "AP-JP-1"):
        bench.cloud.trouble("POST", "/v2/pods", 400, NONE_LEFT)
        with pytest.raises(ProviderError) as caught:
            await provider.create(replace(bench.order(), offer=bench.offer(f"secure/{place}/1/NVIDIA H100 80GB HBM3")))
        errors.append(caught.value)
    assert [type(error) for error in errors] == [NoCapacity, NoCapacity, Refused]
    assert "every candidate" in str(errors[-1])


async def test_400_on_five_different_offers_in_stock_is_the_request_and_a_success_forgets(bench: RunPodBench) -> None:
    offers = [f"secure/{place}/1/{gpu.id}" for gpu in bench.cloud.gpus for place, level in gpu.stock.items() if level != "NONE"]
    provider = bench.runpod()

    async def no(offer_id: str) -> ProviderError:
        bench.cloud.trouble("POST", "/v2/pods", 400, NONE_LEFT)
        with pytest.raises(ProviderError) as caught:
            await provider.create(replace(bench.order(), offer=bench.offer(offer_id)))
        return caught.value

    for offer_id in offers[:4]:
        assert isinstance(await no(offer_id), NoCapacity)
    await provider.create(bench.order())
    assert isinstance(await no(offers[4]), NoCapacity)
    for offer_id in offers[:3]:
        assert isinstance(await no(offer_id), NoCapacity)
    assert isinstance(await no(offers[3]), Refused)
    await bench.clock.sleep(timedelta(hours=1).total_seconds())
    assert isinstance(await no(offers[0]), NoCapacity)


@pytest.mark.parametrize(("words", "kind"), [(NONE_LEFT, NoCapacity), (SPEC_400, Refused)])
async def test_400_with_an_unreadable_catalogue_goes_by_the_words(
    bench: RunPodBench, words: str, kind: type[ProviderError]
) -> None:
    bench.cloud.trouble("POST", "/v2/pods", 400, words)
    bench.cloud.trouble("GET", "/v2/catalog", 200, b"[]")
    assert isinstance(await refusal(bench), kind)


# Other answers


@pytest.mark.parametrize(
    ("status", "kind", "why"),
    [(401, Refused, Why.CREDENTIALS), (402, Refused, Why.FUNDS), (403, Refused, Why.CREDENTIALS), (404, Refused, Why.REQUEST)],
)
async def test_a_definite_no_to_us(bench: RunPodBench, status: int, kind: type[Refused], why: Why) -> None:
    bench.cloud.trouble("POST", "/v2/pods", status, "no")
    error = await refusal(bench)
    assert isinstance(error, kind)
    assert error.why is why
    assert creates(bench) == 1


async def test_422_names_each_violation_and_never_what_was_sent(bench: RunPodBench) -> None:
    order = bench.order()
    start = base64.b64encode(order.user_data.encode()).decode()
    said = problem(422, "Request validation failed.", "$.disk: too small", f"$.env: {start * 3}", f"{PASSWORD} is no name", KEY)
    bench.cloud.trouble("POST", "/v2/pods", 422, said)
    with pytest.raises(Refused) as caught:
        await bench.runpod().create(order)
    assert "$.disk: too small" in str(caught.value)
    for secret in (PASSWORD, start, KEY):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("status", [500, 502, 408, 302])
async def test_an_unclear_answer_may_have_created_and_is_not_repeated(bench: RunPodBench, status: int) -> None:
    bench.cloud.trouble("POST", "/v2/pods", status, b"<html>" + base64.b64encode(bench.order().user_data.encode() * 9))
    error = await refusal(bench)
    assert isinstance(error, Unclear)
    assert error.maybe_created
    assert creates(bench) == 1
    assert base64.b64encode(b"sleep 600")[:8].decode() not in str(error)


async def test_429_is_kept_to_by_every_call_of_the_account(bench: RunPodBench) -> None:
    bench.cloud.trouble("POST", "/v2/pods", 429, "rate limit exceeded", headers={"Retry-After": "90"})
    error = await refusal(bench)
    assert isinstance(error, Throttled)
    assert error.wait == timedelta(seconds=90)
    calls = len(bench.cloud.seen)
    with pytest.raises(Throttled):
        await bench.runpod().owned("x")
    assert len(bench.cloud.seen) == calls


async def test_a_used_up_window_is_waited_for_before_the_vendor_says_429(bench: RunPodBench) -> None:
    provider = bench.runpod()
    bench.cloud.headers = {"RateLimit": '"minute";r=0;t=42, "hour";r=2800;t=1812'}
    await provider.owned("x")
    with pytest.raises(Throttled) as caught:
        await provider.owned("x")
    assert caught.value.wait == timedelta(seconds=42)
    await bench.clock.sleep(43)
    await provider.owned("x")


async def test_a_pool_that_is_forbidden_is_left_out_of_the_offers_for_an_hour(bench: RunPodBench) -> None:
    provider = bench.runpod()
    bench.cloud.trouble("POST", "/v2/pods", 403, "access denied")
    with pytest.raises(Refused):
        await provider.create(bench.order())
    assert not [offer for offer in await provider.offers(Need(gpus=1)) if offer.gpu == "NVIDIA H100 80GB HBM3"]
    assert (await provider.check()).facts["not for this account"] == "NVIDIA H100 80GB HBM3"
    await bench.clock.sleep(3601)
    assert [offer for offer in await provider.offers(Need(gpus=1)) if offer.gpu == "NVIDIA H100 80GB HBM3"]


async def test_a_pod_that_is_placed_elsewhere_is_deleted_again(bench: RunPodBench) -> None:
    bench.cloud.places_elsewhere = "US-KS-2"
    error = await refusal(bench)
    assert isinstance(error, NoCapacity)
    assert "US-KS-2" in str(error)
    assert not bench.cloud.pods


async def test_a_pod_that_turns_out_to_be_elsewhere_is_of_no_use(bench: RunPodBench) -> None:
    """RunPod may name the place only once its scheduler has chosen."""
    provider = bench.runpod()
    instance = await provider.create(bench.order())
    bench.cloud.pods[instance.id]["dataCenterId"] = None
    found = await provider.get(instance.id)
    assert found is not None
    assert (found.phase, found.region) == (Phase.STARTING, "")
    bench.cloud.pods[instance.id]["dataCenterId"] = "US-KS-2"
    found = await provider.get(instance.id)
    assert found is not None
    assert (found.phase, found.region) == (Phase.FAILED, "US-KS-2")
    assert "not in AP-JP-1" in found.detail


async def test_a_pod_elsewhere_that_cannot_be_deleted_stays_listed(bench: RunPodBench) -> None:
    bench.cloud.places_elsewhere = "US-KS-2"
    for _ in range(3):
        bench.cloud.trouble("DELETE", "/v2/pods", 500, "no")
    error = await refusal(bench)
    assert isinstance(error, Unclear)
    assert error.maybe_created
    (left,) = await bench.runpod().owned(bench.order().owner)
    assert left.region == "US-KS-2"


@pytest.mark.parametrize("answer", [b"[]", b"{}", b'{"id": "../../x", "name": "y", "status": "RUNNING"}', b"\xff\xfe"])
async def test_an_answer_that_is_no_pod_of_ours_is_unclear(bench: RunPodBench, answer: bytes) -> None:
    bench.cloud.trouble("POST", "/v2/pods", 201, answer, reaches=True)
    error = await refusal(bench)
    assert isinstance(error, Unclear)
    assert error.maybe_created


# Looking and ending


async def test_a_404_counts_only_where_the_listing_agrees(bench: RunPodBench) -> None:
    """The vendor's 404 is "not found or is not accessible to the caller"."""
    provider = bench.runpod()
    instance = await provider.create(bench.order())
    bench.cloud.trouble("GET", f"/v2/pods/{instance.id}", 404, "resource not found")
    found = await provider.get(instance.id)
    assert found is not None
    assert found.id == instance.id
    bench.cloud.trouble("GET", f"/v2/pods/{instance.id}", 404, "resource not found")
    bench.cloud.trouble("GET", "/v2/pods", 403, "access denied")
    with pytest.raises(Refused):
        await provider.get(instance.id)


async def test_a_listing_that_has_grown_pages_is_unclear(bench: RunPodBench) -> None:
    bench.cloud.trouble("GET", "/v2/pods", 200, {"pods": [], "nextCursor": "abc"})
    with pytest.raises(Unclear, match="nextCursor"):
        await bench.runpod().owned("x")


async def test_another_attempt_under_the_tag_is_unclear_and_rents_nothing(bench: RunPodBench) -> None:
    provider, order = bench.runpod(), bench.order()
    await provider.create(order)
    with pytest.raises(Unclear, match="another attempt"):
        await provider.create(replace(order, key="another"))
    assert creates(bench) == 1


async def test_a_pod_that_is_not_ours_is_never_deleted(bench: RunPodBench) -> None:
    provider = bench.runpod()
    instance = await provider.create(bench.order())
    bench.cloud.pods[instance.id]["env"] = {"OTHER": "x"}
    with pytest.raises(Refused, match="not one of Sublet's"):
        await provider.destroy(instance.id)
    assert instance.id in bench.cloud.pods


async def test_poisoned_fields_of_a_pod_do_not_hide_the_others(bench: RunPodBench) -> None:
    provider = bench.runpod()
    instance = await provider.create(bench.order())
    rows: list[Any] = [{"id": "x", "env": None}, {"id": "y", "env": {"SUBLET_OWNER": 7}}, {"id": "z"}]
    bench.cloud.trouble("GET", "/v2/pods", 200, {"pods": [*rows, {**bench.cloud.pods[instance.id], "status": "RUNNING"}]})
    (found,) = await provider.owned(bench.order().owner)
    assert found.id == instance.id
    assert found.created_at == datetime(2027, 3, 1, 12, tzinfo=UTC)


async def test_health_tells_a_bad_key(bench: RunPodBench) -> None:
    bench.cloud.trouble("GET", "/v2/pods", 401, "missing bearer token")
    health = await bench.runpod().check()
    assert isinstance(health, Health)
    assert not health.ok
    assert "401" in health.summary
