"""A Vast.ai on loopback: asks, instances, pages and troubles; the vendor's description judges every exchange."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any

from aiohttp import web

from providers.clock import Clock
from tests.providers.vendor_spec import Spec

DESCRIPTION = "vast/vast.openapi.yaml"
KEY = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c"
OWN_KEY = "5d41402abc4b2a76b9719d911017c592ffffffff"  # what Vast gives a container for itself
CREATE = "paths/~1api~1v0~1asks~1{id}/put"
JUDGED: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "gte": operator.ge,
    "in": lambda value, many: value in many,
}
HANG = 0  # as a trouble's status: no answer until the client goes
LOADED, RUNNING = timedelta(seconds=1), timedelta(seconds=2)


@cache
def judge() -> Spec:
    """The description, with what the vendor's SDK shows that it has wrong or leaves out."""
    words = {"type": "string"}
    answer = f"{CREATE}/responses/200/content/application~1json/schema/properties"
    return Spec.load(DESCRIPTION).amended(
        {
            # The SDK and the guide send an object; the description has a text of Docker flags.
            f"{CREATE}/requestBody/content/application~1json/schema/properties/env": {
                "type": "object",
                "additionalProperties": words,
            },
            # The SDK reads these of a 200.
            f"{answer}/instance_api_key": words,
            f"{answer}/error": words,
            f"{answer}/msg": words,
            "paths/~1api~1v0~1users~1current/get/responses/200/content/application~1json/schema/properties/credit": {
                "type": "number"  # docs/api-reference/authentication
            },
        }
    )


@dataclass
class Trouble:
    """What the next fitting request meets instead, or after it had its effect."""

    method: str
    path: str  # how the path begins
    status: int | None  # None: the line breaks
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    reaches: bool = False
    after: int = 0  # so many fitting requests pass first
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what an instance that was made shows


def asks() -> list[dict[str, Any]]:
    base = {"gpu_frac": 1.0, "rentable": True, "rented": False, "verified": True, "external": False, "gpu_arch": "nvidia"}
    base |= {"cpu_arch": "amd64", "reliability": 0.995, "reliability2": 0.995, "duration": 864000, "disk_space": 900.0}
    base |= {"cuda_max_good": 12.8, "datacenter": False, "storage_cost": 0.15}

    def ask(number: int, gpu: str, count: int, ram: int, price: float, place: str, **more: Any) -> dict[str, Any]:
        told = {"id": number, "gpu_name": gpu, "num_gpus": count, "gpu_ram": ram, "dph_base": price, "geolocation": place}
        return {**base, **told, "min_bid": round(price / 2, 4), "machine_id": number // 10, "cpu_ram": 131072, **more}

    return [
        ask(7001, "H100 SXM", 1, 81559, 2.1, "Singapore, SG"),
        ask(7002, "H100 SXM", 8, 81559, 17.5, "Dubai, AE", datacenter=True),
        ask(7003, "RTX 4090", 1, 24564, 0.31, "Jakarta, ID", reliability=0.97),
        ask(7004, "H200", 2, 143771, 5.5, "Texas, US", gpu_frac=0.25, verified=False),
        ask(7005, "GH200 SXM", 1, 97871, 1.9, "MY", cpu_arch="arm64", duration=3600),
        ask(7006, "B200", 1, 183359, 3.7, "Somewhere", cuda_max_good=13.0),
    ]


class VastCloud:
    def __init__(self, clock: Clock, spec: Spec) -> None:
        self.clock, self.spec = clock, spec
        self.asks = asks()
        self.instances: dict[int, dict[str, Any]] = {}
        self.troubles: list[Trouble] = []
        self.seen: list[tuple[str, str]] = []
        self.sent: list[dict[str, Any]] = []  # bodies of the creates
        self.searches: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.credit = 25.5
        self.url = ""
        self.complaints: list[str] = []
        self.judged: set[str] = set()
        self._numbers = itertools.count(31_000_001)

    def trouble(self, method: str, path: str, status: int | None, body: Any = None, **rest: Any) -> None:
        self.troubles.append(Trouble(method, path, status, body, **rest))

    async def start(self) -> web.AppRunner:
        app = web.Application(client_max_size=2**20)
        app.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server: Any = site._server  # pyright: ignore[reportPrivateUsage]  the port that the system chose
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return runner

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        method, path = request.method, request.path.rstrip("/")
        text = await request.text()
        body: Any = json.loads(text) if text else None
        self.seen.append((method, path))
        self.headers.append(dict(request.headers))
        try:
            self.spec.request(method, path, dict(request.query), body)
        except AssertionError as error:
            self.complaints.append(str(error))  # the bench fails by it in the end; here it would only be a 500
        trouble = next((one for one in self.troubles if one.method == method and path.startswith(one.path)), None)
        if trouble is not None and trouble.after:
            trouble.after -= 1
            trouble = None
        elif trouble is not None:
            self.troubles.remove(trouble)
        status, answer, headers = 200, None, dict[str, str]()
        if trouble is None or trouble.reaches:
            status, answer = self._answer(request, method, path, body, trouble)
            self._judge(method, path, status, answer)
        if trouble is not None:
            if trouble.status == HANG:
                await asyncio.Event().wait()
            if trouble.status is None:
                if request.transport is not None:
                    request.transport.close()
                await asyncio.sleep(0)
                raise web.HTTPInternalServerError
            made = answer["new_contract"] if trouble.body == "contract" and answer else None
            status, headers = trouble.status, dict(trouble.headers)
            answer = trouble.body
            if made is not None:
                answer = {"success": False, "error": "bid_too_low", "msg": "your bid is too low", "new_contract": made}
            if isinstance(answer, dict) and (made is None or status == 200):  # the description's errors name no contract
                self._judge(method, path, status, answer)
        if isinstance(answer, bytes):
            return web.Response(status=status, body=answer, headers=headers)
        return web.json_response(answer, status=status, headers=headers)

    def _judge(self, method: str, path: str, status: int, answer: Any) -> None:
        mark = json.dumps([method, path.rstrip("0123456789"), status, answer], sort_keys=True)
        if mark in self.judged:
            return
        self.judged.add(mark)
        try:
            self.spec.response(method, path, status, answer)
        except AssertionError as error:
            self.complaints.append(str(error))

    def _answer(
        self, request: web.Request, method: str, path: str, body: Any, trouble: Trouble | None
    ) -> tuple[int, dict[str, Any]]:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return 401, {"success": False, "error": "auth_error", "msg": "Invalid user key"}
        kind, _, number = path.removeprefix("/api/v0/").removeprefix("/api/v1/").partition("/")
        match method, kind:
            case "POST", "bundles":
                self.searches.append(body)
                return 200, {"offers": self._search(body)}
            case "GET", "users":
                return 200, {"id": 123456, "email": "you@example.com", "balance": 0.0, "credit": self.credit}
            case "GET", "instances":
                return 200, self._page(request)
            case "PUT", "asks":
                self.sent.append(body)
                return self._create(int(number), body, trouble)
            case "DELETE", "instances":
                if self.instances.pop(int(number), None) is None:
                    return 404, {"success": False, "error": "not_found", "msg": "Instance not found"}
                return 200, {"success": True, "msg": "Instance destroyed successfully"}
            case _:
                raise AssertionError(f"{method} {path} is not in this fake")

    def _search(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        spot, storage = query["type"] == "bid", query["allocated_storage"]
        rows: list[dict[str, Any]] = []
        for ask in self.asks:
            rules: dict[str, Any] = {column: rule for column, rule in query.items() if isinstance(rule, dict)}
            if not all(_fits(ask, column, rule) for column, rule in rules.items()):
                continue
            disk = ask["storage_cost"] * storage / 730
            gpu = ask["min_bid"] if spot else ask["dph_base"]
            rows.append({**ask, "storage_total_cost": disk, "dph_total": gpu + disk, "is_bid": spot})
        return sorted(rows, key=lambda row: (row["dph_total"], row["id"]))[: query["limit"]]

    def _create(self, ask: int, body: dict[str, Any], trouble: Trouble | None) -> tuple[int, dict[str, Any]]:
        found = next((one for one in self.asks if one["id"] == ask and one["rentable"]), None)
        if found is None:
            said = f"error 404/3603: no_such_ask Instance type by id {ask} is not available."
            return 404, {"success": False, "error": "invalid_args", "msg": said, "ask_id": ask}
        number = next(self._numbers)
        self.instances[number] = {
            "id": number,
            "label": body.get("label"),
            "intended_status": "running",
            "cur_state": "running",
            "status_msg": None,
            "is_bid": "price" in body,
            "start_date": self.clock.now().timestamp(),
            "geolocation": found["geolocation"],
            "extra_env": [[key, value] for key, value in body["env"].items()],
            "onstart": body.get("onstart"),
            "jupyter_token": OWN_KEY,
            "image_uuid": body["image"],
            **(trouble.state if trouble is not None else {}),
        }
        return 200, {"success": True, "new_contract": number, "instance_api_key": OWN_KEY}

    def _page(self, request: web.Request) -> dict[str, Any]:
        filters = json.loads(request.query["select_filters"])
        rows = [row for _, row in sorted(self.instances.items()) if all(_fits(row, *one) for one in filters.items())]
        first = int(base64.b64decode(request.query["after_token"])) if "after_token" in request.query else 0
        rest = [row for row in rows if row["id"] > first]
        page = rest[: min(int(request.query["limit"]), 25)]
        token = base64.b64encode(str(page[-1]["id"]).encode()).decode() if len(rest) > len(page) else None
        columns = json.loads(request.query["select_cols"])
        shown = [{column: self._shown(row).get(column) for column in columns} for row in page]
        return {
            "success": True,
            "instances_found": len(page),
            "total_instances": len(rows),
            "next_token": token,
            "instances": shown,
        }

    def _shown(self, row: dict[str, Any]) -> dict[str, Any]:
        age = self.clock.now().timestamp() - row["start_date"]
        grown = None if age < LOADED.total_seconds() else "loading" if age < RUNNING.total_seconds() else "running"
        return {"actual_status": grown, **row}


def _fits(row: Mapping[str, Any], column: str, rule: Mapping[str, Any]) -> bool:
    value = row.get(column)
    if column == "geolocation":
        value = str(value).rpartition(", ")[2]
    return all(JUDGED[word](value, wanted) for word, wanted in rule.items())
