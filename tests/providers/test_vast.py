"""Vast: conformance, what a create sends, what each answer means, contracts in errors, bids, pages, the SDK kept in check."""

import base64
import gzip
import json
import random
import subprocess
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from providers.conformance import Check
from providers.contract import ImageLogin, NoCapacity, Phase, ProviderError, Refused, Secret, Throttled, Unclear, Why
from providers.vast import ONSTART_LIMIT, Start
from tests.providers import vast_bench
from tests.providers.suite import suite
from tests.providers.vast_bench import IMAGE, PASSWORD, VastBench
from tests.providers.vast_cloud import KEY, OWN_KEY
from tests.providers.vendor_spec import standing

ASKS, LISTING = "/api/v0/asks", "/api/v1/instances"


@pytest.fixture
async def bench() -> AsyncGenerator[VastBench, None]:
    async with standing(vast_bench.bench) as found:
        yield found


@suite(VastBench.faults)
async def test_conformance(check: Check, bench: VastBench) -> None:
    await check.run(bench)


def creates(bench: VastBench) -> int:
    return sum(method == "PUT" for method, _ in bench.cloud.seen)


LISTED = {("invalid_args", 400), ("invalid_args", 403), ("insufficient_credit", 200), ("something_else", 200)}


async def refusal(bench: VastBench, offer_id: str = "7001") -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await bench.vast().create(replace(bench.order(), offer=bench.offer(offer_id)))
    return caught.value


def unpacked(command: str) -> str:
    return gzip.decompress(base64.b64decode(command.partition("$(echo ")[2].partition("|")[0])).decode()


async def test_what_a_create_sends(bench: VastBench) -> None:
    order = bench.order()
    instance = await bench.vast().create(order)
    (sent,) = bench.cloud.sent
    assert unpacked(sent.pop("onstart")) == order.user_data
    assert sent == {
        "image": IMAGE,
        "disk": 60,
        "label": f"{order.tag}/{order.owner}",
        "env": {"SUBLET_KEY": order.key, "SUBLET_ENDS_AT": "2027-03-01T13:00:00+00:00"},
        "image_login": f"-u puller -p {PASSWORD} ghcr.io",
        "runtype": "ssh_proxy",
        "target_state": "running",
        "cancel_unavail": True,
    }
    found = await bench.vast().get(instance.id)
    assert found is not None
    assert (found.region, found.key, found.created_at) == ("SG", order.key, datetime(2027, 3, 1, 12, tzinfo=UTC))


async def test_the_script_can_be_the_arguments_of_the_image(bench: VastBench) -> None:
    order = bench.order()
    await bench.vast(start=Start.ARGUMENTS).create(order)
    (sent,) = bench.cloud.sent
    assert sent["runtype"] == "args"
    assert sent["args"][:2] == ["/bin/sh", "-c"]
    assert unpacked(sent["args"][2]) == order.user_data
    assert "onstart" not in sent


def ran(command: str, env: dict[str, str]) -> str:
    return subprocess.run(["/bin/sh", "-c", command], env=env, capture_output=True, text=True, check=True).stdout


async def test_the_packed_script_runs_and_does_not_inherit_the_containers_key(bench: VastBench) -> None:
    script = "#!/bin/sh\nvalue='a \"b\" é $HOME'\ncat <<'END'\n$value\nEND\n" + 'printf "%s|%s" "$value" "$CONTAINER_API_KEY"\n'
    await bench.vast().create(replace(bench.order(), user_data=script))
    said = ran(bench.cloud.sent[0]["onstart"], {"CONTAINER_API_KEY": OWN_KEY, "PATH": "/usr/bin:/bin"})
    assert said == '$value\na "b" é $HOME|'


async def test_a_script_that_does_not_fit_when_packed_is_refused_before_any_call(bench: VastBench) -> None:
    noise = random.Random(5)
    for size, fits in ((2800, True), (3100, False)):
        order = replace(bench.order(), user_data="# " + base64.b64encode(noise.randbytes(size)).decode())
        if fits:
            await bench.vast().create(order)
            assert len(bench.cloud.sent[0]["onstart"]) <= ONSTART_LIMIT
            continue
        calls = len(bench.cloud.seen)
        with pytest.raises(Refused, match="4048"):
            await bench.vast().create(order)
        assert len(bench.cloud.seen) == calls


@pytest.mark.parametrize("image", ["ghcr.io/example/runner:latest", "-x@sha256:" + "5e" * 32, "a b@sha256:" + "5e" * 32])
async def test_an_image_without_a_digest_is_refused_before_any_call(bench: VastBench, image: str) -> None:
    with pytest.raises(Refused, match="DIGEST"):
        await bench.vast().create(replace(bench.order(), image=image))
    assert not bench.cloud.seen


@pytest.mark.parametrize("offer_id", ["", "0", "-1", "7001/bid/", "7001/bid/x", "../7001", "7001/", "١"])
async def test_an_offer_that_is_not_ours_is_refused_before_any_call(bench: VastBench, offer_id: str) -> None:
    order = bench.order()
    with pytest.raises(Refused, match="no offer of Vast"):
        await bench.vast().create(replace(order, offer=replace(order.offer, id=offer_id)))
    assert not bench.cloud.seen


@pytest.mark.parametrize(("username", "password"), [("", "a-token"), ("a b", "s3cret"), ("me", "pass'word"), ("me", "$(id)")])
async def test_a_login_that_cannot_be_said_is_refused_without_showing_it(
    bench: VastBench, username: str, password: str
) -> None:
    order = replace(bench.order(), login=ImageLogin("ghcr.io", Secret(password), username))
    with pytest.raises(Refused, match="log") as caught:
        await bench.vast().create(order)
    assert password not in str(caught.value)
    assert not bench.cloud.seen


# Bids


async def test_a_bid_and_the_disk_are_the_offers_price(bench: VastBench) -> None:
    order = replace(bench.order(), offer=bench.offer("7001/bid/0.0124", "1.1674"))
    instance = await bench.vast(bids=True).create(order)
    assert bench.cloud.sent[0]["price"] == 1.155
    bench.cloud.instances[int(instance.id)]["is_bid"] = False  # should the listing not tell, our own mark does
    assert not (await bench.vast().owned(order.owner))[0].preempted
    await bench.put(instance.id, "contract stopped")
    (found,) = await bench.vast().owned(order.owner)
    assert found.phase is Phase.STOPPED
    assert found.preempted


async def test_a_stopped_machine_on_demand_is_not_called_preempted(bench: VastBench) -> None:
    instance = await bench.vast().create(bench.order())
    await bench.put(instance.id, "out of credit")
    found = await bench.vast().get(instance.id)
    assert found is not None
    assert (found.phase, found.preempted) == (Phase.STOPPED, False)


@pytest.mark.parametrize("price", ["0.01", "200"])
async def test_a_price_that_is_no_bid_is_refused_before_any_call(bench: VastBench, price: str) -> None:
    with pytest.raises(Refused, match="no bid"):
        await bench.vast().create(replace(bench.order(), offer=bench.offer("7001/bid/0.0124", price)))
    assert not bench.cloud.seen


# Answers


@pytest.mark.parametrize(
    ("status", "error", "said", "why"),
    [
        (400, "invalid_args", "error 400/3467: Invalid args", Why.REQUEST),
        (400, "invalid_price", "price is too high", Why.REQUEST),
        (400, "insufficient_credit", "Your account lacks credit; see the billing page.", Why.FUNDS),
        (402, "payment", "pay first", Why.FUNDS),
        (403, "forbidden", "User is blacklisted", Why.CREDENTIALS),
        (403, "invalid_args", "error 403/3586: Offer 7001 is not your own.", Why.REQUEST),
        (404, "not_found", "no such route", Why.REQUEST),
        (200, "insufficient_credit", "Your account lacks credit; see the billing page.", Why.FUNDS),
        (200, "something_else", "no", Why.REQUEST),
    ],
)
async def test_a_definite_no_to_us(bench: VastBench, status: int, error: str, said: str, why: Why) -> None:
    spoken = {"success": False, "error": error, "msg": said}
    bench.cloud.trouble("PUT", ASKS, status, spoken if (error, status) in LISTED else _raw(spoken))
    caught = await refusal(bench)
    assert isinstance(caught, Refused), caught
    assert caught.why is why
    assert said[:20] in str(caught)
    assert creates(bench) == 1
    assert not bench.cloud.instances


def _raw(content: dict[str, Any]) -> bytes:
    """Past the description's judge, which knows fewer words than the vendor."""
    return json.dumps(content).encode()


async def test_an_ask_that_is_gone_is_no_capacity(bench: VastBench) -> None:
    assert isinstance(await refusal(bench, "999999"), NoCapacity)  # 404, as the fake and the description say it
    bench.cloud.asks[0]["rentable"] = False
    assert isinstance(await refusal(bench), NoCapacity)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"new_contract": "x"}', b"\xff", b'{"success": true}', b'{"success": true, "new_contract": true}']
)
async def test_a_200_without_a_contract_may_have_made_one(bench: VastBench, body: bytes) -> None:
    bench.cloud.trouble("PUT", ASKS, 200, body)
    error = await refusal(bench)
    assert isinstance(error, Unclear)
    assert error.maybe_created


@pytest.mark.parametrize("status", [302, 408, 500, 503])
async def test_what_is_unexpected_may_have_happened_and_is_sent_once(bench: VastBench, status: int) -> None:
    bench.cloud.trouble("PUT", ASKS, status, b"<html>oops</html>", headers={"Location": f"{bench.cloud.url}/elsewhere"})
    error = await refusal(bench)
    assert isinstance(error, Unclear)
    assert error.maybe_created
    assert creates(bench) == 1


async def test_a_broken_line_does_not_send_the_create_again(bench: VastBench) -> None:
    """aiohttp would: its PUT counts as idempotent. The line is a kept one here, as in a long-lived service."""
    provider = bench.vast()
    await provider.owned("x")
    bench.cloud.trouble("PUT", ASKS, None)
    bench.cloud.trouble("PUT", ASKS, None)
    with pytest.raises(Unclear) as caught:
        await provider.create(bench.order())
    assert caught.value.maybe_created
    assert creates(bench) == 1


async def test_nobody_there_is_no_create(bench: VastBench) -> None:
    provider = bench.vast()
    url, bench.cloud.url = bench.cloud.url, "http://127.0.0.1:1"
    gone = bench.vast()
    bench.cloud.url = url
    with pytest.raises(Unclear) as caught:
        await gone.create(bench.order())
    assert not caught.value.maybe_created
    assert not await provider.owned("x")


async def test_429_holds_its_own_endpoint(bench: VastBench) -> None:
    bench.cloud.trouble("PUT", ASKS, 429, b"API requests too frequent", headers={"Retry-After": "120"})
    error = await refusal(bench)
    assert isinstance(error, Throttled)
    assert error.wait == timedelta(seconds=120)
    again = await refusal(bench)
    assert isinstance(again, Throttled)
    assert creates(bench) == 1
    await bench.vast().owned("x")


async def test_creates_keep_the_vendors_distance(bench: VastBench) -> None:
    provider, start = bench.vast(), bench.clock.now()
    for _ in range(3):
        await provider.create(bench.order())
    assert bench.clock.now() - start >= timedelta(seconds=9)
    assert provider.traits.creates_per_minute == 13


async def test_errors_show_nothing_of_what_was_sent(bench: VastBench) -> None:
    order = replace(bench.order(), user_data="token='aVeryLongJoinTokenThatWorksOnlyOnce_0123'\n")
    said = f"{KEY} {order.user_data} -u puller -p {PASSWORD} ghcr.io {order.user_data[:40]}"
    bench.cloud.trouble("PUT", ASKS, 400, {"success": False, "error": "invalid_args", "msg": said, "ask_id": 7001})
    with pytest.raises(Refused) as caught:
        await bench.vast().create(order)
    for secret in (KEY, PASSWORD, "aVeryLongJoinToken"):
        assert secret not in str(caught.value)


# Half-created


@pytest.mark.parametrize("status", [200, 400, 410, 500])
async def test_a_contract_in_an_error_is_destroyed_and_the_next_offer_is_tried(bench: VastBench, status: int) -> None:
    bench.cloud.trouble("PUT", ASKS, status, "contract", reaches=True, state={"cur_state": "stopped"})
    error = await refusal(bench)
    assert isinstance(error, NoCapacity)
    assert "it is destroyed" in str(error)
    assert not bench.cloud.instances


async def test_a_contract_that_is_not_ours_or_not_listed_is_left_alone(bench: VastBench) -> None:
    theirs = await bench.vast().create(bench.order())
    body = {"success": False, "error": "x", "msg": "y", "new_contract": int(theirs.id)}
    bench.cloud.trouble("PUT", ASKS, 200, dict(body))
    assert isinstance(await refusal(bench), Unclear)
    bench.cloud.trouble("PUT", ASKS, 200, {**body, "new_contract": 77})
    assert isinstance(await refusal(bench), Unclear)
    assert set(bench.cloud.instances) == {int(theirs.id)}


# Looking and ending


async def test_only_what_is_needed_is_asked_of_the_listing(bench: VastBench) -> None:
    """Whole rows hold the start-up script and tokens of the instance."""
    order = bench.order()
    await bench.vast().create(order)
    rows = await bench.vast()._account.instances({})  # pyright: ignore[reportPrivateUsage]
    assert "onstart" not in rows[0]
    assert "jupyter_token" not in rows[0]


async def test_a_listing_without_an_end_is_unclear(bench: VastBench) -> None:
    for _ in range(3):
        bench.cloud.trouble("GET", LISTING, 200, {"success": True, "instances": [], "next_token": "again"})
    with pytest.raises(Unclear, match="does not end"):
        await bench.vast().owned("x")


async def test_a_second_page_that_fails_is_unclear_as_a_whole(bench: VastBench) -> None:
    provider = bench.vast()
    for _ in range(26):
        await provider.create(bench.order())
    for page in (1, 0, 0):
        bench.cloud.trouble("GET", LISTING, 500, b"", after=page)
    with pytest.raises(Unclear):
        await provider.owned(bench.order().owner)
    assert len(await provider.owned(bench.order().owner)) == 26


@pytest.mark.parametrize(
    "page", [{"success": False}, {"success": True}, {"instances": {}}, {"instances": [{"id": "x"}]}, {"instances": [7]}]
)
async def test_a_page_that_is_none_is_unclear(bench: VastBench, page: dict[str, Any]) -> None:
    bench.cloud.trouble("GET", LISTING, 200, _raw(page))
    with pytest.raises(Unclear):
        await bench.vast().owned("x")


async def test_another_attempt_under_the_tag_is_unclear_and_rents_nothing(bench: VastBench) -> None:
    provider, order = bench.vast(), bench.order()
    await provider.create(order)
    with pytest.raises(Unclear, match="another attempt"):
        await provider.create(replace(order, key="another"))
    assert creates(bench) == 1


async def test_an_instance_that_is_not_ours_is_never_destroyed(bench: VastBench) -> None:
    provider = bench.vast()
    instance = await provider.create(bench.order())
    for label in (None, "My training", "name/Not An Owner"):
        bench.cloud.instances[int(instance.id)]["label"] = label
        with pytest.raises(Refused, match="not one of Sublet's"):
            await provider.destroy(instance.id)
    assert bench.cloud.instances


async def test_a_destroy_that_says_no_is_told(bench: VastBench) -> None:
    provider = bench.vast()
    instance = await provider.create(bench.order())
    bench.cloud.trouble("DELETE", "/api/v0/instances", 200, {"success": False, "msg": "try later"})
    with pytest.raises(ProviderError, match="try later"):
        await provider.destroy(instance.id)
