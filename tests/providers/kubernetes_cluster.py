"""A cluster on loopback: an API server with pods, secrets and nodes, a scheduler and a kubelet, and faults on demand.

Every body that comes and every body that goes is held against the models of Kubernetes' own client.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tests.providers.kubernetes_models import pod_problems, problems

NAMESPACE, TOKEN = "sublet", "service-account-token-31415926"
GPU = "nvidia.com/gpu"
KINDS = {"pods": "Pod", "secrets": "Secret", "nodes": "Node"}
Row = dict[str, Any]


def status(code: int, reason: str, message: str, **details: object) -> tuple[int, Row]:
    body: Row = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code}
    return code, {**body, "reason": reason, "message": message, **({"details": details} if details else {})}


def node(name: str, *, gpus: int = 8, product: str = "NVIDIA-H200", **labels: str) -> Row:
    plain = {"kubernetes.io/arch": "amd64", "topology.kubernetes.io/region": "kulai", **labels}
    gpu = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": "143771"} if gpus else {}
    ready = {"type": "Ready", "status": "True"}
    room = {GPU: str(gpus), "cpu": "191500m", "memory": "2113405812Ki", "ephemeral-storage": "3000000000000"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "uid": str(uuid.uuid4()), "labels": {**plain, **gpu}},
        "spec": {},
        "status": {"allocatable": room, "capacity": room, "conditions": [ready]},
    }


@dataclass
class Trip:
    method: str
    path: str  # a part of it
    answer: tuple[int, Row] | None  # None: the connection breaks
    reaches: bool = False  # whether the request has its effect first
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict[str, str])
    raw: bytes | None = None


class FakeCluster:
    """State, and the handler of its one route."""

    def __init__(self) -> None:
        self.pods: dict[str, Row] = {}
        self.secrets: dict[str, Row] = {}
        self.nodes: list[Row] = [node("a"), node("b")]
        self.held: set[str] = set()  # pods that a test has put into a state, until somebody deletes them
        self.trips: list[Trip] = []
        self.seen: list[tuple[str, str]] = []
        self.wrong: list[str] = []
        self.restricted = True
        self.may_list_nodes = True
        self.token = TOKEN
        self.most = 1000  # rows of a page, whatever is asked
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)  # noqa: TID251  the cluster's own clock
        self.port = 0

    def trip(self, method: str, path: str, answer: tuple[int, Row] | None = None, **rest: Any) -> None:
        self.trips.append(Trip(method, path, answer, **rest))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path))
        body = json.loads(await request.text() or "null")
        for trip in self.trips:
            if trip.times > 0 and trip.method == request.method and trip.path in request.path_qs:
                trip.times -= 1
                if trip.reaches:
                    self.answer(request, body)
                if trip.raw is not None:
                    return web.Response(body=trip.raw, status=200)
                if trip.answer is None:
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response()
                return web.json_response(trip.answer[1], status=trip.answer[0], headers=trip.headers)
        code, content = self.answer(request, body)
        self.wrong += self._checked(content)
        return web.json_response(content, status=code)

    def answer(self, request: web.Request, body: Any) -> tuple[int, Row]:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return status(401, "Unauthorized", "Unauthorized")
        if request.path in ("/version", "/version/"):
            names = ("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "major", "minor", "platform")
            return 200, {**dict.fromkeys(names, "x"), "gitVersion": "v1.36.1"}
        if request.path == "/api/v1/nodes":
            if not self.may_list_nodes:
                return status(403, "Forbidden", 'nodes is forbidden: User "sublet" cannot list resource "nodes"', kind="nodes")
            return self._listed("nodes", self.nodes, request)
        start = f"/api/v1/namespaces/{NAMESPACE}/"
        if not request.path.startswith(start):
            return status(404, "NotFound", "the server could not find the requested resource")
        kind, _, name = request.path.removeprefix(start).partition("/")
        if kind == "pods":
            return self._pods(request, name, body)
        if kind == "secrets" and request.method == "POST":
            return self._secret(body)
        return status(403, "Forbidden", f'{kind} is forbidden: User "sublet" cannot {request.method}', kind=kind)

    def _pods(self, request: web.Request, name: str, body: Any) -> tuple[int, Row]:
        match request.method, name:
            case "GET", "":
                wanted = dict(part.split("=") for part in request.query.get("labelSelector", "").split(",") if part)
                for pod in list(self.pods.values()):
                    self._live(pod)
                rows = [pod for pod in self.pods.values() if wanted.items() <= pod["metadata"]["labels"].items()]
                return self._listed("pods", rows, request)
            case "POST", "":
                return self._create(body)
            case "GET", _ if name in self.pods:
                self._live(self.pods[name])
                if name in self.pods:
                    return 200, self.pods[name]
            case "DELETE", _ if name in self.pods:
                return self._delete(self.pods[name], body)
            case _:
                pass
        return status(404, "NotFound", f'pods "{name}" not found', name=name, kind="pods")

    def _create(self, pod: Row) -> tuple[int, Row]:
        name = pod.get("metadata", {}).get("name", "")
        if found := pod_problems(pod, restricted=False):
            self.wrong += found
            return status(422, "Invalid", f'Pod "{name}" is invalid: {"; ".join(found)}')
        if self.restricted and (found := pod_problems(pod, restricted=True)):
            return status(403, "Forbidden", f'pods "{name}" is forbidden: violates PodSecurity "restricted:latest": {found}')
        if name in self.pods:
            return status(409, "AlreadyExists", f'pods "{name}" already exists', name=name, kind="pods")
        made = {"uid": str(uuid.uuid4()), "creationTimestamp": self.stamp(), "resourceVersion": "1"}
        self.pods[name] = {**pod, "metadata": {**pod["metadata"], **made}, "status": {"phase": "Pending"}}
        return 201, self.pods[name]

    def _secret(self, secret: Row) -> tuple[int, Row]:
        name = secret.get("metadata", {}).get("name", "")
        found = problems("V1Secret", secret, "secret")
        for key, value in secret.get("data", {}).items():
            content = base64.b64decode(value, validate=True)
            if key == ".dockerconfigjson":
                json.loads(content)
        if (secret.get("type") == "kubernetes.io/dockerconfigjson") != (".dockerconfigjson" in secret.get("data", {})):
            found.append("a login has its type")
        if found:
            self.wrong += found
            return status(422, "Invalid", f'Secret "{name}" is invalid: {"; ".join(found)}')
        if name in self.secrets:
            return status(409, "AlreadyExists", f'secrets "{name}" already exists', name=name, kind="secrets")
        self.secrets[name] = secret
        return 201, secret

    def _delete(self, pod: Row, options: Any) -> tuple[int, Row]:
        self.wrong += problems("V1DeleteOptions", options, "options")
        uid = options.get("preconditions", {}).get("uid")
        if uid not in (None, pod["metadata"]["uid"]):
            return status(409, "Conflict", f"the UID in the precondition ({uid}) does not match", kind="pods")
        self.held.discard(pod["metadata"]["name"])
        if "deletionTimestamp" not in pod["metadata"]:
            pod["metadata"]["deletionTimestamp"] = self.stamp()
            pod["metadata"]["deletionGracePeriodSeconds"] = pod["spec"]["terminationGracePeriodSeconds"]
        return 200, pod

    def _live(self, pod: Row) -> None:
        """One step of scheduler, kubelet and garbage collector."""
        metadata, spec, told = pod["metadata"], pod["spec"], pod["status"]
        if metadata["name"] in self.held:
            return
        if "deletionTimestamp" in metadata:
            del self.pods[metadata["name"]]
            for name, secret in list(self.secrets.items()):
                if any(reference["uid"] == metadata["uid"] for reference in secret["metadata"].get("ownerReferences", [])):
                    del self.secrets[name]
            return
        if told["phase"] != "Pending":
            return
        if not spec.get("nodeName"):
            place = next((row["metadata"]["name"] for row in self.nodes if self._fits(row, spec)), None)
            scheduled: Row = {
                "type": "PodScheduled",
                "status": "True" if place else "False",
                "lastTransitionTime": self.stamp(),
            }
            if place is None:
                kept = told.get("conditions", [scheduled])[0]["lastTransitionTime"]
                words = f"0/{len(self.nodes)} nodes are available: {len(self.nodes)} Insufficient {GPU}."
                scheduled |= {"reason": "Unschedulable", "message": words, "lastTransitionTime": kept}
                told["conditions"] = [scheduled]
                return
            spec["nodeName"], told["conditions"] = place, [scheduled]
        needed = [volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume]
        if all(name in self.secrets for name in needed):
            told |= {"phase": "Running", "startTime": self.stamp()}

    def _fits(self, row: Row, spec: Row) -> bool:
        if row["spec"].get("unschedulable") or spec.get("nodeSelector", {}).items() - row["metadata"]["labels"].items():
            return False
        theirs = [pod["spec"] for pod in self.pods.values() if pod["spec"].get("nodeName") == row["metadata"]["name"]]
        used = sum(gpus(one) for one in theirs)
        return int(row["status"]["allocatable"][GPU]) - used >= gpus(spec)

    def _listed(self, kind: str, rows: list[Row], request: web.Request) -> tuple[int, Row]:
        start = int(request.query.get("continue", "0"))
        end = start + min(int(request.query.get("limit", "500")), self.most)
        metadata: Row = {"resourceVersion": "1", **({"continue": str(end)} if end < len(rows) else {})}
        return 200, {"kind": f"{KINDS[kind]}List", "apiVersion": "v1", "metadata": metadata, "items": rows[start:end]}

    def _checked(self, content: Row) -> list[str]:
        kind = content.get("kind", "VersionInfo" if "gitVersion" in content else "")
        model = kind if kind == "VersionInfo" else f"V1{kind}"
        return problems(model, content, kind)

    def stamp(self) -> str:
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")


def gpus(spec: Row) -> int:
    return sum(int(one["resources"]["limits"].get(GPU, "0")) for one in spec["containers"])
