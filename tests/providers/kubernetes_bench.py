"""The bench of `kubernetes`: the real client, and a cluster on loopback that checks every body."""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from providers.conformance import Fault
from providers.contract import Phase, Provider, Secret
from providers.kubernetes import KubernetesProvider
from providers.kubernetes_settings import KubernetesSettings
from tests.providers.benches import ManualClock, Orders, plain_offer
from tests.providers.kubernetes_cluster import TOKEN, FakeCluster, Row, status

IMAGE = f"registry.example/ci/gpu@sha256:{'5' * 64}"
AGES = "2020-01-01T00:00:00Z"
ERROR = {"terminated": {"exitCode": 1, "reason": "Error"}}


def container(state: Row) -> Row:
    return {"name": "runner", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0, "state": state}


STATUSES: Mapping[str, Row] = {
    "Running": {"phase": "Running"},
    "Pending": {"phase": "Pending"},
    "ContainerCreating": {"phase": "Pending", "containerStatuses": [container({"waiting": {"reason": "ContainerCreating"}})]},
    "ImagePullBackOff": {"phase": "Pending", "containerStatuses": [container({"waiting": {"reason": "ImagePullBackOff"}})]},
    "InvalidImageName": {"phase": "Pending", "containerStatuses": [container({"waiting": {"reason": "InvalidImageName"}})]},
    "Unschedulable": {
        "phase": "Pending",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
                "lastTransitionTime": AGES,
            }
        ],
    },
    "Succeeded": {"phase": "Succeeded"},
    "Failed": {"phase": "Failed", "containerStatuses": [container(ERROR)]},
    "DeadlineExceeded": {"phase": "Failed", "reason": "DeadlineExceeded", "containerStatuses": [container(ERROR)]},
    "Evicted": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
    "OutOfcpu": {"phase": "Failed", "reason": "OutOfcpu", "message": "Pod was rejected: Node didn't have enough resource: cpu"},
    "Unknown": {"phase": "Unknown", "reason": "NodeStatusUnknown"},
    "Terminating": {"phase": "Running"},
}


class KubernetesBench:
    name = "kubernetes"
    faults: frozenset[Fault] = frozenset(Fault)
    states: Mapping[str, Phase] = {
        "Running": Phase.RUNNING,
        "Pending": Phase.STARTING,
        "ContainerCreating": Phase.STARTING,
        "ImagePullBackOff": Phase.STARTING,
        "InvalidImageName": Phase.FAILED,
        "Unschedulable": Phase.FAILED,
        "Succeeded": Phase.STOPPED,
        "Failed": Phase.STOPPED,
        "DeadlineExceeded": Phase.STOPPED,
        "Evicted": Phase.FAILED,
        "OutOfcpu": Phase.FAILED,
        "Unknown": Phase.UNKNOWN,
        "Terminating": Phase.DESTROYING,
    }
    secrets: Sequence[str] = (TOKEN,)
    crowd = 7

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster, self.clock = cluster, ManualClock()
        cluster.now = self.clock.now
        self.settings = KubernetesSettings(
            server=f"http://127.0.0.1:{cluster.port}",
            token=Secret(TOKEN),
            offers={"h200": {"gpu": "NVIDIA-H200", "gpus": 1, "memory_gib": 64, "price_per_hour": "2.5"}},
            page_size=2,
        )
        self.order = Orders(replace(plain_offer(self.name, self.clock.now()), id="h200"), now=self.clock.now(), image=IMAGE)
        self._providers: list[KubernetesProvider] = []

    async def provider(self) -> Provider:
        return self.kubernetes()

    def kubernetes(self, **changes: Any) -> KubernetesProvider:
        """With other settings."""
        provider = KubernetesProvider(self.name, replace(self.settings, **changes), clock=self.clock)
        self._providers.append(provider)
        return provider

    async def cause(self, fault: Fault) -> None:
        trip, quota = self.cluster.trip, "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 8, limited: 8"
        broken = status(500, "InternalError", "Internal error occurred: etcdserver: leader changed")
        match fault:
            case Fault.LOST_REPLY:
                trip("POST", "/pods", reaches=True)
            case Fault.MALFORMED:
                trip("POST", "/pods", reaches=True, raw=b'{"kind": "Pod", "metad')
            case Fault.HALF_CREATED:
                trip("POST", "/secrets", broken)
            case Fault.NO_CAPACITY:
                for row in self.cluster.nodes:
                    row["spec"]["unschedulable"] = True
            case Fault.QUOTA:
                trip("POST", "/pods", status(403, "Forbidden", f'pods "x" is forbidden: {quota}', kind="pods"))
            case Fault.CREDENTIALS:
                trip("POST", "/pods", status(401, "Unauthorized", "Unauthorized"), times=2)
            case Fault.THROTTLED:
                told = status(429, "TooManyRequests", "Too many requests, please try again later.", retryAfterSeconds=7)
                trip("POST", "/pods", told, headers={"Retry-After": "2"})
            case Fault.SERVER_ERROR:
                trip("POST", "/pods", broken)
            case Fault.BROKEN_LIST:
                trip("GET", "/pods?", broken, times=2)
            case Fault.PREEMPTED:
                for name in list(self.cluster.pods):
                    self.preempt(name)

    def preempt(self, name: str) -> None:
        """As a scheduler does that needs the room, and a kubelet that has ended the pod since."""
        why = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": "preempting to make room",
        }
        self.set(name, {"phase": "Failed", "conditions": [why], "containerStatuses": [container(ERROR)]})

    def set(self, name: str, told: Row) -> None:
        self.cluster.pods[name]["status"] = dict(told)
        self.cluster.held.add(name)

    async def put(self, instance_id: str, state: str) -> None:
        name = instance_id.partition(":")[0]
        self.set(name, STATUSES[state])
        if state == "Terminating":
            self.cluster.pods[name]["metadata"]["deletionTimestamp"] = self.cluster.stamp()

    async def pause(self) -> None:
        await self.clock.sleep(1)

    async def aclose(self) -> None:
        """Also proves that nothing was said that Kubernetes' models do not know."""
        for provider in self._providers:
            await provider.aclose()
        assert self.cluster.wrong == []


@contextlib.asynccontextmanager
async def served(cluster: FakeCluster, **tls: Any) -> AsyncGenerator[FakeCluster, None]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", cluster.handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, **tls)
    await site.start()
    cluster.port = runner.addresses[0][1]
    try:
        yield cluster
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def bench() -> AsyncGenerator[KubernetesBench, None]:
    async with served(FakeCluster()) as cluster:
        made = KubernetesBench(cluster)
        try:
            yield made
        finally:
            await made.aclose()


def kubeconfig(folder: Path, server: str, token: str = TOKEN, ca: Path | None = None) -> Path:
    """A file as kubectl reads it."""
    lines = f"""\
apiVersion: v1
kind: Config
current-context: main
clusters:
- name: there
  cluster: {{server: "{server}"{f', certificate-authority: "{ca}"' if ca else ""}}}
users:
- name: sublet
  user: {{token: "{token}"}}
contexts:
- name: main
  context: {{cluster: there, user: sublet}}
"""
    path = folder / "kubeconfig"
    path.write_text(lines)
    return path
