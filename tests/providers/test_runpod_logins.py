"""Logins of image registries at RunPod: stored for one pod, deleted with it, swept when left behind, never shown."""

from collections.abc import AsyncGenerator

import pytest

from providers.contract import Refused, Unclear
from providers.runpod_logins import GRACE
from tests.providers import runpod_bench
from tests.providers.runpod_bench import PASSWORD, RunPodBench, with_login
from tests.providers.vendor_spec import standing


@pytest.fixture
async def bench() -> AsyncGenerator[RunPodBench, None]:
    async with standing(runpod_bench.bench) as found:
        yield found


async def test_a_login_is_stored_for_the_pod_and_deleted_with_it(bench: RunPodBench) -> None:
    provider, order = bench.runpod(), bench.order()
    instance = await provider.create(order)
    ((key, stored),) = bench.cloud.logins.items()
    assert stored["username"] == "puller"
    assert stored["password"] == PASSWORD
    assert stored["name"].endswith(f".{order.tag}")
    assert order.owner not in stored["name"]
    assert bench.cloud.sent[0]["registry"] == key
    await provider.destroy(instance.id)
    assert not bench.cloud.logins


async def test_a_definite_no_takes_the_login_with_it(bench: RunPodBench) -> None:
    bench.cloud.trouble("POST", "/v2/pods", 402, "insufficient balance")
    with pytest.raises(Refused):
        await bench.runpod().create(bench.order())
    assert not bench.cloud.logins


async def test_a_login_whose_create_was_lost_is_replaced_by_the_next_try_and_else_swept(bench: RunPodBench) -> None:
    order = bench.order()
    bench.cloud.trouble("POST", "/v2/pods", None)  # lost on its way there
    with pytest.raises(Unclear):
        await bench.runpod().create(order)
    (left,) = bench.cloud.logins
    bench.cloud.trouble("POST", "/v2/pods", None)
    with pytest.raises(Unclear):
        await bench.runpod().create(order)
    (again,) = bench.cloud.logins
    assert again != left
    bench.cloud.logins["theirs"] = {"name": "dockerhub-private"}
    bench.cloud.logins["other"] = {"name": "sublet-0123456789abcdef.tag"}
    provider = bench.runpod()  # after a restart
    await provider.owned(order.owner)
    assert again in bench.cloud.logins, "it may be of a create under way"
    await bench.clock.sleep(GRACE.total_seconds() + 1)
    await provider.owned(order.owner)
    assert set(bench.cloud.logins) == {"theirs", "other"}
    calls = bench.cloud.seen.count(("GET", "/v2/registries"))
    await provider.owned(order.owner)
    assert bench.cloud.seen.count(("GET", "/v2/registries")) == calls, "nothing is left to ask for"


async def test_a_login_in_use_is_left_by_the_sweep(bench: RunPodBench) -> None:
    provider, order = bench.runpod(), bench.order()
    await provider.create(order)
    for _ in range(2):
        await provider.owned(order.owner)
        await bench.clock.sleep(GRACE.total_seconds() + 1)
    assert len(bench.cloud.logins) == 1


async def test_a_sweep_that_fails_does_not_break_the_listing(bench: RunPodBench) -> None:
    provider = bench.runpod()
    instance = await provider.create(bench.order())
    for _ in range(3):
        bench.cloud.trouble("GET", "/v2/registries", 500, "no")
    assert [found.id for found in await provider.owned(bench.order().owner)] == [instance.id]


async def test_a_token_without_a_user_name_is_refused_and_nothing_is_rented(bench: RunPodBench) -> None:
    with pytest.raises(Refused, match="user name"):
        await bench.runpod().create(with_login(bench.orders(), ""))
    assert ("POST", "/v2/pods") not in bench.cloud.seen


async def test_a_refused_login_shows_no_password(bench: RunPodBench) -> None:
    bench.cloud.trouble("POST", "/v2/registries", 422, f"password {PASSWORD} of puller is too short")
    with pytest.raises(Refused) as caught:
        await bench.runpod().create(bench.order())
    assert PASSWORD not in str(caught.value)
    assert ("POST", "/v2/pods") not in bench.cloud.seen
