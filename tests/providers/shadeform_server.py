"""A stand-in for Shadeform's API, in process: it keeps instances, and has the vendor's description judge every word."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.providers.stands import StandIn

DESCRIPTION, OTHER_DESCRIPTION = "shadeform/shadeform.openapi.yaml", "shadeform/shadeform.api-evangelist.openapi.yml"
KEY = "sf-0123456789abcdef-Zk3"
SSH_KEY = "78a0dd5a-dbb1-4568-b55c-5e7e0a8b0c40"
ZERO_TIME = "0001-01-01T00:00:00Z"
SOLD_OUT = {"error_code": "OUT_OF_STOCK", "error": "The instance type [A6000] is not available in the region [canada-1]"}


def kind(cloud: str, name: str, gpu: str, cents: int, gpus: int, *places: tuple[str, bool, str], **more: Any) -> dict[str, Any]:
    configuration = {
        "memory_in_gb": 46,
        "storage_in_gb": 256,
        "vcpus": 12,
        "num_gpus": gpus,
        "gpu_type": gpu,
        "interconnect": "pcie",
        "vram_per_gpu_in_gb": 48,
        "gpu_manufacturer": "nvidia",
        "os_options": ["ubuntu22.04_cuda12.2_shade_os", "ubuntu_22_shade_os"],
    }
    return {
        "cloud": cloud,
        "shade_instance_type": name,
        "cloud_instance_type": f"gpu_{gpus}x_{name.lower()}",
        "configuration": configuration,
        "hourly_price": cents,
        "deployment_type": "vm",
        "availability": [{"region": region, "available": free, "display_name": title} for region, free, title in places],
        **more,
    }


TORONTO, HOUSTON = ("canada-1", True, "Toronto, Canada"), ("houston-usa-1", True, "US, Houston, TX")
SOMEWHERE, FULL = ("moon-1", True, "Sea of Tranquility"), ("us-central-2", False, "US, Wichita, KS")
CATALOGUE = [
    kind("hyperstack", "A6000", "A6000", 50, 1, TORONTO, FULL),
    kind("massedcompute", "A6000", "A6000", 57, 1, FULL),
    kind("lambdalabs", "GH200", "GH200", 149, 1, SOMEWHERE),
    kind("datacrunch", "B200x8", "B200", 2999, 8, HOUSTON, deployment_type="baremetal"),
    kind("vultr", "A16", "A16", 47, 1, HOUSTON, deployment_type="container"),
    kind("hyperstack", "CPU", "", 7, 0, TORONTO),
]


@dataclass
class ShadeformCloud(StandIn):
    description = DESCRIPTION
    catalogue: list[Any] = field(default_factory=lambda: list[Any](CATALOGUE))
    gone_is: int = 404  # what the API says to an id that it no longer knows
    takes_ends: bool = True  # whether `auto_delete` is understood

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = itertools.count(1)

    def creates(self) -> list[Any]:
        """The bodies of all creates that came in."""
        return [body for _, path, body in self.requests if path.endswith("/create")]

    def routed(self, request: httpx.Request, path: str, body: Any) -> httpx.Response:
        if request.headers.get("X-API-KEY") != KEY:
            return httpx.Response(401, json={"error": "Unauthorized"})
        match (request.method, path.removeprefix("/v1/").split("/")):
            case ("GET", ["instances", "types"]):
                return httpx.Response(200, json={"instance_types": self.catalogue})
            case ("GET", ["sshkeys"]):
                key = {"id": SSH_KEY, "name": "ci", "public_key": "ssh-ed25519 AAAA", "is_default": True}
                return httpx.Response(200, json={"ssh_keys": [key]})
            case ("GET", ["instances"]):
                rows = [self._listed(row) for row in self.instances.values() if self._is_listed(row)]
                return httpx.Response(200, json={"instances": rows})
            case ("GET", ["instances", instance_id, "info"]) if instance_id in self.instances:
                return httpx.Response(200, json=self.instances[instance_id])
            case ("POST", ["instances", "create"]):
                return self._create(body)
            case ("POST", ["instances", instance_id, "delete"]) if self._can_end(instance_id):
                self.frozen.discard(instance_id)
                self.instances[instance_id]["status"] = "deleting"
                return httpx.Response(200)
            case _:
                return httpx.Response(self.gone_is, json={"error_code": "NOT_FOUND", "error": "instance not found"})

    def _can_end(self, instance_id: str) -> bool:
        return instance_id in self.instances and self.instances[instance_id]["status"] != "deleted"

    def _is_listed(self, row: Mapping[str, Any]) -> bool:
        """All but the deleted, says the description; one that a test has put there is shown all the same."""
        return row["status"] != "deleted" or row["id"] in self.frozen

    def _listed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of the list has less than the record itself."""
        return {key: value for key, value in row.items() if key not in ("auto_delete", "ssh_key_id")}

    def _create(self, body: Mapping[str, Any]) -> httpx.Response:
        rows = [
            row
            for row in self.catalogue
            if (row["cloud"], row["shade_instance_type"]) == (body["cloud"], body["shade_instance_type"])
        ]
        free = any(place["region"] == body["region"] and place["available"] for row in rows for place in row["availability"])
        if not free:
            return httpx.Response(409, json=SOLD_OUT)
        instance_id = f"d290f1ee-6c54-4b01-90e6-{next(self._numbers):012x}"
        has = {key: value for key, value in rows[0]["configuration"].items() if key != "os_options"}
        record: dict[str, Any] = {
            "id": instance_id,
            **{key: body[key] for key in ("cloud", "region", "shade_instance_type", "shade_cloud", "name", "tags")},
            "cloud_instance_type": rows[0]["cloud_instance_type"],
            "cloud_assigned_id": "13b057d7-e266-4869-985f-760fe75a78b3",
            "configuration": {**has, "os": body.get("os", "ubuntu_22_shade_os")},
            "ip": "",
            "ssh_user": "shadeform",
            "ssh_port": 22,
            "status": "creating",
            "cost_estimate": "0",
            "hourly_price": rows[0]["hourly_price"],
            "launch_configuration": body["launch_configuration"],
            "created_at": self.clock.now().isoformat().replace("+00:00", ".123456789Z"),
            "deleted_at": ZERO_TIME,
        }
        if self.takes_ends:
            record["auto_delete"] = body["auto_delete"]
        if "ssh_key_id" in body:
            record["ssh_key_id"] = body["ssh_key_id"]
        self.instances[instance_id] = record
        return httpx.Response(200, json={"id": instance_id})

    def end(self, instance_id: str) -> None:
        self.instances[instance_id] |= {"status": "deleted", "deleted_at": self.clock.now().isoformat()}
        if not self.keeps_records:
            del self.instances[instance_id]

    def advance(self) -> None:
        """A moment later: what is made goes on, what was ending has ended."""
        onwards = {"creating": "pending_provider", "pending_provider": "pending", "pending": "active"}
        for instance_id, row in list(self.instances.items()):
            if instance_id in self.frozen:
                continue
            if row["status"] == "deleting":
                self.end(instance_id)
            else:
                row["status"] = onwards.get(row["status"], row["status"])
