"""The bench of the `shadeform` provider: our stand-in for its API, on a clock that is moved by hand."""

import base64
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import Decimal

import httpx

from providers.conformance import Fault
from providers.contract import Offer, Phase, Secret
from providers.shadeform import ShadeformProvider, ShadeformSettings
from tests.providers.benches import LIFE, Orders
from tests.providers.shadeform_server import KEY, SOLD_OUT, ShadeformCloud
from tests.providers.stands import Stand, closing

CREATE = "/instances/create"
SETTINGS = ShadeformSettings(Secret(KEY))


class ShadeformBench(Stand[ShadeformProvider]):
    name = "shadeform"
    faults: frozenset[Fault] = frozenset(Fault)
    states: Mapping[str, Phase] = {
        "creating": Phase.STARTING,
        "pending_provider": Phase.STARTING,
        "pending": Phase.STARTING,
        "active": Phase.RUNNING,
        "error": Phase.FAILED,
        "deleting": Phase.DESTROYING,
        "deleted": Phase.ENDED,
    }
    secrets: Sequence[str] = (KEY, base64.b64encode(LIFE.encode()).decode()[:20])
    crowd = 12  # Shadeform's list has no pages

    def __init__(self) -> None:
        super().__init__()
        self.cloud = ShadeformCloud(self.clock)
        offer = Offer("hyperstack/canada-1/A6000", self.name, "canada-1", Decimal("0.50"), "USD", self.clock.now())
        self.order = Orders(offer, now=self.clock.now())

    async def provider(self) -> ShadeformProvider:
        return self.made(SETTINGS)

    def made(self, settings: ShadeformSettings) -> ShadeformProvider:
        return self.kept(ShadeformProvider(self.name, settings, clock=self.clock, transport=self.cloud))

    async def cause(self, fault: Fault) -> None:
        meet = self.cloud.meet
        match fault:
            case Fault.LOST_REPLY:
                meet(CREATE, None, reaches=True)
            case Fault.HALF_CREATED:
                meet(CREATE, httpx.Response(502, text="<h1>Bad gateway</h1>"), reaches=True)
            case Fault.NO_CAPACITY:
                meet(CREATE, httpx.Response(409, json=SOLD_OUT))
            case Fault.QUOTA:
                meet(CREATE, httpx.Response(400, json={"error_code": "QUOTA_EXCEEDED", "error": "no"}))
            case Fault.CREDENTIALS:
                meet(CREATE, httpx.Response(401, json={"error": "Unauthorized"}))
            case Fault.THROTTLED:
                meet(CREATE, httpx.Response(429, headers={"Retry-After": "1"}, json={"error": "slow down"}))
            case Fault.SERVER_ERROR:
                meet(CREATE, httpx.Response(500, json={"error": "internal"}))
            case Fault.MALFORMED:
                meet(CREATE, httpx.Response(200, json={}), reaches=True)
            case Fault.BROKEN_LIST:
                meet("/instances", httpx.Response(500, json={"error": "internal"}), times=3)
            case Fault.PREEMPTED:
                for instance_id in list(self.cloud.instances):
                    self.cloud.end(instance_id)

    async def put(self, instance_id: str, state: str) -> None:
        self.cloud.instances[instance_id]["status"] = state
        self.cloud.frozen.add(instance_id)

    async def pause(self) -> None:
        await super().pause()
        self.cloud.advance()


def bench() -> AbstractAsyncContextManager[ShadeformBench]:
    stand = ShadeformBench()
    return closing(stand, stand.cloud.complaints)
