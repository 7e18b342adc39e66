"""The bench of `nebius`: the real SDK against a small Nebius on loopback, on a manual clock."""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from providers.conformance import Fault, Missing
from providers.contract import Offer, Phase, Provider, Secret
from providers.nebius import NebiusProvider, NebiusSettings
from tests.providers.benches import ManualClock, Orders

try:
    from tests.providers import nebius_cloud as world
except ValueError as missing:  # the SDK is an extra
    world, absent = None, str(missing)

OFFER = "me-west1/gpu-b200-sxm-a/1gpu-20vcpu-224gb/spot"


class NebiusBench:
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
        self.cloud = cloud
        self.secrets: Sequence[str] = (cloud.token,)
        self.clock = ManualClock()
        given: dict[str, Any] = {"projects": {"me-west1": cloud.project}, "token": Secret(cloud.token), **settings}
        self.settings = NebiusSettings(**given)
        offer = Offer(
            OFFER, self.name, "me-west1", Decimal("2.20"), "USD", self.clock.now(), gpu="gpu-b200-sxm-a", gpus=1, spot=True
        )
        self.order = Orders(offer, now=self.clock.now())
        self._providers: list[NebiusProvider] = []

    async def provider(self) -> Provider:
        return self.nebius()

    def nebius(self, settings: NebiusSettings | None = None) -> NebiusProvider:
        provider = NebiusProvider(self.name, settings or self.settings, clock=self.clock, endpoint=self.cloud.endpoint)
        self._providers.append(provider)
        return provider

    async def cause(self, fault: Fault) -> None:
        self.cloud.cause(fault)

    async def put(self, instance_id: str, state: str) -> None:
        self.cloud.put_named(instance_id, state)

    async def pause(self) -> None:
        await self.clock.sleep(1)

    async def aclose(self) -> None:
        for provider in self._providers:
            await provider.aclose()


@contextlib.asynccontextmanager
async def bench(**settings: Any) -> AsyncGenerator[NebiusBench, None]:
    if world is None:
        raise Missing(absent)
    cloud = world.NebiusCloud()
    await cloud.start()
    stand = NebiusBench(cloud, **settings)
    try:
        yield stand
    finally:
        await stand.aclose()
        await cloud.stop()
