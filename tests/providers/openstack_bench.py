"""The bench of `openstack`: the real openstacksdk against a small OpenStack on loopback, on a manual clock."""

import contextlib
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from providers.conformance import Fault, Missing
from providers.contract import Offer, Phase, Provider
from providers.openstack import OpenStackProvider, OpenStackSettings
from providers.sdk import sdk
from tests.providers.benches import Orders
from tests.providers.openstack_cloud import PASSWORD, TOKEN, OpenStackCloud, flavor
from tests.providers.stands import Stand, closing

PRICES = {"g-h100-1": Decimal("2.90"), "g-h100-8": Decimal("22.40"), "m1.large": Decimal("0.12")}
OFFER = f"RegionOne/{flavor('g-h100-1', 1, 1, {})['id']}"


class OpenStackBench(Stand[OpenStackProvider]):
    name = "openstack"
    faults: frozenset[Fault] = frozenset(Fault) - {Fault.PREEMPTED}  # OpenStack has nothing that is taken away
    states: Mapping[str, Phase] = {
        "ACTIVE": Phase.RUNNING,
        "BUILD": Phase.STARTING,
        "DELETED": Phase.ENDED,
        "ERROR": Phase.FAILED,
        "HARD_REBOOT": Phase.RUNNING,
        "MIGRATING": Phase.RUNNING,
        "PASSWORD": Phase.RUNNING,
        "PAUSED": Phase.STOPPED,
        "REBOOT": Phase.RUNNING,
        "REBUILD": Phase.UNKNOWN,
        "RESCUE": Phase.STOPPED,
        "RESIZE": Phase.UNKNOWN,
        "REVERT_RESIZE": Phase.UNKNOWN,
        "SHELVED": Phase.STOPPED,
        "SHELVED_OFFLOADED": Phase.STOPPED,
        "SHUTOFF": Phase.STOPPED,
        "SOFT_DELETED": Phase.DESTROYING,
        "SUSPENDED": Phase.STOPPED,
        "UNKNOWN": Phase.UNKNOWN,
        "VERIFY_RESIZE": Phase.UNKNOWN,
        "A_STATUS_OF_TOMORROW": Phase.UNKNOWN,
        "deleting": Phase.DESTROYING,
    }
    secrets: Sequence[str] = (PASSWORD, TOKEN, "hush-admin")
    crowd = 12

    def __init__(self, cloud: OpenStackCloud, folder: Path, **settings: Any) -> None:
        super().__init__()
        self.cloud, self.folder = cloud, folder
        given: dict[str, Any] = {"image": "ubuntu-24.04-cuda", "network": "ci", "prices": PRICES, **settings}
        self.settings = OpenStackSettings(cloud="lab", clouds_file=cloud.clouds_file(folder), **given)
        offer = Offer(OFFER, self.name, "RegionOne", Decimal("2.90"), "USD", self.clock.now(), gpu="h100", gpus=1)
        self.order = Orders(offer, now=self.clock.now())

    async def provider(self) -> Provider:
        return self.openstack()

    def openstack(self, **changes: Any) -> OpenStackProvider:
        return self.kept(OpenStackProvider(self.name, replace(self.settings, **changes), clock=self.clock))

    async def cause(self, fault: Fault) -> None:
        self.cloud.cause(fault)

    async def put(self, instance_id: str, state: str) -> None:
        self.cloud.put(instance_id.rpartition("/")[2], state)


@contextlib.asynccontextmanager
async def bench(*, newest: str = "2.96", **settings: Any) -> AsyncGenerator[OpenStackBench, None]:
    try:
        sdk("openstack.config", "openstack")
    except ValueError as missing:
        raise Missing(str(missing)) from None
    cloud = OpenStackCloud(newest=newest)
    await cloud.start()
    with tempfile.TemporaryDirectory(prefix="sublet-openstack-") as folder:
        try:
            async with closing(OpenStackBench(cloud, Path(folder), **settings)) as stand:
                yield stand
        finally:
            await cloud.stop()
