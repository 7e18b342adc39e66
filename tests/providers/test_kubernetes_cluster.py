"""The way to a cluster and what it offers: logins, TLS, pages, nodes and their capacity; and the settings of `kubernetes`."""

import re
import tomllib
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from providers import kubernetes, kubernetes_wire, registry
from providers.contract import Availability, Need, NoCapacity, Offer, Phase, Refused, Secret, Unclear, Why
from providers.kubernetes import KubernetesProvider
from providers.kubernetes_offers import Node, quantity
from providers.kubernetes_settings import KubernetesSettings, Shape
from tests.node.certificates import server_side
from tests.providers import kubernetes_bench
from tests.providers.kubernetes_bench import KubernetesBench, kubeconfig, served
from tests.providers.kubernetes_cluster import TOKEN, FakeCluster, node, status
from tests.providers.kubernetes_models import problems

PAGE = Path(__file__).parents[2] / "docs/how-to/providers/kubernetes.md"
PRICED: dict[str, Any] = {"h200": {"price_per_hour": 1}}
GONE = status(410, "Expired", "The provided continue parameter is too old", kind="pods")


@pytest.fixture
async def bench() -> AsyncIterator[KubernetesBench]:
    async with kubernetes_bench.bench() as made:
        yield made


# The way there


async def test_a_kubeconfig_leads_there_and_a_new_token_in_it_is_found(bench: KubernetesBench, tmp_path: Path) -> None:
    path, server = kubeconfig(tmp_path, bench.settings.server), bench.settings.server
    provider = bench.kubernetes(server="", token=None, kubeconfig=path, context="main")
    await provider.create(bench.order())
    bench.cluster.token = "another-token-161803"
    written = kubeconfig(tmp_path, server, "another-token-161803").read_text()
    await provider.create(bench.order())
    assert len(bench.cluster.pods) == 2
    bench.cluster.token = "a-third-token-141421"
    with pytest.raises(Refused) as caught:
        await provider.create(bench.order())
    assert caught.value.why is Why.CREDENTIALS and "token-1" not in str(caught.value)
    assert path.read_text() == written, "nobody else wrote into it"


@pytest.mark.parametrize(
    "changes", [{"context": "elsewhere"}, {"kubeconfig": Path("/nowhere/kubeconfig")}, {"kubeconfig": None}]
)
async def test_a_login_that_is_not_there_is_told(bench: KubernetesBench, tmp_path: Path, changes: dict[str, Any]) -> None:
    given = {"server": "", "token": None, "kubeconfig": kubeconfig(tmp_path, bench.settings.server), **changes}
    with pytest.raises(Refused, match="cannot be used: ") as caught:
        await bench.kubernetes(**given).owned("anybody")
    assert caught.value.why is Why.CREDENTIALS and TOKEN not in str(caught.value)


async def test_the_cluster_s_own_authority_is_trusted_and_no_other(tmp_path: Path) -> None:
    context, ca = server_side(tmp_path)
    (tmp_path / "ca.pem").write_text(ca)
    _, stranger = server_side(tmp_path)
    (tmp_path / "stranger.pem").write_text(stranger)
    async with served(FakeCluster(), ssl_context=context) as cluster:
        bench = KubernetesBench(cluster)
        server = f"https://127.0.0.1:{cluster.port}"
        await bench.kubernetes(server=server, ca=tmp_path / "ca.pem").create(bench.order())
        for authority in (tmp_path / "stranger.pem", None):
            with pytest.raises(Unclear, match="cannot connect") as caught:
                await bench.kubernetes(server=server, ca=authority).create(bench.order())
            assert not caught.value.maybe_created
        assert len(cluster.pods) == 1
        await bench.aclose()


async def test_proxies_of_the_environment_are_not_asked(bench: KubernetesBench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await bench.kubernetes().owned("anybody") == []


async def test_a_cluster_that_is_away_made_nothing(bench: KubernetesBench) -> None:
    provider = bench.kubernetes(server="http://127.0.0.1:1")
    with pytest.raises(Unclear, match="cannot connect") as caught:
        await provider.create(bench.order())
    assert not caught.value.maybe_created
    assert not (await provider.check()).ok


async def test_an_answer_that_does_not_end_is_given_up(bench: KubernetesBench, monkeypatch: pytest.MonkeyPatch) -> None:
    provider, order = bench.kubernetes(), bench.order()
    await provider.create(order)
    monkeypatch.setattr(kubernetes_wire, "CAP", 100)
    with pytest.raises(Unclear, match="larger than 100 bytes"):
        await provider.owned(order.owner)


async def test_a_404_that_is_not_about_the_pod_proves_nothing(bench: KubernetesBench) -> None:
    provider = bench.kubernetes()
    created = await provider.create(bench.order())
    other = status(404, "NotFound", "the server could not find the requested resource")
    trips: list[dict[str, Any]] = [
        {"raw": b"<html>404 page not found"},
        {"answer": other},
        {"answer": status(404, "NotFound", "x", kind="services")},
    ]
    for trip in trips:
        bench.cluster.trip("GET", "/pods/", times=2, **trip)
        with pytest.raises(Unclear):
            await provider.get(created.id)
        bench.cluster.trips.clear()
    assert await provider.get(created.id) is not None


@pytest.mark.parametrize(
    "body",
    [b"[]", b'{"items": {}}', b'{"items": [7], "metadata": {}}', b'{"metadata": {}}', b'{"items": [{}], "metadata": {}}'],
)
async def test_nonsense_is_unclear(bench: KubernetesBench, body: bytes) -> None:
    bench.cluster.trip("GET", "/pods?", raw=body, times=2)
    with pytest.raises(Unclear):
        await bench.kubernetes().owned("anybody")


# Pages


async def test_a_list_whose_token_ran_out_begins_again(bench: KubernetesBench) -> None:
    provider, orders = bench.kubernetes(), [bench.order() for _ in range(5)]
    for order in orders:
        await provider.create(order)
    bench.cluster.trip("GET", "continue=4", GONE)
    assert len(await provider.owned(orders[0].owner)) == 5
    bench.cluster.trip("GET", "continue=2", GONE, times=2)
    with pytest.raises(Unclear, match="changed faster than it could be read"):
        await provider.owned(orders[0].owner)


async def test_a_list_without_end_is_unclear(bench: KubernetesBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "PAGES", 2)
    provider = bench.kubernetes()
    for _ in range(5):
        await provider.create(bench.order())
    with pytest.raises(Unclear, match="more than 2 pages"):
        await provider.owned(bench.order().owner)


async def test_a_cluster_may_give_smaller_pages_than_were_asked_for(bench: KubernetesBench) -> None:
    provider, orders = bench.kubernetes(page_size=500), [bench.order() for _ in range(3)]
    for order in orders:
        await provider.create(order)
    bench.cluster.most = 1
    assert len(await provider.owned(orders[0].owner)) == 3


# Offers


async def offered(bench: KubernetesBench, **changes: Any) -> dict[str, Offer]:
    return {offer.id: offer for offer in await bench.kubernetes(**changes).offers(Need())}


async def test_offers_of_the_settings_are_filled_in_by_the_nodes(bench: KubernetesBench) -> None:
    (offer,) = (
        await offered(bench, offers={"big": {"gpus": 4, "price_per_hour": "9.20", "spot": True}}, country="MY")
    ).values()
    assert (offer.gpu, offer.gpus, offer.gpu_memory_gib, offer.availability) == ("NVIDIA-H200", 4, 140, Availability.AVAILABLE)
    assert (offer.price_per_hour, offer.currency, offer.country, offer.region) == (Decimal("9.20"), "USD", "MY", "cluster")
    assert offer.spot and not offer.own and offer.seen_at == bench.clock.now()


@pytest.mark.parametrize("listable", [True, False])
async def test_without_a_look_at_nodes_offers_are_what_the_settings_say(bench: KubernetesBench, listable: bool) -> None:
    bench.cluster.may_list_nodes = False
    provider = bench.kubernetes(list_nodes=listable)
    (offer,) = await provider.offers(Need())
    assert (offer.availability, offer.gpu, offer.memory_gib) == (Availability.UNKNOWN, "NVIDIA-H200", 64)
    assert (await provider.check()).facts["nodes"] == "not to be seen with this key"
    await provider.create(bench.order())


async def test_nodes_make_offers_for_the_gpus_that_have_a_price(bench: KubernetesBench) -> None:
    bench.cluster.nodes += [
        node(
            "arm", gpus=4, product="NVIDIA-GB300", **{"kubernetes.io/arch": "arm64", "topology.kubernetes.io/region": "jakarta"}
        ),
        node("cpu", gpus=0),
        node("old", product="Tesla-T4"),
    ]
    prices = {"NVIDIA-H200": Decimal("2.50"), "NVIDIA-GB300": Decimal(6)}
    given: dict[str, Any] = {"offers": {}, "prices": prices, "sizes": (1, 8), "own": True}
    offers = await offered(bench, **given)
    assert offers.keys() == {"NVIDIA-H200/x1/amd64/kulai", "NVIDIA-H200/x8/amd64/kulai", "NVIDIA-GB300/x1/arm64/jakarta"}
    whole, arm = offers["NVIDIA-H200/x8/amd64/kulai"], offers["NVIDIA-GB300/x1/arm64/jakarta"]
    assert (whole.price_per_hour, whole.memory_gib, whole.disk_gib, whole.own) == (Decimal("20.00"), 1813, 2514, True)
    assert (arm.architecture, arm.region, arm.gpu, arm.gpus) == ("arm64", "jakarta", "NVIDIA-GB300", 1)
    assert (await bench.kubernetes(**given).check()).facts["without a price"] == "Tesla-T4"
    await bench.kubernetes(**given).create(replace(bench.order(), offer=whole))  # by a provider that has not listed anything
    (pod,) = bench.cluster.pods.values()
    region, product = "topology.kubernetes.io/region", "nvidia.com/gpu.product"
    assert pod["spec"]["nodeSelector"] == {"kubernetes.io/arch": "amd64", product: "NVIDIA-H200", region: "kulai"}
    limits = {"nvidia.com/gpu": "8", "cpu": "32", "memory": "1813Gi", "ephemeral-storage": "2514Gi"}
    assert pod["spec"]["containers"][0]["resources"]["limits"] == limits
    for strange in ("NVIDIA-B200/x1/amd64/kulai", "NVIDIA-H200", "h200"):
        with pytest.raises(NoCapacity, match="is not offered any more"):
            await bench.kubernetes(**given).create(replace(bench.order(), offer=replace(whole, id=strange)))


async def test_nodes_that_cannot_take_a_pod_do_not_count(bench: KubernetesBench) -> None:
    first, second = bench.cluster.nodes
    first["spec"]["unschedulable"] = True
    second["spec"]["taints"] = [{"key": "team", "value": "research", "effect": "NoSchedule"}]
    table = {**bench.settings.offers["h200"]}
    assert (await offered(bench))["h200"].availability is Availability.NONE
    assert (await offered(bench, autoscaled=True))["h200"].availability is Availability.UNKNOWN
    for tolerations, seen in (
        (("team=ci:NoSchedule",), Availability.NONE),
        (("team:NoExecute",), Availability.NONE),
        (("team=research:NoSchedule",), Availability.AVAILABLE),
        (("team",), Availability.AVAILABLE),
    ):
        assert (await offered(bench, offers={"h200": {**table, "tolerations": tolerations}}))["h200"].availability is seen
    second["spec"]["taints"] = [{"key": "soft", "effect": "PreferNoSchedule"}]
    second["status"]["conditions"][0]["status"] = "False"
    assert (await offered(bench))["h200"].availability is Availability.NONE


async def test_our_own_pods_take_room_and_ended_ones_do_not(bench: KubernetesBench) -> None:
    bench.cluster.nodes = [node("a", gpus=1)]
    provider, order = bench.kubernetes(), bench.order()
    created = await provider.create(order)
    running = await provider.get(created.id)
    assert running is not None and running.phase is Phase.RUNNING
    assert (await offered(bench))["h200"].availability is Availability.NONE
    await bench.put(created.id, "Succeeded")
    assert (await offered(bench))["h200"].availability is Availability.AVAILABLE


def test_quantities() -> None:
    given = {
        "8": 8,
        "191500m": Decimal("191.5"),
        "64Gi": 64 * 1024**3,
        "3k": 3000,
        "2113405812Ki": 2113405812 * 1024,
        "1.5G": 15 * 10**8,
    }
    assert {text: quantity(text) for text in given} == given


def test_a_node_without_words_carries_nothing_with_gpus() -> None:
    bare = Node(labels={}, taints=(), allocatable={}, ready=True, used={})
    assert bare.carries(Shape("cpu")) and not bare.carries(Shape("gpu", gpus=1))


def test_the_models_catch_what_an_api_server_would_refuse() -> None:
    assert problems("V1Pod", {"metadata": {"name": 7}, "spec": {"containers": [{"image": "x", "pull": 1}]}}, "pod") != []
    assert problems("V1Pod", {"spec": {}}, "pod") == ["pod.spec: Invalid value for `containers`, must not be `None`"]


# Settings


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"server": "https://a", "kubeconfig": Path("k"), "token": Secret("t")}, "exclude each other"),
        ({"server": "https://a"}, "server needs a token"),
        ({"token": Secret("t")}, "token is for server"),
        ({"server": "http://cluster.example", "token": Secret("t")}, "server is https"),
        ({"namespace": "Sub let"}, "namespace is a plain name"),
        ({"offers": {}}, "it needs offers or prices"),
        ({"prices": {"H200": Decimal(1)}, "list_nodes": False}, "prices needs list_nodes"),
        ({"prices": {"H200": Decimal(-1)}}, "prices are not negative"),
        ({"sizes": (0,)}, "sizes are 1 or more"),
        ({"page_size": 0}, "page_size is 1 or more"),
        ({"timeout": timedelta(0)}, "timeout is more than 0"),
        ({"billing_granularity": timedelta(0)}, "billing times are not negative"),
        ({"offers": {"a": {"price_per_hour": 1, "gpu_count": 8}}}, "offer a: unknown gpu_count; it knows architecture, "),
        ({"offers": {"a": {}}}, "offer a: it has no price_per_hour"),
        ({"offers": {"a": {"price_per_hour": "cheap"}}}, "offer a: price_per_hour is not a number"),
        ({"offers": {"a": {"price_per_hour": -1}}}, "offer a: nothing is negative"),
        ({"offers": {"A": {"price_per_hour": 1}}}, "offer A: its name is made of"),
        ({"offers": {"a": {"price_per_hour": 1, "gpus": "8"}}}, "offer a: gpus is not a int"),
        ({"offers": {"a": {"price_per_hour": 1, "gpus": True}}}, "offer a: gpus is not a int"),
        ({"offers": {"a": {"price_per_hour": 1, "resource": "no resource"}}}, "offer a: resource is a name"),
        ({"offers": {"a": {"price_per_hour": 1, "node_selector": {"a b": "c"}}}}, "offer a: node_selector holds labels"),
        ({"offers": {"a": {"price_per_hour": 1, "node_selector": "a=b"}}}, "offer a: node_selector is a table"),
        ({"offers": {"a": {"price_per_hour": 1, "tolerations": "a"}}}, "offer a: tolerations is a list"),
        ({"offers": {"a": {"price_per_hour": 1, "tolerations": ("a:Never",)}}}, "offer a: a toleration is"),
    ],
)
def test_what_makes_no_sense_is_told(given: dict[str, Any], why: str) -> None:
    sane: dict[str, Any] = {"offers": PRICED}
    with pytest.raises(ValueError, match=re.escape(why)):
        KubernetesSettings(**sane | given)


async def test_the_page_s_examples_are_built_through_the_registry() -> None:
    for block in PAGE.read_text("utf-8").split("```toml\n")[1:]:
        for table in tomllib.loads(block.split("```")[0]).get("provider", []):
            values = {key: value for key, value in table.items() if key not in ("name", "kind", "token")}
            built = registry.build(
                table["kind"], table["name"], {**values, **({"token": Secret("t")} if "token" in table else {})}
            )
            assert isinstance(built, KubernetesProvider)
            await built.aclose()


def test_the_page_names_every_setting() -> None:
    page = PAGE.read_text("utf-8")
    names = {item.name for kind in (KubernetesSettings, Shape) for item in fields(kind)} - {"name"}
    assert {name for name in names if f"`{name}`" not in page} == set()
