"""A small OpenStack on loopback: Keystone v3, Nova with microversions, Glance and Neutron as far as a server needs them.

It keeps servers, checks tokens and bodies, pages by marker, and schedules after it has accepted, as Nova does.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from providers.conformance import Fault

PASSWORD, TOKEN = "the-password-of-the-project", "gAAAAAB-token-that-nobody-may-see"
IMAGE, NETWORK = str(uuid.UUID(int=0xA1)), str(uuid.UUID(int=0xB1))
REGIONS = ("RegionOne", "RegionTwo")
NO_HOST = "No valid host was found. There are not enough hosts available."
QUOTA = "Quota exceeded for cores: Requested 16, but already used 48 of 48 cores"


@dataclass
class Trouble:
    """Hits the next request that fits: first its effect if it `reaches`; without a status the line goes dead."""

    method: str
    path: str
    status: int = 0
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    reaches: bool = False
    times: int = 1


@dataclass
class Answer:
    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass
class Server:
    row: dict[str, Any]
    region: str
    user_data: str
    volume: bool
    looks: int = 2
    fate: str = "ACTIVE"
    fault: str = ""
    pinned: bool = False


class OpenStackCloud:
    def __init__(self, *, page: int = 5, newest: str = "2.96") -> None:
        self.page, self.newest = page, newest
        self.servers: dict[str, Server] = {}
        self.volumes: set[str] = set()
        self.troubles: list[Trouble] = []
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []
        self.fate, self.fault = "ACTIVE", ""  # of the next server
        self.undying = False  # whether deletes are accepted and nothing happens
        self.keeps_back = False  # whether a deleted server is only SOFT_DELETED
        self.used = {"totalCoresUsed": 0, "totalRAMUsed": 0, "totalInstancesUsed": 0}
        self.images = [{"id": IMAGE, "name": "ubuntu-24.04-cuda", "status": "active"}]
        self.networks = [{"id": NETWORK, "name": "ci"}]
        self.endless = False
        self.hides_specs = False
        self.flavors: list[dict[str, Any]] = [
            flavor("g-h100-1", 16, 200, {"pci_passthrough:alias": "h100:1,cx7-nic:1"}),
            flavor("g-h100-8", 128, 1600, {"pci_passthrough:alias": "h100:8"}),
            flavor("g-vgpu", 8, 64, {"resources:VGPU": "1"}),
            flavor("g-gh200", 64, 480, {"resources:CUSTOM_GH200_GPU": "1", "trait:COMPUTE_ARCH_AARCH64": "required"}),
            flavor("m1.large", 4, 8, {}),
            *(flavor(f"m2.size{number}", 2, 4, {}) for number in range(6)),
        ]
        self.token = TOKEN  # what Keystone gives out, and the only one that holds
        self.url = ""
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._server.wait_closed()

    def clouds_file(self, folder: Path, password: str = PASSWORD, **more: Any) -> Path:
        """A clouds.yaml that leads here."""
        auth = {"auth_url": f"{self.url}/v3", "username": "sublet", "password": password}
        auth |= {"project_name": "ci", "user_domain_name": "Default", "project_domain_name": "Default"}
        path = folder / "clouds.yaml"
        entry = {"auth": auth, "region_name": REGIONS[0], "identity_api_version": 3, **more}
        path.write_text(yaml.safe_dump({"clouds": {"lab": entry}}))
        return path

    def calls(self, method: str, path: str) -> list[tuple[str, str, dict[str, str], Any]]:
        return [call for call in self.seen if call[0] == method and path in call[1]]

    def put(self, server_id: str, status: str) -> None:
        """Bring a server into a status, and keep it there until it is deleted."""
        server = self.servers[server_id]
        if status == "deleting":
            server.row["OS-EXT-STS:task_state"], server.looks, server.fate = "deleting", 6, "GONE"
            return
        server.row["status"], server.pinned = status, True
        if status == "DELETED":
            server.row["OS-SRV-USG:terminated_at"] = "2027-03-01T13:00:00.000000"

    def cause(self, fault: Fault) -> None:
        def add(status: int, kind: str, message: str, **headers: str) -> None:
            body = {kind: {"code": status, "message": message}}
            self.troubles.append(Trouble("POST", "/servers", status, body, headers))

        match fault:
            case Fault.LOST_REPLY:
                self.troubles.append(Trouble("POST", "/servers", reaches=True))
            case Fault.HALF_CREATED:
                self.fate, self.fault = "ERROR", "Build of instance aborted"
                self.troubles.append(Trouble("POST", "/servers", reaches=True))
            case Fault.NO_CAPACITY:
                self.fate, self.fault = "ERROR", NO_HOST
            case Fault.QUOTA:
                add(403, "forbidden", QUOTA)
            case Fault.CREDENTIALS:
                add(403, "forbidden", "Policy doesn't allow os_compute_api:servers:create to be performed.")
            case Fault.THROTTLED:
                add(429, "overLimit", "This request was rate-limited.", **{"Retry-After": "1"})
            case Fault.SERVER_ERROR:
                add(500, "computeFault", "Unexpected API Error. Please report this at http://bugs.launchpad.net/nova/")
            case Fault.MALFORMED:
                self.troubles.append(Trouble("POST", "/servers", 202, "<html>accepted</html>", reaches=True))
            case Fault.BROKEN_LIST:
                self.troubles.append(Trouble("GET", "/servers/detail", 500, "", times=3))  # as often as a read is repeated
            case _:
                raise AssertionError(fault)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                    method, target, _ = head[0].split(" ")
                    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
                    content = await reader.readexactly(int(headers.get("content-length", 0)))
                    answer = self._answered(method, target, headers, json.loads(content) if content else None)
                    if answer is None:
                        return
                    text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
                    body = b"" if answer.body is None else text.encode()
                    sent = {"Content-Type": "application/json", "Content-Length": str(len(body)), **answer.headers}
                    lines = [f"HTTP/1.1 {answer.status} Said", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
                    writer.write("\r\n".join(lines).encode() + body)
                    await writer.drain()
        finally:
            writer.close()

    def _answered(self, method: str, target: str, headers: dict[str, str], body: Any) -> Answer | None:
        self.seen.append((method, target, headers, body))
        path = urlsplit(target).path
        for trouble in self.troubles:
            if trouble.times > 0 and trouble.method == method and path.endswith(trouble.path):
                trouble.times -= 1
                if trouble.reaches:
                    self._routed(method, target, headers, body)
                return None if not trouble.status else Answer(trouble.status, trouble.body, trouble.headers)
        return self._routed(method, target, headers, body)

    def _routed(self, method: str, target: str, headers: dict[str, str], body: Any) -> Answer:
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.path.startswith("/v3"):
            return self._keystone(method, parts.path, body)
        named = re.match(r"/(RegionOne|RegionTwo)/(compute|image|network)(/.*)?$", parts.path)
        if named is None:
            return Answer(404, "<html>nothing here</html>", {"Content-Type": "text/html"})
        region, service, path = named[1], named[2], named[3] or "/"
        if path.rstrip("/") in ("", "/v2.1", "/v2", "/v2.0"):
            return self._version(region, service, path)
        if headers.get("x-auth-token") != self.token:
            return Answer(401, {"error": {"code": 401, "message": "The request you have made requires authentication."}})
        if service == "image":
            return Answer(200, {"images": [row for row in self.images if row["name"] == query.get("name")]})
        if service == "network":
            return Answer(200, {"networks": [row for row in self.networks if row["name"] == query.get("name")]})
        micro = headers.get("openstack-api-version", "compute 2.1").removeprefix("compute ")
        if number(micro) > number(self.newest):
            return fault_of(406, "computeFault", f"Version {micro} is not supported by the API.")
        return self._nova(method, path.removeprefix("/v2.1"), query, body, region, number(micro))

    def _keystone(self, method: str, path: str, body: Any) -> Answer:
        if method == "GET":
            links = [{"rel": "self", "href": f"{self.url}/v3/"}]
            return Answer(200, {"version": {"id": "v3.14", "status": "stable", "links": links, "media-types": []}})
        user = body["auth"]["identity"]["password"]["user"]
        if user["password"] != PASSWORD:
            return Answer(401, {"error": {"code": 401, "message": "The request you have made requires authentication."}})
        catalog = [
            {
                "type": kind,
                "name": kind,
                "id": kind,
                "endpoints": [
                    {"id": f"{kind}{region}", "interface": "public", "region": region, "region_id": region, "url": url}
                    for region in REGIONS
                    for url in (f"{self.url}/{region}/{kind}{'/v2.1' if kind == 'compute' else ''}",)
                ],
            }
            for kind in ("compute", "image", "network")
        ]
        domain = {"id": "default", "name": "Default"}
        token = {
            "methods": ["password"],
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "issued_at": "2027-03-01T12:00:00.000000Z",
            "user": {"id": "u1", "name": "sublet", "domain": domain},
            "project": {"id": "p1", "name": "ci", "domain": domain},
            "roles": [{"id": "r1", "name": "member"}],
            "catalog": catalog,
        }
        return Answer(201, {"token": token}, {"X-Subject-Token": self.token})

    def _version(self, region: str, service: str, path: str) -> Answer:
        ends = {"compute": "v2.1", "image": "v2", "network": "v2.0"}[service]
        links = [{"rel": "self", "href": f"{self.url}/{region}/{service}/{ends}/"}]
        version: dict[str, Any] = {"id": ends, "status": "CURRENT", "links": links}
        if service == "compute":
            version |= {"version": self.newest, "min_version": "2.1"}
        return Answer(200, {"version": version} if path.rstrip("/") else {"versions": [version]})

    def _nova(self, method: str, path: str, query: dict[str, str], body: Any, region: str, micro: tuple[int, int]) -> Answer:
        if path == "/limits":
            most = {"maxTotalCores": 128, "maxTotalRAMSize": -1, "maxTotalInstances": 10}
            return Answer(200, {"limits": {"rate": [], "absolute": {**most, **self.used}}})
        if path == "/flavors/detail":
            rows = [{k: v for k, v in row.items() if k != "extra_specs" or micro >= (2, 61)} for row in self.flavors]
            return self._paged(rows, "flavors", query)
        if path.startswith("/flavors/"):
            found = next(row for row in self.flavors if row["id"] == path.split("/")[2])
            if self.hides_specs:
                return fault_of(403, "forbidden", "Policy doesn't allow os_compute_api:os-flavor-extra-specs:index")
            return Answer(200, {"extra_specs": found["extra_specs"]})
        if path == "/servers/detail":
            for server_id in list(self.servers):
                self._look(server_id)
            rows = [one.row for one in reversed(self.servers.values()) if one.region == region]
            if "name" in query:
                rows = [row for row in rows if re.search(query["name"], row["name"])]
            return self._paged(rows, "servers", query)
        if path == "/servers" and method == "POST":
            return self._create(body, region, micro)
        server_id = path.split("/")[2]
        self._look(server_id)
        server = self.servers.get(server_id)
        if server is None or server.region != region:
            return fault_of(404, "itemNotFound", f"Instance {server_id} could not be found.")
        if method == "GET":
            return Answer(200, {"server": server.row})
        if method == "DELETE" and server.row["status"] == "DELETED":
            return fault_of(404, "itemNotFound", f"Instance {server_id} could not be found.")
        if not self.undying:
            server.pinned, server.looks, server.fate = False, 1, "GONE"
            server.row["OS-EXT-STS:task_state"] = "deleting"
            if self.keeps_back and method == "DELETE":
                server.row |= {"OS-EXT-STS:task_state": None, "status": "SOFT_DELETED"}
                server.pinned = True
        return Answer(204 if method == "DELETE" else 202)

    def _create(self, body: Any, region: str, micro: tuple[int, int]) -> Answer:
        asked = dict(body["server"])
        known = {"name", "flavorRef", "imageRef", "networks", "user_data", "metadata", "min_count", "max_count"}
        known |= {"security_groups", "availability_zone", "config_drive", "block_device_mapping_v2"}
        known |= {"tags"} if micro >= (2, 52) else set()
        if set(asked) - known or len(asked["user_data"]) > 65535:
            return fault_of(400, "badRequest", f"Invalid input: {sorted(set(asked) - known)}")
        disks = asked.get("block_device_mapping_v2", [])
        image = asked.get("imageRef") or (disks[0]["uuid"] if disks else "")
        if image not in [row["id"] for row in self.images] or asked["networks"] != [{"uuid": NETWORK}]:
            return fault_of(400, "badRequest", "Invalid image or network.")
        if asked["flavorRef"] not in [row["id"] for row in self.flavors]:
            return fault_of(400, "badRequest", "Flavor could not be found.")
        server_id = str(uuid.UUID(int=0xC0DE0000 + next(self._numbers)))
        row = {
            "id": server_id,
            "name": asked["name"],
            "status": "BUILD",
            "OS-EXT-STS:task_state": "scheduling",
            "created": "2027-03-01T12:00:00Z",
            "metadata": asked["metadata"],
            "flavor": {"original_name": "x"},
            "tags": asked.get("tags", []),
        }
        user_data = base64.b64decode(asked["user_data"]).decode()
        server = Server(row, region, user_data, bool(disks), fate=self.fate, fault=self.fault)
        self.servers[server_id], self.fate, self.fault = server, "ACTIVE", ""
        if disks:
            self.volumes.add(server_id)
        links = [{"rel": "self", "href": f"http://nova.internal/v2.1/servers/{server_id}"}]
        return Answer(
            202, {"server": {"id": server_id, "links": links, "adminPass": "hush-admin", "OS-DCF:diskConfig": "MANUAL"}}
        )

    def _look(self, server_id: str) -> None:
        """Everything takes a look or two."""
        server = self.servers.get(server_id)
        if server is None or server.pinned:
            return
        server.looks -= 1
        if server.looks > 0:
            return
        if server.fate == "GONE":
            del self.servers[server_id]
            self.volumes.discard(server_id)
        elif server.row["status"] == "BUILD":
            server.row |= {"status": server.fate, "OS-EXT-STS:task_state": None}
            if server.fate == "ERROR":
                server.row["fault"] = {"code": 500, "message": server.fault, "created": "2027-03-01T12:00:05Z"}

    def _paged(self, rows: list[dict[str, Any]], what: str, query: dict[str, str]) -> Answer:
        size = min(self.page, int(query.get("limit", self.page)))
        ids = [row["id"] for row in rows]
        start = ids.index(query["marker"]) + 1 if query.get("marker") in ids else 0
        page = rows[start : start + size]
        body: dict[str, Any] = {what: page}
        if start + size < len(rows) or self.endless:
            href = f"http://nova.internal/v2.1/{what}?marker={page[-1]['id']}"  # as behind a proxy that nobody told
            body[f"{what}_links"] = [{"rel": "next", "href": href}]
        return Answer(200, body)


def flavor(name: str, vcpus: int, memory: int, specs: dict[str, str]) -> dict[str, Any]:
    flavor_id = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
    return {"id": flavor_id, "name": name, "vcpus": vcpus, "ram": memory * 1024, "disk": 100, "extra_specs": specs}


def fault_of(status: int, kind: str, message: str) -> Answer:
    return Answer(status, {kind: {"code": status, "message": message}})


def number(micro: str) -> tuple[int, int]:
    major, _, minor = micro.partition(".")
    return int(major), int(minor)
