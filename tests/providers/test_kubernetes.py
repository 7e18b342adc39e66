"""`kubernetes` passes every check that its bench can stand up; and the life of a Pod: what is sent, what a status means."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from providers.conformance import CHECKS, Check
from providers.contract import ImageLogin, NoCapacity, Order, Phase, Reach, Refused, Secret, Throttled, Unclear, Why
from tests.providers import kubernetes_bench
from tests.providers.kubernetes_bench import IMAGE, KubernetesBench
from tests.providers.kubernetes_cluster import Row, status


@pytest.mark.parametrize(
    "check", [check for check in CHECKS if check.applies_to(KubernetesBench.faults)], ids=lambda check: check.name
)
async def test_conformance(check: Check) -> None:
    async with kubernetes_bench.bench() as bench:
        await check.run(bench)


@pytest.fixture
async def bench() -> AsyncIterator[KubernetesBench]:
    async with kubernetes_bench.bench() as made:
        yield made


def login(order: Order, username: str = "sublet") -> Order:
    return replace(order, login=ImageLogin("registry.example", Secret("pull-token-271828"), username))


def only_pod(bench: KubernetesBench) -> Row:
    (pod,) = bench.cluster.pods.values()
    return pod


async def test_what_a_lease_is_as_a_pod(bench: KubernetesBench) -> None:
    table: dict[str, Any] = {
        "gpu": "NVIDIA-H200",
        "gpus": 2,
        "cpus": "14",
        "memory_gib": 200,
        "disk_gib": 100,
        "price_per_hour": "5",
        "architecture": "amd64",
        "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H200"},
        "tolerations": ("nvidia.com/gpu:NoSchedule", "pool=ci:NoExecute", "any"),
        "runtime_class": "nvidia",
        "priority_class": "low",
    }
    provider = bench.kubernetes(offers={"two": table}, run_as_user=1000, service_account="nobody", shm_mib=4096)
    order = bench.order()
    order = replace(order, offer=replace(order.offer, id="two"), ends_at=bench.clock.now() + timedelta(minutes=90))
    await provider.create(order)
    pod = only_pod(bench)
    assert pod["metadata"]["name"] == order.tag and pod["metadata"]["labels"]["sublet/owner"] == order.owner
    assert pod["metadata"]["annotations"]["sublet/key"] == order.key
    assert pod["metadata"]["annotations"]["sublet/ends-at"] == order.ends_at.isoformat()
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert (spec["restartPolicy"], spec["activeDeadlineSeconds"], spec["automountServiceAccountToken"]) == (
        "Never",
        5400,
        False,
    )
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "amd64", "nvidia.com/gpu.product": "NVIDIA-H200"}
    assert spec["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "pool", "operator": "Equal", "value": "ci", "effect": "NoExecute"},
        {"key": "any", "operator": "Exists"},
    ]
    assert (spec["runtimeClassName"], spec["priorityClassName"], spec["serviceAccountName"]) == ("nvidia", "low", "nobody")
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 1000
    limits = {"nvidia.com/gpu": "2", "cpu": "14", "memory": "200Gi", "ephemeral-storage": "100Gi"}
    assert container["resources"] == {"limits": limits, "requests": limits}
    assert container["image"] == IMAGE and container["env"] == []
    assert spec["volumes"][2] == {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "4096Mi"}}


async def test_a_pod_without_gpus_sees_none(bench: KubernetesBench) -> None:
    provider = bench.kubernetes(offers={"h200": {"price_per_hour": 1}})
    await provider.create(bench.order())
    (container,) = only_pod(bench)["spec"]["containers"]
    assert container["env"] == [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]
    assert container["resources"] == {"limits": {}, "requests": {}}


async def test_the_script_lies_in_a_secret_that_goes_with_the_pod(bench: KubernetesBench) -> None:
    provider, order = bench.kubernetes(), bench.order()
    created = await provider.create(order)
    (secret,) = bench.cluster.secrets.values()
    assert base64.b64decode(secret["data"]["start.sh"]).decode() == order.user_data
    assert order.user_data not in json.dumps(bench.cluster.pods)
    assert secret["metadata"]["ownerReferences"][0]["uid"] == created.id.partition(":")[2]
    assert (secret["type"], secret["immutable"]) == ("Opaque", True)
    await provider.destroy(created.id)
    assert await provider.get(created.id) is None and bench.cluster.secrets == {}


async def test_a_registry_s_login_is_in_the_same_secret(bench: KubernetesBench) -> None:
    await bench.kubernetes().create(login(bench.order()))
    (secret,) = bench.cluster.secrets.values()
    assert secret["type"] == "kubernetes.io/dockerconfigjson"
    auths = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))["auths"]
    assert base64.b64decode(auths["registry.example"]["auth"]) == b"sublet:pull-token-271828"
    assert only_pod(bench)["spec"]["imagePullSecrets"] == [{"name": secret["metadata"]["name"]}]


async def test_a_bearer_token_is_no_login_for_nodes_and_pull_secrets_are_instead(bench: KubernetesBench) -> None:
    with pytest.raises(Refused, match="say pull_secrets"):
        await bench.kubernetes().create(login(bench.order(), ""))
    assert bench.cluster.pods == {}
    await bench.kubernetes(pull_secrets=("regcred",)).create(login(bench.order(), ""))
    assert only_pod(bench)["spec"]["imagePullSecrets"] == [{"name": "regcred"}]
    assert "pull-token" not in json.dumps([bench.cluster.pods, bench.cluster.secrets])


@pytest.mark.parametrize("image", ["registry.example/ci/gpu:v3", "gpu", "a b@sha256:" + "5" * 64, "r/x@sha256:55"])
async def test_an_image_without_digest_is_refused_before_the_call(bench: KubernetesBench, image: str) -> None:
    with pytest.raises(Refused, match="named by digest"):
        await bench.kubernetes().create(replace(bench.order(), image=image))
    assert bench.cluster.seen == []


async def test_an_order_that_is_over_gets_a_second(bench: KubernetesBench) -> None:
    await bench.kubernetes().create(replace(bench.order(), ends_at=bench.clock.now() - timedelta(hours=1)))
    assert only_pod(bench)["spec"]["activeDeadlineSeconds"] == 1


async def test_a_tag_that_ends_with_a_hyphen_comes_back_exactly(bench: KubernetesBench) -> None:
    provider, order = bench.kubernetes(), replace(bench.order(), tag="sublet-odd-")
    created = await provider.create(order)
    assert created.tag == "sublet-odd-" and created.id.startswith("sublet-odd-x:")
    assert [found.tag for found in await provider.owned(order.owner)] == ["sublet-odd-"]
    with pytest.raises(Refused, match="taken by a pod that is not ours"):
        await provider.create(replace(order, tag="sublet-odd-x"))


@pytest.mark.parametrize(
    ("code", "reason", "message", "kind", "error", "why"),
    [
        (401, "Unauthorized", "Unauthorized", "", Refused, Why.CREDENTIALS),
        (403, "Forbidden", 'pods is forbidden: User "x" cannot create resource "pods"', "pods", Refused, Why.CREDENTIALS),
        (403, "Forbidden", 'pods "a" is forbidden: exceeded quota: gpus, requested: 1', "pods", Refused, Why.QUOTA),
        (403, "Forbidden", 'pods "a" is forbidden: status unknown for quota: gpus', "pods", Throttled, None),
        (403, "Forbidden", 'pods "a" is forbidden: violates PodSecurity "restricted:latest"', "pods", Refused, Why.REQUEST),
        (403, "Forbidden", 'pods "a" is forbidden: maximum memory usage per Container is 64Gi', "pods", Refused, Why.REQUEST),
        (400, "BadRequest", 'admission webhook "policy" denied the request', "", Refused, Why.REQUEST),
        (404, "NotFound", 'namespaces "sublet" not found', "namespaces", Refused, Why.REQUEST),
        (409, "Conflict", "Operation cannot be fulfilled on resourcequotas", "resourcequotas", Throttled, None),
        (422, "Invalid", 'Pod "a" is invalid', "pods", Refused, Why.REQUEST),
        (429, "TooManyRequests", "Too many requests", "", Throttled, None),
        (500, "InternalError", "failed calling webhook", "", Unclear, None),
        (503, "ServiceUnavailable", "etcd", "", Unclear, None),
        (504, "Timeout", "Timeout: request did not complete within requested timeout", "", Unclear, None),
        (307, "Moved", "elsewhere", "", Unclear, None),
    ],
)
async def test_what_a_no_to_create_means(
    bench: KubernetesBench, code: int, reason: str, message: str, kind: str, error: type[Exception], why: Why | None
) -> None:
    bench.cluster.trip("POST", "/pods", status(code, reason, message, **({"kind": kind} if kind else {})), times=2)
    with pytest.raises(error) as caught:
        await bench.kubernetes().create(bench.order())
    assert getattr(caught.value, "why", None) is why
    assert getattr(caught.value, "maybe_created", None) is (True if error is Unclear else None)
    assert bench.cluster.pods == {}


@pytest.mark.parametrize(("header", "details", "seconds"), [("9", {}, 9), ("", {"retryAfterSeconds": 4}, 4), ("soon", {}, 5)])
async def test_how_long_to_wait(bench: KubernetesBench, header: str, details: Row, seconds: int) -> None:
    headers = {"Retry-After": header} if header else {}
    bench.cluster.trip("POST", "/pods", status(429, "TooManyRequests", "wait", **details), headers=headers)
    provider = bench.kubernetes()
    with pytest.raises(Throttled) as caught:
        await provider.create(bench.order())
    assert caught.value.wait == timedelta(seconds=seconds)
    calls = len(bench.cluster.seen)
    with pytest.raises(Throttled):
        await provider.owned("anybody")
    assert len(bench.cluster.seen) == calls, "nobody asks before the wait is over"


async def test_a_script_that_is_refused_takes_the_pod_back(bench: KubernetesBench) -> None:
    provider, order = bench.kubernetes(), bench.order()
    bench.cluster.trip("POST", "/secrets", status(403, "Forbidden", "secrets is forbidden", kind="secrets"))
    with pytest.raises(Refused) as caught:
        await provider.create(order)
    assert caught.value.why is Why.CREDENTIALS
    assert all(found.phase is Phase.DESTROYING for found in await provider.owned(order.owner))


async def test_a_throttled_script_is_unclear_and_completed_later(bench: KubernetesBench) -> None:
    provider, order = bench.kubernetes(), bench.order()
    bench.cluster.trip("POST", "/secrets", status(429, "TooManyRequests", "wait", retryAfterSeconds=1))
    with pytest.raises(Unclear, match="its script may not be") as caught:
        await provider.create(order)
    assert caught.value.maybe_created
    await bench.clock.sleep(5)
    created = await provider.create(order)
    now = await provider.get(created.id)
    assert now is not None and now.phase is Phase.RUNNING


async def test_where_no_node_has_room_nothing_is_made_but_what_is_there_is_found(bench: KubernetesBench) -> None:
    bench.cluster.nodes = [bench.cluster.nodes[0]]
    provider, orders = bench.kubernetes(), [bench.order() for _ in range(9)]
    created = [await provider.create(order) for order in orders[:8]]
    assert len(await provider.owned(orders[0].owner)) == 8
    with pytest.raises(NoCapacity, match="1 of 1 nodes could carry h200, and none has room") as caught:
        await provider.create(orders[8])
    assert caught.value.reach is Reach.REGION
    assert (await provider.create(orders[3])).id == created[3].id
    with pytest.raises(Unclear, match="of another attempt"):
        await provider.create(replace(orders[3], key="another"))


async def test_where_nodes_come_when_pods_wait_a_pod_may_wait(bench: KubernetesBench) -> None:
    bench.cluster.nodes = []
    provider = bench.kubernetes(autoscaled=True)
    created = await provider.create(bench.order())
    waiting = await provider.get(created.id)
    assert waiting is not None and waiting.phase is Phase.STARTING
    assert waiting.detail == "Unschedulable: 0/0 nodes are available: 0 Insufficient nvidia.com/gpu."
    await bench.clock.sleep(299)
    waiting = await provider.get(created.id)
    assert waiting is not None and waiting.phase is Phase.STARTING
    await bench.clock.sleep(2)
    given_up = await provider.get(created.id)
    assert given_up is not None and (given_up.phase, given_up.detail) == (Phase.FAILED, waiting.detail)


async def test_an_image_that_cannot_be_pulled_is_given_up_in_time(bench: KubernetesBench) -> None:
    provider = bench.kubernetes(schedule_within=timedelta(minutes=1))
    created = await provider.create(bench.order())
    await bench.put(created.id, "ImagePullBackOff")
    first = await provider.get(created.id)
    await bench.clock.sleep(90)
    then = await provider.get(created.id)
    assert first is not None and then is not None
    assert (first.phase, then.phase, then.detail) == (Phase.STARTING, Phase.FAILED, "ImagePullBackOff")
    await bench.put(created.id, "ContainerCreating")  # a large image may take longer than any scheduler
    then = await provider.get(created.id)
    assert then is not None and then.phase is Phase.STARTING


async def test_what_took_a_pod_away_is_told(bench: KubernetesBench) -> None:
    provider = bench.kubernetes()
    created = await provider.create(bench.order())
    name = created.id.partition(":")[0]
    bench.preempt(name)
    pod = bench.cluster.pods[name]
    pod["status"]["phase"] = "Running"
    pod["metadata"]["deletionTimestamp"] = bench.cluster.stamp()
    going = await provider.get(created.id)
    assert going is not None and (going.phase, going.preempted) == (Phase.DESTROYING, True)
    assert going.detail == "PreemptionByScheduler: preempting to make room"
    del pod["metadata"]["deletionTimestamp"]
    bench.set(name, kubernetes_bench.STATUSES["Evicted"])
    gone = await provider.get(created.id)
    assert gone is not None and (gone.phase, gone.preempted) == (Phase.FAILED, True)
    bench.set(name, kubernetes_bench.STATUSES["Failed"])
    ended = await provider.get(created.id)
    assert ended is not None and (ended.preempted, ended.detail) == (False, "Failed: Error with 1")
    bench.set(name, kubernetes_bench.STATUSES["DeadlineExceeded"])
    ended = await provider.get(created.id)
    assert ended is not None and (ended.preempted, ended.phase) == (False, Phase.STOPPED)


async def test_a_later_pod_of_the_same_name_is_another_one(bench: KubernetesBench) -> None:
    provider, order = bench.kubernetes(), bench.order()
    first = await provider.create(order)
    await provider.destroy(first.id)
    assert await provider.get(first.id) is None
    second = await provider.create(replace(order, key="another-attempt"))
    assert second.id != first.id and await provider.get(first.id) is None
    await provider.destroy(first.id)
    assert await provider.get(second.id) is not None


async def test_ids_of_another_shape_are_nobodys(bench: KubernetesBench) -> None:
    provider = bench.kubernetes()
    for stranger in ("a", "a:", "a:b/c", "A:12345678", "a/b:12345678", "a:12345678:x", "a?b=c:12345678"):
        assert await provider.get(stranger) is None
        await provider.destroy(stranger)
    assert bench.cluster.seen == []
