"""A stand-in for Lambda's API, in process: it keeps instances, keeps its rates, and has its description judge every word."""

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx

from providers.lambda_cloud import LAUNCHES_EVERY
from tests.providers.benches import ManualClock
from tests.providers.stands import StandIn

DESCRIPTION = "lambda/lambda-cloud.openapi.json"
KEY = "secret_sublet_0123456789abcdef.Zk3"
JUPYTER = "03b7d30d9d3e4d8fa41657bc0d478c1b"
SUGGESTED = {  # the codes whose description demands a suggestion
    "global/account-inactive",
    "global/internal-error",
    "global/invalid-address",
    "global/invalid-api-key",
    "global/quota-exceeded",
    "firewall-rulesets/firewall-ruleset-in-use",
}


def kind(name: str, gpu: str, cents: int, gpus: int, *regions: tuple[str, str]) -> dict[str, Any]:
    specs = {"vcpus": 26, "memory_gib": 225, "storage_gib": 2816, "gpus": gpus}
    says = {"name": name, "description": f"{gpus}x {gpu}", "gpu_description": gpu, "price_cents_per_hour": cents}
    places = [{"name": region, "description": description} for region, description in regions]
    return {"instance_type": {**says, "specs": specs}, "regions_with_capacity_available": places}


CALIFORNIA, TEXAS, INDIA = ("us-west-1", "California, USA"), ("us-south-1", "Texas, USA"), ("asia-south-1", "Mumbai, India")
ISRAEL, NOWHERE = ("me-west-1", "Tel Aviv, Israel"), ("moon-1", "Sea of Tranquility")
CATALOGUE = [
    kind("gpu_1x_h100_sxm5", "H100 (80 GB SXM5)", 329, 1, CALIFORNIA, INDIA),
    kind("gpu_8x_b200_sxm6", "B200 (180 GB SXM6)", 3992, 8, ISRAEL),
    kind("gpu_1x_gh200", "GH200 (96 GB)", 149, 1, TEXAS, NOWHERE),
    kind("gpu_1x_a10", "A10 (24 GB PCIe)", 75, 1),
    kind("cpu_4x_general", "N/A", 20, 0, CALIFORNIA),
]


class OrderlyClock(ManualClock):
    """Who sleeps until a later moment wakes at that moment, whoever else sleeps: rates can be kept by it."""

    async def sleep(self, seconds: float) -> None:
        until = self.time + timedelta(seconds=seconds)
        await asyncio.sleep(0)
        self.time = max(self.time, until)


@dataclass
class LambdaCloud(StandIn):
    description = DESCRIPTION
    slow_launches: bool = True  # a launch takes as long as the next has to wait, so that a test can launch one after another
    catalogue: dict[str, Any] = field(default_factory=lambda: {row["instance_type"]["name"]: row for row in CATALOGUE})
    keys: list[str] = field(default_factory=lambda: ["ci", "other"])
    ignores_terminations: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = itertools.count(1)
        self._last: datetime | None = None
        self._last_launch: datetime | None = None

    def error(self, status: int, code: str, message: str = "no") -> httpx.Response:
        said = {"code": code, "message": message}
        if code in SUGGESTED:
            said["suggestion"] = "Read the documentation."
        return httpx.Response(status, json={"error": said})

    def launches(self) -> list[Any]:
        """The bodies of all launches that came in."""
        return [body for _, path, body in self.requests if path.endswith("/launch")]

    def limited(self, path: str) -> httpx.Response | None:
        now, launching = self.clock.now(), path.endswith("/launch")
        early = self._last is not None and now < self._last + timedelta(seconds=1)
        soon = launching and self._last_launch is not None and now < self._last_launch + timedelta(seconds=12)
        self._last = now
        if early or soon:
            self.complaints.append(f"{path}: too many requests at {now}")
            return httpx.Response(429, json={"error": {"code": "global/rate-limited", "message": "slow down"}})
        if launching:
            self._last_launch = now
            self.clock.time += LAUNCHES_EVERY if self.slow_launches else timedelta(0)
        return None

    def routed(self, request: httpx.Request, path: str, body: Any) -> httpx.Response:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return self.error(401, "global/invalid-api-key")
        match (request.method, path.removeprefix("/api/v1/").split("/")):
            case ("GET", ["instance-types"]):
                return httpx.Response(200, json={"data": self.catalogue})
            case ("GET", ["ssh-keys"]):
                rows = [
                    {"id": f"{number:032x}", "name": name, "public_key": "ssh-ed25519 AAAA"}
                    for number, name in enumerate(self.keys)
                ]
                return httpx.Response(200, json={"data": rows})
            case ("GET", ["instances"]):
                return httpx.Response(200, json={"data": list(self.instances.values())})
            case ("GET", ["instances", instance_id]) if instance_id in self.instances:
                return httpx.Response(200, json={"data": self.instances[instance_id]})
            case ("POST", ["instance-operations", "launch"]):
                return self._launch(body)
            case ("POST", ["instance-operations", "terminate"]):
                return self._terminate(body["instance_ids"])
            case _:
                return self.error(404, "global/object-does-not-exist")

    def _launch(self, body: Mapping[str, Any]) -> httpx.Response:
        row = self.catalogue.get(body["instance_type_name"])
        if row is None or body["ssh_key_names"] not in [[key] for key in self.keys]:
            return httpx.Response(
                404, json={"error": {"code": "global/object-does-not-exist", "message": "no", "suggestion": "?"}}
            )
        place = next((one for one in row["regions_with_capacity_available"] if one["name"] == body["region_name"]), None)
        if place is None:
            return self.error(400, "instance-operations/launch/insufficient-capacity", "Not enough capacity.")
        made: dict[str, Any] = {
            "id": f"{next(self._numbers):032x}",
            "status": "booting",
            "ssh_key_names": body["ssh_key_names"],
            "file_system_names": body.get("file_system_names", []),
            "region": place,
            "instance_type": row["instance_type"],
            "name": body["name"],
            "ip": "198.51.100.2",
            "tags": body["tags"],
            "jupyter_token": JUPYTER,
            "actions": {verb: {"available": True} for verb in ("migrate", "rebuild", "restart", "cold_reboot", "terminate")},
        }
        self.instances[made["id"]] = made
        return httpx.Response(200, json={"data": {"instance_ids": [made["id"]]}})

    def _terminate(self, ids: list[str]) -> httpx.Response:
        if not all(one in self.instances for one in ids):
            return self.error(404, "global/object-does-not-exist")
        rows = [self.instances[one] for one in ids if self.instances[one]["status"] not in ("terminating", "terminated")]
        if self.ignores_terminations:
            rows = []
        self.frozen -= set(ids)
        for row in rows:
            row["status"] = "terminating"
        return httpx.Response(200, json={"data": {"terminated_instances": rows}})

    def advance(self) -> None:
        """A moment later: what boots is active, what was ending has ended."""
        for instance_id, row in list(self.instances.items()):
            if instance_id in self.frozen:
                continue
            if row["status"] == "booting":
                row["status"] = "active"
            elif row["status"] == "terminating" and self.keeps_records:
                row["status"] = "terminated"
            elif row["status"] in ("terminating", "terminated") and not self.keeps_records:
                del self.instances[instance_id]
