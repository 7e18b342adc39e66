"""The bench of Vast: the real wrapper and the vendor's SDK on a Vast on loopback that the vendor's own description judges."""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from providers.conformance import Fault
from providers.contract import ImageLogin, Offer, Order, Phase, Provider, Secret
from providers.vast import VastProvider, VastSettings
from tests.providers.benches import Orders
from tests.providers.stands import Stand, closing
from tests.providers.vast_cloud import KEY, OWN_KEY, VastCloud, judge

IMAGE = "ghcr.io/example/runner@sha256:" + "5e" * 32
PASSWORD = "ghs_shortLivedPullTokenOfARegistry"
STATES: Mapping[str, tuple[Mapping[str, Any], Phase]] = {
    "null": ({"actual_status": None}, Phase.STARTING),
    "created": ({"actual_status": "created"}, Phase.STARTING),
    "created, broken": ({"actual_status": "created", "status_msg": "x: OCI runtime create failed: y"}, Phase.FAILED),
    "loading": ({"actual_status": "loading"}, Phase.STARTING),
    "scheduling": ({"actual_status": "scheduling"}, Phase.STARTING),
    "rebooting": ({"actual_status": "rebooting"}, Phase.STARTING),
    "running": ({"actual_status": "running"}, Phase.RUNNING),
    "stopped": ({"actual_status": "stopped"}, Phase.STOPPED),
    "frozen": ({"actual_status": "frozen"}, Phase.STOPPED),
    "exited": ({"actual_status": "exited"}, Phase.STOPPED),
    "offline": ({"actual_status": "offline"}, Phase.FAILED),
    "unknown": ({"actual_status": "unknown"}, Phase.UNKNOWN),
    "a new word": ({"actual_status": "hibernating"}, Phase.UNKNOWN),
    "out of credit": ({"actual_status": "exited", "intended_status": "stopped", "cur_state": "stopped"}, Phase.STOPPED),
    "intended to be frozen": ({"actual_status": "running", "intended_status": "frozen"}, Phase.STOPPED),
    "contract stopped": ({"actual_status": "running", "cur_state": "stopped"}, Phase.STOPPED),
    "unloaded": ({"actual_status": "exited", "cur_state": "unloaded"}, Phase.ENDED),
}


class VastBench(Stand[VastProvider]):
    name = "vast"
    faults: frozenset[Fault] = frozenset(Fault) - {Fault.QUOTA}  # the description has no answer for a quota
    states: Mapping[str, Phase] = {name: phase for name, (_, phase) in STATES.items()}
    secrets: Sequence[str] = (KEY, OWN_KEY, PASSWORD)
    crowd = 27  # a page has 25

    def __init__(self) -> None:
        super().__init__()
        self.cloud = VastCloud(self.clock, judge())
        self.orders = Orders(self.offer(), now=self.clock.now(), image=IMAGE)

    def order(self) -> Order:
        return replace(self.orders(), login=ImageLogin("ghcr.io", Secret(PASSWORD), "puller"))

    def offer(self, offer_id: str = "7001", price: str = "2.2", region: str = "SG") -> Offer:
        return Offer(offer_id, self.name, region, Decimal(price), "USD", self.clock.now(), spot="/bid/" in offer_id)

    async def provider(self) -> Provider:
        return self.vast()

    def vast(self, **values: Any) -> VastProvider:
        return self.kept(VastProvider(self.name, VastSettings(Secret(KEY), url=self.cloud.url, **values), clock=self.clock))

    async def cause(self, fault: Fault) -> None:
        trouble, asks, listing = self.cloud.trouble, "/api/v0/asks", "/api/v1/instances"
        match fault:
            case Fault.LOST_REPLY:
                trouble("PUT", asks, None, reaches=True)
            case Fault.HALF_CREATED:  # and what was made cannot be destroyed at once
                trouble("PUT", asks, 200, "contract", reaches=True, state={"cur_state": "stopped", "actual_status": None})
                trouble("DELETE", "/api/v0/instances", 500, b"")
            case Fault.NO_CAPACITY:
                said = "error 410/3907: no_such_ask Instance type 7001 is no longer available."
                trouble("PUT", asks, 410, {"success": False, "error": "no_such_ask", "msg": said, "ask_id": 7001})
            case Fault.CREDENTIALS:
                trouble("PUT", asks, 401, {"success": False, "error": "auth_error", "msg": f"Invalid user key {KEY}"})
            case Fault.THROTTLED:
                trouble("PUT", asks, 429, b"API requests too frequent: endpoint threshold=4.5", headers={"Retry-After": "5"})
            case Fault.SERVER_ERROR:
                trouble("PUT", asks, 502, b"<html>bad gateway</html>")
            case Fault.MALFORMED:
                trouble("PUT", asks, 200, b'{"success": tr', reaches=True)
            case Fault.BROKEN_LIST:
                for _ in range(3):  # a read is tried three times
                    trouble("GET", listing, 500, b"")
            case Fault.PREEMPTED:
                for row in self.cloud.instances.values():
                    row |= {"actual_status": "exited", "cur_state": "stopped"}
            case _:
                raise AssertionError(fault)

    async def put(self, instance_id: str, state: str) -> None:
        self.cloud.instances[int(instance_id)] |= STATES[state][0]


@contextlib.asynccontextmanager
async def bench() -> AsyncGenerator[VastBench, None]:
    stand = VastBench()
    runner = await stand.cloud.start()
    try:
        async with closing(stand, stand.cloud.complaints):
            yield stand
    finally:
        await runner.cleanup()
