"""The bench of the `shadeform` provider: our stand-in for its API, on a clock that is moved by hand."""

import base64
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from decimal import Decimal

import httpx

from providers.conformance import Fault
from providers.contract import Offer, Phase, Secret
from providers.shadeform import ShadeformProvider, ShadeformSettings
from tests.providers import shadeform_server
from tests.providers.benches import LIFE, ManualClock, Orders
from tests.providers.shadeform_server import KEY, SOLD_OUT, ShadeformCloud

CREATE = "/instances/create"
SETTINGS = ShadeformSettings(Secret(KEY))


class ShadeformBench:
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
        self.clock = ManualClock()
        self.cloud = ShadeformCloud(self.clock)
        offer = Offer("hyperstack/canada-1/A6000", self.name, "canada-1", Decimal("0.50"), "USD", self.clock.now())
        self.order = Orders(offer, now=self.clock.now())
        self._providers: list[ShadeformProvider] = []

    async def provider(self) -> ShadeformProvider:
        return self.made(SETTINGS)

    def made(self, settings: ShadeformSettings) -> ShadeformProvider:
        provider = ShadeformProvider(self.name, settings, clock=self.clock, transport=self.cloud)
        self._providers.append(provider)
        return provider

    def meet(self, path: str, answer: httpx.Response | None, *, reaches: bool = False, times: int = 1) -> None:
        """The next request of this path gets this answer; none: it is lost."""
        self.cloud.faults.append(shadeform_server.Fault(path, answer, reaches, times))

    async def cause(self, fault: Fault) -> None:
        match fault:
            case Fault.LOST_REPLY:
                self.meet(CREATE, None, reaches=True)
            case Fault.HALF_CREATED:
                self.meet(CREATE, httpx.Response(502, text="<h1>Bad gateway</h1>"), reaches=True)
            case Fault.NO_CAPACITY:
                self.meet(CREATE, httpx.Response(409, json=SOLD_OUT))
            case Fault.QUOTA:
                self.meet(CREATE, httpx.Response(400, json={"error_code": "QUOTA_EXCEEDED", "error": "no"}))
            case Fault.CREDENTIALS:
                self.meet(CREATE, httpx.Response(401, json={"error": "Unauthorized"}))
            case Fault.THROTTLED:
                self.meet(CREATE, httpx.Response(429, headers={"Retry-After": "1"}, json={"error": "slow down"}))
            case Fault.SERVER_ERROR:
                self.meet(CREATE, httpx.Response(500, json={"error": "internal"}))
            case Fault.MALFORMED:
                self.meet(CREATE, httpx.Response(200, json={}), reaches=True)
            case Fault.BROKEN_LIST:
                self.meet("/instances", httpx.Response(500, json={"error": "internal"}), times=3)
            case Fault.PREEMPTED:
                for instance_id in list(self.cloud.instances):
                    self.cloud.end(instance_id)

    async def put(self, instance_id: str, state: str) -> None:
        self.cloud.instances[instance_id]["status"] = state
        self.cloud.frozen.add(instance_id)

    async def pause(self) -> None:
        await self.clock.sleep(1)
        self.cloud.advance()

    async def aclose(self) -> None:
        for provider in self._providers:
            await provider.aclose()


@contextlib.asynccontextmanager
async def bench() -> AsyncGenerator[ShadeformBench, None]:
    """In the end, nothing may have been sent or answered that Shadeform's description does not have."""
    stand = ShadeformBench()
    try:
        yield stand
        assert not stand.cloud.complaints, stand.cloud.complaints
    finally:
        await stand.aclose()
