"""The bench of `aws`: moto in process behind the vendor's own SDK."""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from typing import Any

from providers.aws import AwsProvider, AwsSettings
from providers.conformance import Fault
from providers.contract import Offer, Order, Phase, Provider, Secret
from tests.providers.aws_cloud import LIST, REGIONS, RUN, Cloud, Trip, cloud, error
from tests.providers.benches import Orders
from tests.providers.stands import Stand, closing

B300 = "p6-b300.48xlarge"  # in three zones of Jakarta, as moto's copy of AWS's offerings has it
H200 = "p5en.48xlarge"  # in two of Jakarta and two of the UAE
HOME = REGIONS[0]
SECRETS = (f"secret-{secrets.token_hex(12)}", f"session-{secrets.token_hex(12)}")
REFUSALS: Mapping[Fault, tuple[int, str]] = {
    Fault.QUOTA: (400, "VcpuLimitExceeded"),
    Fault.CREDENTIALS: (401, "AuthFailure"),
    Fault.THROTTLED: (503, "RequestLimitExceeded"),
    Fault.SERVER_ERROR: (500, "InternalError"),
}


class AwsBench(Stand[AwsProvider]):
    name = "aws"
    faults: frozenset[Fault] = frozenset(Fault)
    states: Mapping[str, Phase] = {
        "pending": Phase.STARTING,
        "running": Phase.RUNNING,
        "shutting-down": Phase.DESTROYING,
        "stopping": Phase.STOPPED,
        "stopped": Phase.STOPPED,
        "terminated": Phase.ENDED,
    }
    crowd = 7  # a page holds five

    def __init__(self, cloud: Cloud, **settings: Any) -> None:
        super().__init__()
        self.cloud = cloud
        self.secrets: Sequence[str] = SECRETS
        given: dict[str, Any] = {
            "subnets": cloud.subnets,
            "access_key_id": "AKIAIOSFODNN7EXAMPLE",
            "secret_access_key": Secret(self.secrets[0]),
            "session_token": Secret(self.secrets[1]),
            "images": cloud.images,
            "types": (B300, H200),
            "prices": {B300: Decimal("142.42"), H200: Decimal("63.296")},
        }
        self.settings = AwsSettings(**(given | settings))
        offer = Offer(f"{HOME}/{B300}", self.name, HOME, Decimal("142.42"), "USD", self.clock.now(), type=B300)
        self.order = Orders(offer, now=self.clock.now())
        for zone in ("a", "b", "c"):
            cloud.wire.spot[f"{HOME}{zone}", B300] = "60.5"

    async def provider(self) -> Provider:
        return self.aws()

    def aws(self) -> AwsProvider:
        cloud = self.cloud
        return self.kept(
            AwsProvider(self.name, self.settings, clock=self.clock, session=cloud.session, endpoint=cloud.endpoint, page=5)
        )

    def trip(
        self, action: str, status: int | None, body: bytes = b"", *, reaches: bool = False, times: int = 1, region: str = ""
    ) -> None:
        self.cloud.wire.trips.append(Trip(action, status, body, reaches, times, region))

    async def cause(self, fault: Fault) -> None:
        match fault:
            case Fault.LOST_REPLY:
                self.trip(RUN, None, reaches=True)
            case Fault.HALF_CREATED:
                self.trip(RUN, 500, error("InternalError"), reaches=True)
            case Fault.MALFORMED:
                self.trip(RUN, 200, b"<RunInstancesResponse><instancesSet><item>", reaches=True)
            case Fault.NO_CAPACITY:
                self.cloud.short |= {(B300, f"{HOME}{zone}") for zone in "abc"}
            case Fault.BROKEN_LIST:
                self.trip(LIST, 500, error("InternalError"), times=3, region=HOME)
            case Fault.PREEMPTED:
                for instance in self.cloud.instances(self.order.owner):
                    self.cloud.take_back(instance)
            case _:
                status, code = REFUSALS[fault]
                self.trip(RUN, status, error(code, "You are not authorized, or too much, or both."))

    async def put(self, instance_id: str, state: str) -> None:
        self.cloud.put(instance_id, state)

    def another(self, **changes: Any) -> Order:
        """A new order of another offer: `region`, `kind` and `spot`."""
        region, kind, spot = changes.get("region", HOME), changes.get("kind", B300), changes.get("spot", False)
        offer = Offer(
            f"{region}/{kind}{'/spot' if spot else ''}",
            self.name,
            region,
            Decimal(1),
            "USD",
            self.clock.now(),
            type=kind,
            spot=spot,
        )
        order = self.order()
        return Order(offer, order.key, order.tag, order.owner, order.user_data, order.ends_at, changes.get("image"))

    async def aclose(self) -> None:
        await super().aclose()
        self.cloud.reset()


def bench() -> AbstractAsyncContextManager[AwsBench]:
    return closing(AwsBench(cloud()))
