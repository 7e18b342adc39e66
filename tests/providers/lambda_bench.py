"""The bench of the `lambda` provider: our stand-in for its API, on a clock that is moved by hand."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import Decimal

import httpx

from providers.conformance import Fault
from providers.contract import Offer, Phase, Secret
from providers.lambda_cloud import LambdaProvider, LambdaSettings
from tests.providers.benches import Orders
from tests.providers.lambda_server import JUPYTER, KEY, LambdaCloud, OrderlyClock
from tests.providers.stands import Stand, closing

LAUNCH = "/instance-operations/launch"
SETTINGS = LambdaSettings(Secret(KEY), "ci")


class LambdaBench(Stand[LambdaProvider]):
    name = "lambda"
    faults: frozenset[Fault] = frozenset(Fault)
    states: Mapping[str, Phase] = {
        "booting": Phase.STARTING,
        "active": Phase.RUNNING,
        "unhealthy": Phase.UNKNOWN,
        "terminating": Phase.DESTROYING,
        "terminated": Phase.ENDED,
        "preempted": Phase.STOPPED,
    }
    secrets: Sequence[str] = (KEY, JUPYTER)
    crowd = 12  # Lambda's list has no pages

    def __init__(self) -> None:
        super().__init__(OrderlyClock())
        self.cloud = LambdaCloud(self.clock)
        offer = Offer("us-west-1/gpu_1x_h100_sxm5", self.name, "us-west-1", Decimal("3.29"), "USD", self.clock.now())
        self.order = Orders(offer, now=self.clock.now())

    async def provider(self) -> LambdaProvider:
        return self.made(SETTINGS)

    def made(self, settings: LambdaSettings) -> LambdaProvider:
        return self.kept(LambdaProvider(self.name, settings, clock=self.clock, transport=self.cloud))

    async def cause(self, fault: Fault) -> None:
        cloud, meet = self.cloud, self.cloud.meet
        match fault:
            case Fault.LOST_REPLY:
                meet(LAUNCH, None, reaches=True)
            case Fault.HALF_CREATED:
                meet(LAUNCH, cloud.error(500, "global/internal-error"), reaches=True)
            case Fault.NO_CAPACITY:
                meet(LAUNCH, cloud.error(400, "instance-operations/launch/insufficient-capacity"))
            case Fault.QUOTA:
                meet(LAUNCH, cloud.error(400, "global/quota-exceeded"))
            case Fault.CREDENTIALS:
                meet(LAUNCH, cloud.error(401, "global/invalid-api-key"))
            case Fault.THROTTLED:
                meet(LAUNCH, httpx.Response(429, headers={"Retry-After": "1"}, json={}))
            case Fault.SERVER_ERROR:
                meet(LAUNCH, cloud.error(500, "global/internal-error"))
            case Fault.MALFORMED:
                meet(LAUNCH, httpx.Response(200, json={"data": {}}), reaches=True)
            case Fault.BROKEN_LIST:
                meet("/instances", cloud.error(500, "global/internal-error"), times=3)
            case Fault.PREEMPTED:
                for row in cloud.instances.values():
                    row["status"] = "preempted"

    async def put(self, instance_id: str, state: str) -> None:
        self.cloud.instances[instance_id]["status"] = state
        self.cloud.frozen.add(instance_id)

    async def pause(self) -> None:
        await super().pause()
        self.cloud.advance()


def bench() -> AbstractAsyncContextManager[LambdaBench]:
    stand = LambdaBench()
    return closing(stand, stand.cloud.complaints)
