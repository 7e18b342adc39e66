"""A provider and a GitHub in memory that answer at once and tell of each call: only the service itself is measured."""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from app.core.model import Job, Run, Scope
from app.forges.contract import Credential, Delivery, Minted, Missed, Pace, RunnerOrder, RunnerView
from app.forges.github import GitHubForge
from providers.contract import Availability, Health, Instance, Need, Offer, Order, Phase, Secret, Traits
from tests.bench.deliveries import REPOSITORY, SECRET

Say = Callable[..., None]
"""`say("create", instance, user_data)`: told to whoever measures, with the time put in front."""


class Cloud:
    """Every machine is there at once and gone at once."""

    def __init__(self, say: Say, seeded: int) -> None:
        self.name, self.traits = "cloud", Traits(billing_minimum=timedelta(minutes=1), unique_names=True)
        self._say, self._numbers = say, itertools.count(1_000_000)
        now = datetime.now(UTC)  # noqa: TID251
        self._living = {f"i-{n}": Instance(f"i-{n}", f"seed-{n}", Phase.RUNNING, now, "sg") for n in range(seeded)}

    async def offers(self, need: Need) -> Sequence[Offer]:
        now = datetime.now(UTC)  # noqa: TID251
        price = Decimal("2.10")
        return [
            Offer("o-1", "cloud", "sg", price, "USD", now, availability=Availability.AVAILABLE, memory_gib=64, disk_gib=500)
        ]

    async def create(self, order: Order) -> Instance:
        made = Instance(f"i-{next(self._numbers)}", order.tag, Phase.RUNNING, datetime.now(UTC), "sg", key=order.key)  # noqa: TID251
        self._say("create", time.perf_counter(), made.id, order.user_data)
        self._living[made.id] = made
        return made

    async def get(self, instance_id: str) -> Instance | None:
        return self._living.get(instance_id)

    async def owned(self, owner: str) -> Sequence[Instance]:
        return list(self._living.values())

    async def destroy(self, instance_id: str) -> None:
        self._say("destroy", time.perf_counter(), instance_id)
        self._living.pop(instance_id, None)

    async def check(self) -> Health:
        return Health(True, "It is here.")

    async def aclose(self) -> None:
        """Nothing to close."""


class Hub:
    """GitHub's deliveries read by the real adapter; its API in memory, each call counted."""

    name, kind, always_2xx, single_use = "github", "github", False, True
    pinned = wide = reruns_in_place = False

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._real = GitHubForge(webhook_secret=Secret(SECRET), now=now, token=Secret("t"))
        self._numbers = itertools.count(1)
        self.calls: collections.Counter[str] = collections.Counter()

    def parse(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        return self._real.parse(headers, body)

    def unfit(self, labels: Sequence[str]) -> str:
        return self._real.unfit(labels)

    def fetch_job(self, job: Job) -> Job | None:
        self.calls["fetch_job"] += 1
        return job

    def fetch_run(self, job: Job) -> Run | None:
        self.calls["fetch_run"] += 1
        return Run("github", job.repository, job.run_id, job.attempt, "push", REPOSITORY, False, "ana")

    def open_jobs(self, place: str, installation: str = "") -> Sequence[Job]:
        self.calls["open_jobs"] += 1
        return []

    def repositories(self, owner: str, installation: str = "") -> Sequence[str]:
        return [REPOSITORY]

    def missed(self, since: datetime) -> Sequence[Missed]:
        self.calls["missed"] += 1
        return []

    def redeliver(self, missed: Missed) -> None:
        self.calls["redeliver"] += 1

    def pace(self) -> Pace:
        return Pace.STOP  # no poll: what it would list is not known to this forge

    def mint_runner(self, order: RunnerOrder) -> Minted:
        self.calls["mint_runner"] += 1
        return Minted(str(next(self._numbers)), Credential(("./run.sh",), {"RUNNER": Secret(order.name)}, ready="Listening"))

    def runner(self, scope: Scope, runner_id: str, installation: str = "") -> RunnerView | None:
        self.calls["runner"] += 1
        return None

    def runners(self, scope: Scope, prefix: str, installation: str = "") -> Sequence[RunnerView]:
        self.calls["runners"] += 1
        return []

    def job_started(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        """As at GitHub: no call."""

    def remove_runner(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        self.calls["remove_runner"] += 1

    def light_beacon(self, scope: Scope, labels: tuple[str, ...], known: Credential | None, runner_id: str) -> Minted | None:
        return None

    def check(self) -> str:
        return "It is here."
