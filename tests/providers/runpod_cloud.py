"""A RunPod in memory, in process: pods, logins, catalogue, troubles; the vendor's description judges every exchange."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import httpx

from providers.clock import Clock
from tests.providers.vendor_spec import Spec

DESCRIPTION = "runpod/runpod-rest-v2.openapi.json"
KEY = "rpa_0123456789ABCDEFGHIJKLMNOP"
NONE_LEFT = "There are no longer any instances available with the requested specifications. Please refresh and try again."
SPEC_400 = "request could not be processed"
READY_AFTER = (timedelta(seconds=1), timedelta(seconds=2))  # STARTING, RUNNING
TITLES = {400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found"}
LEVELS = ("NONE", "LOW", "MEDIUM", "HIGH")


@cache
def judge() -> Spec:
    """The description, with a status that it does not have yet: vendors add some."""
    spec = Spec.load(DESCRIPTION)
    return spec.amended({"components/schemas/PodStatus/enum": [*spec.schema("PodStatus")["enum"], "A_NEW_WORD"]})


@dataclass
class Trouble:
    """What the next fitting request meets instead, or after it had its effect."""

    method: str
    path: str  # how the path begins
    status: int | None  # None: the reply is lost
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    reaches: bool = False
    state: str = ""  # what a pod that was made is in


@dataclass
class GpuType:
    id: str
    name: str
    memory: int
    secure: float
    community: float
    stock: dict[str, str]  # data centre -> level, for any number
    most: int = 8
    manufacturer: str = "NVIDIA"
    level: str = ""  # with no data centre named


def catalogue() -> list[GpuType]:
    return [
        GpuType("NVIDIA H100 80GB HBM3", "H100 SXM", 80, 2.69, 0, {"AP-JP-1": "HIGH", "US-KS-2": "LOW"}),
        GpuType("NVIDIA H200", "H200 SXM", 141, 3.99, 0, {"EU-RO-1": "MEDIUM", "CA-MTL-1": "NONE"}),
        GpuType("NVIDIA GeForce RTX 4090", "RTX 4090", 24, 0.44, 0.3100000023841858, {"EUR-IS-1": "HIGH"}, most=4),
        GpuType("NVIDIA GB300", "GB300", 288, 7.5, 0, {"ME-AE-1": "LOW"}, most=4),
        GpuType("AMD Instinct MI300X OAM", "MI300X", 192, 2.5, 0, {"EU-RO-1": "HIGH"}, manufacturer="AMD"),
    ]


REGIONS = {"AP": "ASIA", "US": "NORTH_AMERICA", "CA": "NORTH_AMERICA", "EU": "EUROPE", "EUR": "EUROPE", "ME": "MIDDLE_EAST"}


class RunPodCloud(httpx.AsyncBaseTransport):
    def __init__(self, clock: Clock, spec: Spec) -> None:
        self.clock, self.spec = clock, spec
        self.pods: dict[str, dict[str, Any]] = {}
        self.made: dict[str, datetime] = {}
        self.forced: dict[str, str] = {}
        self.logins: dict[str, dict[str, str]] = {}
        self.gpus = catalogue()
        self.certified: dict[str, list[str]] = {"AP-JP-1": ["SOC_2_TYPE_2"], "EU-RO-1": ["GDPR", "SOC_2_TYPE_2"]}
        self.troubles: list[Trouble] = []
        self.seen: list[tuple[str, str]] = []
        self.sent: list[Any] = []  # bodies of the creates
        self.asked: list[dict[str, str]] = []  # queries of the catalogue
        self.headers: dict[str, str] = {"RateLimit": '"minute";r=57;t=12, "hour";r=2800;t=1812, "day";r=49500;t=45012'}
        self.places_elsewhere = ""
        self.complaints: list[str] = []
        self.judged: set[tuple[str, str]] = set()
        self._numbers = itertools.count(1)

    def trouble(self, method: str, path: str, status: int | None, body: Any = None, **rest: Any) -> None:
        if isinstance(body, str) and status is not None and status >= 400:
            body = problem(status, body)
        self.troubles.append(Trouble(method, path, status, body, **rest))

    def sell_out(self) -> None:
        for gpu in self.gpus:
            gpu.stock, gpu.level = dict.fromkeys(gpu.stock, "NONE"), "NONE"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The judge's complaints are kept for the bench's end: raised in here, the wrapper would make `Unclear` of them."""
        try:
            return await self._handle(request)
        except AssertionError as error:
            self.complaints.append(str(error))
            raise

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        method, path = request.method, request.url.path
        body = json.loads(request.content) if request.content else None
        query = dict(request.url.params)
        self.seen.append((method, path))
        self.spec.request(method, path, {name: _listed(name, value) for name, value in query.items()}, body)
        trouble = next((one for one in self.troubles if one.method == method and path.startswith(one.path)), None)
        if trouble is not None:
            self.troubles.remove(trouble)
        status, answer = 500, None
        if trouble is None or trouble.reaches:
            status, answer = self._answer(request, method, path, query, body)
            self._judge(method, path, status, answer)
            if trouble is not None and trouble.state and isinstance(answer, dict):
                self.forced[answer["id"]] = trouble.state
        if trouble is None:
            headers = self.headers
        else:
            if trouble.status is None:
                raise httpx.ReadTimeout("the reply is lost", request=request)
            status, answer, headers = trouble.status, trouble.body, {**self.headers, **trouble.headers}
            if status >= 400 and isinstance(answer, dict):
                self.spec.response(method, path, status, answer)
        content = answer if isinstance(answer, bytes) else b"" if answer is None else json.dumps(answer).encode()
        return httpx.Response(status, headers=headers, content=content)

    def _judge(self, method: str, path: str, status: int, answer: Any) -> None:
        """By the description. Of a listing only the pods that were not shown just so before: the judge is slow."""
        if path == "/v2/pods" and method == "GET" and status == 200:
            fresh = [pod for pod in answer["pods"] if (pod["id"], pod["status"]) not in self.judged]
            self.judged |= {(pod["id"], pod["status"]) for pod in fresh}
            answer = {**answer, "pods": fresh}
        self.spec.response(method, path, status, answer)

    def _answer(self, request: httpx.Request, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return 401, problem(401, "missing bearer token")
        kind, _, name = path.removeprefix("/v2/").partition("/")
        match method, kind, name:
            case "GET", "catalog", "gpus":
                self.asked.append(query)
                return 200, {"gpus": [found for gpu in self.gpus if (found := self._gpu(gpu, query)) is not None]}
            case "GET", "catalog", "datacenters":
                return 200, {"dataCenters": self._data_centers(query)}
            case "GET", "pods", "":
                return 200, {"pods": [self._shown(pod) for pod in self.pods.values()]}
            case "POST", "pods", "":
                self.sent.append(body)
                return self._create(body)
            case (("GET" | "DELETE"), "pods", _):
                if name not in self.pods:
                    return 404, problem(404, "pod not found")
                shown = self._shown(self.pods[name])
                if method == "DELETE":
                    del self.pods[name]
                return (200, shown) if method == "GET" else (204, None)
            case "GET", "registries", "":
                return 200, {"registries": [{"id": key, "name": one["name"]} for key, one in self.logins.items()]}
            case "POST", "registries", "":
                if any(one["name"] == body["name"] for one in self.logins.values()):
                    return 400, problem(400, "a registry credential with this name exists")
                key = f"reg{next(self._numbers):05d}"
                self.logins[key] = body
                return 201, {"id": key, "name": body["name"]}
            case "DELETE", "registries", _:
                if name not in self.logins:
                    return 404, problem(404, "resource not found")
                if any(pod["registry"] == name for pod in self.pods.values()):
                    return 400, problem(400, "Registry credential is in use by a pod and cannot be deleted")
                del self.logins[name]
                return 204, None
            case _:
                raise AssertionError(f"{method} {path} is not in this fake")

    def _create(self, body: Any) -> tuple[int, Any]:
        gpu = next((gpu for gpu in self.gpus if gpu.id == body["gpu"]["id"]), None)
        wanted = body.get("dataCenterIds") or (list(gpu.stock) if gpu else [])
        levels = {place: gpu.stock.get(place, "NONE") for place in wanted} if gpu else {}
        free = [place for place, level in levels.items() if level != "NONE"]
        if gpu is None or not (free or (not wanted and gpu.level not in ("", "NONE"))):
            return 400, problem(400, NONE_LEFT)
        if body.get("registry", "") and body["registry"] not in self.logins:
            return 404, problem(404, "resource not found")
        name = f"p{next(self._numbers):013d}"
        self.made[name] = self.clock.now()
        self.pods[name] = {
            "id": name,
            "actions": ["terminate"],
            "mounts": {},
            "cudaVersion": "12.8",
            "ssh": {"proxy": None, "direct": None},
            "template": None,
            "cost": 2.69,
            "locked": False,
            "globalNetworking": {"enabled": False},
            "runtime": None,
            "createdAt": self.clock.now().isoformat().replace("+00:00", "Z"),
            "startedAt": None,
            "registry": None,
            "dataCenterId": self.places_elsewhere or (free[0] if free else None),
            **{key: body[key] for key in ("name", "image", "args", "disk", "ports", "env", "cloud")},
            "gpu": {"id": body["gpu"]["id"], "count": body["gpu"]["count"]},
            **({"registry": body["registry"]} if "registry" in body else {}),
        }
        return 201, self._shown(self.pods[name])

    def _shown(self, pod: dict[str, Any]) -> dict[str, Any]:
        age = self.clock.now() - self.made[pod["id"]]
        grown = "PROVISIONING" if age < READY_AFTER[0] else "STARTING" if age < READY_AFTER[1] else "RUNNING"
        return {**pod, "status": self.forced.get(pod["id"], grown)}

    def _gpu(self, gpu: GpuType, query: dict[str, str]) -> dict[str, Any] | None:
        row: dict[str, Any] = {
            "id": gpu.id,
            "name": gpu.name,
            "pool": None,
            "manufacturer": gpu.manufacturer,
            "memory": gpu.memory,
            "secure": gpu.secure > 0,
            "community": gpu.community > 0,
            "price": {"secure": gpu.secure, "community": gpu.community},
            "maxCount": {"secure": gpu.most if gpu.secure else 0, "community": gpu.most if gpu.community else 0},
        }
        if "include" not in query:
            return row
        countries = query.get("countryCodes", "").split(",") if "countryCodes" in query else None
        shown = {place: level for place, level in gpu.stock.items() if countries is None or place.split("-")[1] in countries}
        if countries is not None and not shown:
            return None
        row["availability"] = max([*shown.values(), gpu.level or "NONE"], key=LEVELS.index)
        if any(level != "NONE" for level in shown.values()):
            row["dataCenters"] = [{"id": one, "name": one.title(), "availability": level} for one, level in shown.items()]
        return row

    def _data_centers(self, query: dict[str, str]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for place in sorted({place for gpu in self.gpus for place in gpu.stock}):
            region = REGIONS[place.split("-")[0]]
            held = self.certified.get(place, [])
            if "regions" in query and region not in query["regions"].split(","):
                continue
            if "compliance" in query and not set(query["compliance"].split(",")) <= set(held):
                continue
            row = {"id": place, "name": place.title(), "region": region, "globalNetwork": False}
            rows.append({**row, "networkVolumeTypes": [], "compliance": held})
        return rows


def _listed(name: str, value: str) -> str | list[str]:
    """The description's lists come in one parameter, with commas."""
    many = ("include", "product", "countryCodes", "cudaVersions", "regions", "compliance", "networkVolumeTypes")
    return value.split(",") if name in many else value


def problem(status: int, detail: str, *errors: str) -> dict[str, Any]:
    body: dict[str, Any] = {"title": TITLES.get(status, "Error"), "status": status, "detail": detail}
    return {**body, "errors": list(errors)} if errors else body
