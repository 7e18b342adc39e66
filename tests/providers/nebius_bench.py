"""The bench of `nebius`: the real SDK against a small Nebius on loopback, on a manual clock."""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from providers.conformance import Fault, Missing
from providers.contract import Offer, Phase, Provider, Secret
from providers.nebius import NebiusProvider, NebiusSettings
from tests.providers.benches import Orders
from tests.providers.stands import Stand, closing

try:
    from tests.providers import nebius_cloud as world
except ValueError as missing:  # the SDK is an extra
    world, absent = None, str(missing)

OFFER = "me-west1/gpu-b200-sxm-a/1gpu-20vcpu-224gb/spot"


class NebiusBench(Stand[NebiusProvider]):
    name = "nebius"
    faults: frozenset[Fault] = frozenset(Fault)
    states: Mapping[str, Phase] = {
        "UNSPECIFIED": Phase.UNKNOWN,
        "CREATING": Phase.STARTING,
        "UPDATING": Phase.UNKNOWN,
        "STARTING": Phase.STARTING,
        "RUNNING": Phase.RUNNING,
        "STOPPING": Phase.STOPPED,
        "STOPPED": Phase.STOPPED,
        "ERROR": Phase.FAILED,
        "DELETING": Phase.DESTROYING,
    }
    crowd = 12

    def __init__(self, cloud: Any, **settings: Any) -> None:
        super().__init__()
        self.cloud = cloud
        self.secrets: Sequence[str] = (cloud.token,)
        given: dict[str, Any] = {"projects": {"me-west1": cloud.project}, "token": Secret(cloud.token), **settings}
        self.settings = NebiusSettings(**given)
        offer = Offer(
            OFFER, self.name, "me-west1", Decimal("2.20"), "USD", self.clock.now(), gpu="gpu-b200-sxm-a", gpus=1, spot=True
        )
        self.order = Orders(offer, now=self.clock.now())

    async def provider(self) -> Provider:
        return self.nebius()

    def nebius(self, settings: NebiusSettings | None = None) -> NebiusProvider:
        return self.kept(NebiusProvider(self.name, settings or self.settings, clock=self.clock, endpoint=self.cloud.endpoint))

    async def cause(self, fault: Fault) -> None:
        self.cloud.cause(fault)

    async def put(self, instance_id: str, state: str) -> None:
        self.cloud.put_named(instance_id, state)


@contextlib.asynccontextmanager
async def bench(**settings: Any) -> AsyncGenerator[NebiusBench, None]:
    if world is None:
        raise Missing(absent)
    cloud = world.NebiusCloud()
    await cloud.start()
    try:
        async with closing(NebiusBench(cloud, **settings)) as stand:
            yield stand
    finally:
        await cloud.stop()
