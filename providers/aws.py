"""Each instance an EC2 instance of AWS, on demand or one-time spot, in all regions of the settings, through boto3.

Owner, tag, key and end time are tags inside the one RunInstances call, which also carries a token that EC2 honours. An
instance's id is "REGION/i-…", so that it is found again with one call. Fields and codes are those of botocore's own
description of EC2.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from providers.aws_api import Account
from providers.aws_errors import Absent, Passed
from providers.aws_launch import KEY, OWNER, TAG, Launcher, tags_of
from providers.aws_offers import NOTICE, Catalogue
from providers.aws_settings import REGION, AwsSettings, split_offer
from providers.clock import SYSTEM, Clock
from providers.contract import (
    Health,
    Instance,
    Need,
    Offer,
    Order,
    Phase,
    Profile,
    Refused,
    Traits,
    Unclear,
    Why,
    guarded,
    vet,
)
from providers.http import table, tables
from providers.regions import image_at, looked, place_of, whole

PHASES: Mapping[str, Phase] = {
    "pending": Phase.STARTING,
    "running": Phase.RUNNING,
    "shutting-down": Phase.DESTROYING,
    "stopping": Phase.STOPPED,  # its disks are billed on
    "stopped": Phase.STOPPED,
    "terminated": Phase.ENDED,  # EC2 shows the record for about an hour
}
TAKEN = frozenset({"Server.SpotInstanceTermination", "Server.SpotInstanceShutdown"})
"""The state reasons of an instance that AWS took back (EC2, StateReason)."""
INSTANCE_ID = re.compile(r"i-[0-9a-f]{8}(?:[0-9a-f]{9})?")
WHEN = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")
PAGE = 1000  # DescribeInstances gives at most so many

PROFILE = Profile(
    hardware="B300 and GB200 (p6-b300, p6e-gb200), in the SDK of 2026-11; no Rubin named there",
    footprint="regions on six continents, among them Jakarta, Singapore, Kuala Lumpur, Bangkok, UAE, Bahrain and Tel Aviv",
    own_keys="yes: disks with a KMS key of the customer",
    audit_logs="yes: CloudTrail",
    residency="an instance and its disks stay in the region that they were made in",
    pricing="per second, at least 60 s (Linux); from the price list, the spot price history, or your settings",
    preemption="spot only, with a notice of two minutes on the instance",
    proven_against="vendor model: moto 5.2 behind the vendor's SDK (boto3 1.44), with create tokens and shortages added",
    source="the EC2 user guide, botocore 1.44.5 and its service description, 2026-11",
)


class AwsProvider:
    """See the module."""

    Settings = AwsSettings

    def __init__(
        self,
        name: str,
        settings: AwsSettings,
        *,
        clock: Clock = SYSTEM,
        session: Any = None,
        endpoint: str | None = None,
        page: int = PAGE,
    ) -> None:
        """`session`, `endpoint` and `page` are for tests. Raises ValueError where boto3 or the named profile is missing."""
        self.name = name
        self.settings = settings
        self.traits = Traits(
            billing_granularity=timedelta(seconds=1),
            billing_minimum=timedelta(seconds=60),  # EC2 user guide: Linux, on demand and spot
            spot=settings.spot,
            spot_notice=NOTICE if settings.spot else None,
            idempotent_create=True,
            unknown_window=timedelta(minutes=2),  # EC2 is eventually consistent; it names no bound
            user_data_limit=16384,  # bytes before base64 (EC2 user guide, "User data")
            tag_limit=63,  # AWS takes 256
            creates_per_minute=120,
            offers_every=timedelta(seconds=60),
            profile=PROFILE,
            notes={
                "power-off": "an instance that powers itself off is terminated, and its bill ends",
                "zones": "one create asks the zones of its region one after the other",
            },
        )
        self._page = page
        self._account = Account(name, settings, clock=clock, session=session, endpoint=endpoint)
        self._catalogue = Catalogue(name, settings, self._account, clock)
        self._launcher = Launcher(settings, self._account)

    async def offers(self, need: Need) -> Sequence[Offer]:
        """One per region, machine type and market. Stock is unknown: EC2 tells it by an answer to a create only."""
        with guarded("aws offers"):
            wanted = [region for region in self.settings.subnets if not need.regions or region in need.regions]
            return await self._catalogue.offers(wanted) if wanted else []

    async def create(self, order: Order) -> Instance:
        with guarded("aws create", maybe_created=True):
            vet(order, self.traits)
            region, kind, _ = split_offer(order.offer.id)
            if region not in self.settings.subnets:
                raise Refused(f"{order.offer.id[:80]!r} is no offer of this provider")
            row = await self._launcher.launch(order, self._catalogue.subnets(region, kind))
            instance = _instance(region, row)
            if instance.tag != order.tag or instance.key != order.key:
                raise Unclear(f"aws {region}: the answer to create names another machine")
            return instance

    async def get(self, instance_id: str) -> Instance | None:
        with guarded("aws get"):
            place = self._place(instance_id)
            if place is None:
                return None
            region, name = place
            try:
                answer = await self._account.read(region, "describe_instances", InstanceIds=[name])
            except Absent:
                return None
            rows = _instances(tables(answer["Reservations"]))
            found = [row for row in rows if row["InstanceId"] == name]
            if not found:
                raise Unclear(f"aws {region}: an answer without the instance that was asked for", maybe_created=False)
            return _instance(region, found[0])

    async def owned(self, owner: str) -> Sequence[Instance]:
        """One call per region; those that have ended are shown as long as EC2 keeps their records."""
        with guarded("aws owned"):
            return await whole("aws", self.settings.subnets, lambda region: self._owned(region, owner))

    async def destroy(self, instance_id: str) -> None:
        """Terminates. Its disks and its address go with it, and a one-time spot request closes."""
        with guarded("aws destroy"):
            place = self._place(instance_id)
            if place is None:
                return
            try:
                await self._account.write(place[0], "terminate_instances", InstanceIds=[place[1]])
            except Absent:
                return

    async def check(self) -> Health:
        """Reads subnets, types and prices of every region, and asks for a launch that EC2 only pretends (DryRun)."""
        facts, bad = await looked("aws", self.settings.subnets, self._look)
        if bad:
            return Health(False, bad, facts)
        unpriced = sorted({kind for kinds in self._catalogue.unpriced.values() for kind in kinds})
        if unpriced:
            why = self._catalogue.troubles.get("prices", "the price list has none")
            facts["unpriced"] = f"{', '.join(unpriced)[:200]} ({why[:200]}); say their prices in the settings"
        summary = f"{len(self.settings.subnets)} regions answer"
        return Health(
            True, summary + (f"; {len(unpriced)} machine types are left out, for they have no price" if unpriced else ""), facts
        )

    async def aclose(self) -> None:
        await self._account.aclose()

    async def _look(self, region: str) -> str:
        offers = await self._catalogue.offers([region])
        image = image_at(self.settings.images, region, "amd64")
        kinds = [kind.name for kind in (await self._catalogue.kinds(region)).values() if kind.architecture == "amd64"]
        if image is None or not kinds:
            return f"{len(offers)} offers; a launch was not tried: no image in the settings"
        try:
            await self._launcher.try_dry(region, kinds[0], image, self.settings.subnets[region][0])
        except Passed:
            return f"{len(offers)} offers; a launch would be allowed"
        except Refused as error:
            if error.why is Why.QUOTA:
                return f"{len(offers)} offers; a launch would exceed a quota"
            raise
        raise Unclear(f"aws {region}: a dry run was answered as if it were real")

    async def _owned(self, region: str, owner: str) -> list[Instance]:
        filters = [{"Name": f"tag:{OWNER}", "Values": [owner]}]
        rows = await self._account.pages(region, "describe_instances", "Reservations", Filters=filters, MaxResults=self._page)
        ours = [row for row in _instances(rows) if tags_of(row).get(OWNER) == owner]
        return [_instance(region, row) for row in ours]

    def _place(self, instance_id: str) -> tuple[str, str] | None:
        """Region and EC2's own id; None if it cannot be an instance of AWS. Raises `Unclear` for a region that is not ours."""
        return place_of(instance_id, region=REGION, name=INSTANCE_ID, ours=self.settings.subnets)


def _instances(reservations: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for reservation in reservations for row in tables(reservation["Instances"])]


def _instance(region: str, row: Mapping[str, Any]) -> Instance:
    """Raises TypeError or KeyError, which `guarded` makes `Unclear`, where it is not what EC2 would say."""
    name, state, tags = str(row["InstanceId"]), str(table(row["State"])["Name"]), tags_of(row)
    if not INSTANCE_ID.fullmatch(name):
        raise TypeError("not an instance's id")
    phase = PHASES.get(state, Phase.UNKNOWN)
    reason = str(table(row.get("StateReason") or {}).get("Code", ""))
    launched: Any = row.get("LaunchTime")
    when = WHEN.search(str(row.get("StateTransitionReason", "")))
    ended = None
    if phase is Phase.ENDED and when is not None:
        ended = datetime.fromisoformat(when[1]).replace(tzinfo=UTC)
    return Instance(
        id=f"{region}/{name}",
        tag=tags.get(TAG, ""),
        phase=phase,
        created_at=launched.astimezone(UTC) if isinstance(launched, datetime) else None,
        region=region,
        detail=f"{state}: {reason}" if reason else state,
        key=tags.get(KEY, ""),
        ended_at=ended,
        preempted=reason in TAKEN,
    )
