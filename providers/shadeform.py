"""Shadeform: many clouds behind one key, through its HTTP API; every machine is made with the date and sum at which it ends.

What its description says, and what follows from it:

    create answers with an id, and makes it later   a machine that cannot be had may only show it as status `error`
    no idempotency key, names are not unique        we look for the tag before we create, and one tag is created once at a time
    the list has no filter and no pages             we pick ours by their tags
    `auto_delete` in the create call                the dead-man switch: always set, and looked for in the record afterwards
    only 200 is documented                          `shadeform_errors` judges the rest, and the list decides what is gone
"""

import base64
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_UP, Decimal
from typing import Any, cast

import httpx

from providers.clock import SYSTEM, Clock
from providers.contract import (
    Availability,
    Health,
    Instance,
    Need,
    Offer,
    Order,
    Phase,
    Profile,
    ProviderError,
    Refused,
    Secret,
    Traits,
    Unclear,
    guarded,
    vet,
)
from providers.http import Answer, Api, clean, table, tables
from providers.rate import shared
from providers.shadeform_errors import JUDGED, judged
from providers.shadeform_offers import OFFER_ID, Choice, offered
from providers.tags import Turns, there

log = logging.getLogger(__name__)

ADDRESS = "https://api.shadeform.ai/v1"
REQUESTS_EVERY, REQUESTS_AT_ONCE = timedelta(milliseconds=250), 8  # our own choice: Shadeform documents no rate
HEADROOM = Decimal("1.5")  # of the sum at which a machine ends: the date comes first, unless the price was not the price
LEAST_SUM = Decimal(1)  # dollars
PHASES: Mapping[str, Phase] = {
    "creating": Phase.STARTING,
    "pending_provider": Phase.STARTING,
    "pending": Phase.STARTING,
    "active": Phase.RUNNING,
    "error": Phase.FAILED,  # it may be billed: it is to be deleted
    "deleting": Phase.DESTROYING,
    "deleted": Phase.ENDED,
}
INSTANCE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PROFILE = Profile(
    footprint="the data centres of a dozen clouds, mostly in North America and Europe; its catalogue says which",
    pricing="what the cloud itself asks, paid to Shadeform; the catalogue's price per hour and type",
    preemption="none: it rents on demand only",
    proven_against="vendor spec: each request, and each answer of our own stand-in, judged by Shadeform's OpenAPI 1.0.0",
    source="Shadeform's API description as of 2026-08, docs.shadeform.ai (concepts, FAQ)",
)


@dataclass(frozen=True)
class ShadeformSettings:
    api_key: Secret
    clouds: tuple[str, ...] = ()  # empty: all
    regions: tuple[str, ...] = ()  # empty: all
    os: str = ""  # one of a type's `os_options`; empty: the cloud's own
    ssh_key_id: str = ""  # empty: the account's default key
    shade_cloud: bool = True  # false: rent in your own accounts that are linked to Shadeform
    deployments: tuple[str, ...] = ("vm",)  # also "baremetal", and "container", which cannot run containers of its own

    def __post_init__(self) -> None:
        if not self.api_key:
            raise ValueError("api_key is empty")
        if self.ssh_key_id and not INSTANCE_ID.fullmatch(self.ssh_key_id):
            raise ValueError("ssh_key_id is an id such as 78a0dd5a-dbb1-4568-b55c-5e7e0a8b0c40, not a name")
        odd = set(self.deployments) - {"vm", "baremetal", "container"}
        if odd or not self.deployments:
            raise ValueError('deployments are some of "vm", "baremetal" and "container"')
        for cloud in self.clouds:
            if not OFFER_ID.fullmatch(f"{cloud}/x/x"):
                raise ValueError(f"{cloud[:80]!r} is no cloud: they look like hyperstack")
        for region in self.regions:
            if not OFFER_ID.fullmatch(f"x/{region}/x"):
                raise ValueError(f"{region[:80]!r} is no region: they look like canada-1")


class ShadeformProvider:
    """See the module. An offer's id is CLOUD/REGION/TYPE."""

    Settings = ShadeformSettings

    def __init__(
        self,
        name: str,
        settings: ShadeformSettings,
        *,
        clock: Clock = SYSTEM,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.traits = Traits(
            billing_granularity=timedelta(minutes=1),  # each cloud's own, which Shadeform does not tell: a careful guess
            tag_limit=63,
            dead_man_switch=True,
            offers_every=timedelta(seconds=60),
            profile=PROFILE,
            notes={
                "billing": "each cloud has its own granularity and minimum, and the catalogue does not tell them",
                "dead-man switch": "auto_delete, in the create call: at the lease's hard end, or at 1.5 times its cost",
            },
        )
        self._clock = clock
        account = f"shadeform|{ADDRESS}|{settings.api_key.reveal()}"
        self._turns = Turns(account)
        self._api = Api(
            ADDRESS,
            title=f"shadeform {name}",
            headers={"X-API-KEY": settings.api_key},
            transport=transport,
            clock=clock,
            cap=32 * 1024 * 1024,  # the catalogue holds every type of every cloud
            pace=shared(account, REQUESTS_EVERY, REQUESTS_AT_ONCE, clock=clock),
        )

    async def offers(self, need: Need) -> Sequence[Offer]:
        """One per cloud, region and type, with what the catalogue says of its stock."""
        with guarded("shadeform offers"):
            seen, settings = self._clock.now(), self.settings
            body = table((await self._read("/instances/types")).json())
            choice = Choice(settings.clouds, settings.regions, settings.deployments, settings.os)
            return offered(body["instance_types"], provider=self.name, seen=seen, choice=choice)

    async def create(self, order: Order) -> Instance:
        """Looks for the tag, then creates once, with its end in the same call."""
        with guarded("shadeform create", maybe_created=True):
            vet(order, self.traits)
            body = self._body(order)
            async with self._turns.of(order):
                return there(await self.owned(order.owner), order) or await self._created(order, body)

    async def get(self, instance_id: str) -> Instance | None:
        with guarded("shadeform get"):
            if not INSTANCE_ID.fullmatch(instance_id):
                return None
            answer = await self._api.read(f"/instances/{instance_id}/info", accept=JUDGED)
            if answer.status < 400:
                shown = _instance(table(answer.json()))
                if shown.id != instance_id:
                    raise Unclear(f"shadeform {self.name}: it shows another instance than was asked for")
                return shown
            if answer.status in (401, 402, 403):
                raise judged(answer, self._api.redact)
            # No answer for what is gone is documented: the list of "all non deleted instances" decides.
            return next((row for row in map(_instance, await self._listing()) if row.id == instance_id), None)

    async def owned(self, owner: str) -> Sequence[Instance]:
        with guarded("shadeform owned"):
            return [_instance(row) for row in await self._listing() if _tags(row).get("sublet-owner") == owner]

    async def destroy(self, instance_id: str) -> None:
        """Its bill ends as soon as its status is `deleting`, says the description."""
        with guarded("shadeform destroy"):
            if not INSTANCE_ID.fullmatch(instance_id):
                return
            path = f"/instances/{instance_id}/delete"
            answer = await self._api.write("POST", path, accept=JUDGED, repeatable=True)  # its answer has no body
            if answer.status < 400:
                return
            error = judged(answer, self._api.redact)
            if answer.status in (401, 402, 403):
                raise error
            shown = await self.get(instance_id)
            if shown is not None and shown.phase not in (Phase.DESTROYING, Phase.ENDED):
                raise error

    async def check(self) -> Health:
        """Asks for the account's SSH keys and the catalogue. Shadeform shows no balance and no quota by API."""
        try:
            with guarded("shadeform check"):
                keys = {str(row["id"]) for row in tables(table((await self._read("/sshkeys")).json())["ssh_keys"])}
                offers = await self.offers(Need())
        except ProviderError as error:
            return Health(False, str(error))
        free = [offer for offer in offers if offer.availability is Availability.AVAILABLE]
        clouds = sorted({offer.type.partition("/")[0] for offer in free})
        facts = {"offers": str(len(offers)), "in stock": str(len(free)), "clouds with stock": ", ".join(clouds)[:300]}
        if self.settings.ssh_key_id and self.settings.ssh_key_id not in keys:
            return Health(False, f"the account has no SSH key {self.settings.ssh_key_id}", facts)
        if not offers:
            return Health(
                False, "the key is good, and nothing in the catalogue fits clouds, regions, os and deployments", facts
            )
        return Health(True, f"the key is good, and {len(free)} of {len(offers)} offers are in stock", facts)

    async def aclose(self) -> None:
        await self._api.aclose()

    async def _read(self, path: str) -> Answer:
        answer = await self._api.read(path, accept=JUDGED)
        if answer.status >= 400:
            raise judged(answer, self._api.redact)
        return answer

    async def _listing(self) -> Sequence[Mapping[str, Any]]:
        return tables(table((await self._read("/instances")).json())["instances"])

    def _body(self, order: Order) -> dict[str, object]:
        place = OFFER_ID.fullmatch(order.offer.id)
        if place is None:
            raise Refused(f"{order.offer.id[:80]!r} is no offer of shadeform: they look like hyperstack/canada-1/A6000")
        cloud, region, kind = place.groups()
        script = base64.b64encode(order.user_data.encode()).decode()
        body: dict[str, object] = {
            "cloud": cloud,
            "region": region,
            "shade_instance_type": kind,
            "shade_cloud": self.settings.shade_cloud,
            "name": order.tag,
            "launch_configuration": {"type": "script", "script_configuration": {"base64_script": script}},
            "auto_delete": self._end(order),
            "tags": [f"sublet-owner={order.owner}", f"sublet-tag={order.tag}", f"sublet-key={order.key}"],
        }
        system = order.image or self.settings.os
        if system:
            body["os"] = system
        if self.settings.ssh_key_id:
            body["ssh_key_id"] = self.settings.ssh_key_id
        return body

    def _end(self, order: Order) -> dict[str, str]:
        """Date and sum at which Shadeform itself deletes the machine: RFC 3339, and dollars as a decimal text."""
        seconds = Decimal(str((order.ends_at - self._clock.now()).total_seconds()))
        if seconds <= 0:
            raise Refused("the machine's end lies in the past")
        if order.offer.price_per_hour <= 0:
            raise Refused("an offer without a price has no sum at which its machine would end")
        cost = order.offer.price_per_hour * seconds / 3600
        most = max(cost * HEADROOM, LEAST_SUM).quantize(Decimal("0.01"), ROUND_UP)
        return {"date_threshold": order.ends_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "spend_threshold": str(most)}

    async def _created(self, order: Order, body: Mapping[str, object]) -> Instance:
        asked = self._clock.now()
        answer = await self._api.write("POST", "/instances/create", content=body, accept=JUDGED, creates=True, timeout=60)
        if answer.status >= 400:
            raise judged(answer, self._api.redact)
        made = table(answer.json()).get("id")
        if not isinstance(made, str) or not INSTANCE_ID.fullmatch(made):
            raise Unclear(f"shadeform {self.name}: the create was taken, and its answer names no instance")
        try:
            with guarded("shadeform info"):
                record = table((await self._read(f"/instances/{made}/info")).json())
                end = table(record.get("auto_delete") or {})
                if not end.get("date_threshold") or not end.get("spend_threshold"):
                    log.warning("%s shows no end of its own for %s: only Sublet would end it", self._title, made)
                shown = _instance(record)
        except ProviderError:
            shown = None  # it is made, whatever its record says
        if shown is not None and shown.id == made and shown.tag == order.tag:
            return shown
        region = order.offer.id.split("/")[1]
        return Instance(made, order.tag, Phase.STARTING, asked, region, "creating", order.key)

    @property
    def _title(self) -> str:
        return f"shadeform {self.name}"


def _tags(row: Mapping[str, Any]) -> Mapping[str, str]:
    """Its tags are plain texts; ours are KEY=VALUE."""
    tags: object = row.get("tags") or []
    if not isinstance(tags, list):
        raise TypeError("tags are no list")
    parts = [str(tag).partition("=") for tag in cast("list[object]", tags)]
    return {key: value for key, equals, value in parts if equals}


def _instance(row: Mapping[str, Any]) -> Instance:
    tags, status, instance_id = _tags(row), str(row["status"]), row["id"]
    if not isinstance(instance_id, str) or not INSTANCE_ID.fullmatch(instance_id):
        raise ValueError("an instance has an id of a strange shape")
    phase, detail = PHASES.get(status, Phase.UNKNOWN), row.get("status_details")
    more = f": {detail}" if isinstance(detail, str) and detail else ""
    return Instance(
        id=instance_id,
        tag=tags.get("sublet-tag", ""),
        phase=phase,
        created_at=_time(row.get("created_at")),
        region=str(row["region"]),
        detail=clean(status + more, most=160),
        key=tags.get("sublet-key", ""),
        ended_at=_time(row.get("deleted_at")) if phase is Phase.ENDED else None,
    )


def _time(value: object) -> datetime | None:
    """A time of the vendor's; None for its zero time (year 1), which stands for "not yet"."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo and found.year > 1970 else None
