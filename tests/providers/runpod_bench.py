"""The bench of RunPod: the real wrapper on a RunPod in memory that the vendor's own description judges."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from decimal import Decimal

from providers.conformance import Fault
from providers.contract import ImageLogin, Offer, Order, Phase, Provider, Secret
from providers.runpod import RunPodProvider, RunPodSettings
from tests.providers.benches import Orders
from tests.providers.runpod_cloud import KEY, RunPodCloud, judge
from tests.providers.stands import Stand, closing

IMAGE = "ghcr.io/example/runner@sha256:" + "5e" * 32
PASSWORD = "ghs_shortLivedPullTokenOfARegistry"


class RunPodBench(Stand[RunPodProvider]):
    name = "runpod"
    faults: frozenset[Fault] = frozenset(Fault) - {Fault.QUOTA}  # the description has no answer for a quota
    states: Mapping[str, Phase] = {
        "PROVISIONING": Phase.STARTING,
        "STARTING": Phase.STARTING,
        "RUNNING": Phase.RUNNING,
        "EXITED": Phase.STOPPED,
        "ERROR": Phase.FAILED,
        "TERMINATED": Phase.ENDED,
        "A_NEW_WORD": Phase.UNKNOWN,
    }
    secrets: Sequence[str] = (KEY, PASSWORD)
    crowd = 12  # the listing has no pages

    def __init__(self, settings: RunPodSettings | None = None) -> None:
        super().__init__()
        self.cloud = RunPodCloud(self.clock, judge())
        self.settings = settings or RunPodSettings(Secret(KEY))
        self.orders = Orders(self.offer(), now=self.clock.now(), image=IMAGE)

    def order(self) -> Order:
        return with_login(self.orders())

    def offer(self, offer_id: str = "secure/AP-JP-1/1/NVIDIA H100 80GB HBM3") -> Offer:
        _, place, count, gpu = offer_id.split("/", 3)
        return Offer(offer_id, self.name, place, RATE, "USD", self.clock.now(), gpu=gpu, gpus=int(count))

    async def provider(self) -> Provider:
        return self.runpod()

    def runpod(self, settings: RunPodSettings | None = None) -> RunPodProvider:
        return self.kept(RunPodProvider(self.name, settings or self.settings, clock=self.clock, transport=self.cloud))

    async def cause(self, fault: Fault) -> None:
        trouble = self.cloud.trouble
        match fault:
            case Fault.LOST_REPLY:
                trouble("POST", "/v2/pods", None, reaches=True)
            case Fault.HALF_CREATED:
                trouble("POST", "/v2/pods", 500, "upstream failed", reaches=True, state="ERROR")
            case Fault.NO_CAPACITY:
                self.cloud.sell_out()
            case Fault.CREDENTIALS:
                trouble("POST", "/v2/pods", 401, f"the key {KEY} is not valid")
            case Fault.THROTTLED:
                trouble("POST", "/v2/pods", 429, "rate limit exceeded for the minute window", headers={"Retry-After": "1"})
            case Fault.SERVER_ERROR:
                trouble("POST", "/v2/pods", 503, "upstream failed")
            case Fault.MALFORMED:
                trouble("POST", "/v2/pods", 201, b'{"id": ', reaches=True)
            case Fault.BROKEN_LIST:
                for _ in range(3):  # a read is tried three times
                    trouble("GET", "/v2/pods", 500, "upstream failed")
            case Fault.PREEMPTED:
                self.cloud.forced |= dict.fromkeys(self.cloud.pods, "EXITED")
            case _:
                raise AssertionError(fault)

    async def put(self, instance_id: str, state: str) -> None:
        self.cloud.forced[instance_id] = state


RATE = Decimal("2.7")


def with_login(order: Order, username: str = "puller") -> Order:
    return replace(order, login=ImageLogin("ghcr.io", Secret(PASSWORD), username))


def bench() -> AbstractAsyncContextManager[RunPodBench]:
    stand = RunPodBench()
    return closing(stand, stand.cloud.complaints)
