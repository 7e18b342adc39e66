"""Lambda's On-Demand Cloud, through its HTTP API 1.10: plain cloud-init machines, and error codes that say what is the matter.

What its description says, and what follows from it:

    no idempotency key, names are not unique   we look for the tag before we launch, and one tag is launched once at a time
    the list has no filter and no pages        we pick ours by their tags; a list that speaks of another page is not believed
    one request a second, one launch in 12 s   two paces, shared by all who use the account
    no time stamps                             the time of the launch rides along as a tag
    nothing ends a machine by itself           the end time rides along as a tag, and the machine's own script keeps it
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, cast

import httpx

from providers.clock import SYSTEM, Clock
from providers.contract import (
    Health,
    Instance,
    Need,
    NoCapacity,
    Offer,
    Order,
    Phase,
    Profile,
    ProviderError,
    Reach,
    Refused,
    Secret,
    Throttled,
    Traits,
    Unclear,
    Why,
    guarded,
    vet,
)
from providers.http import Answer, Api, table, tables
from providers.lambda_offers import OFFER_ID, offered
from providers.rate import PATIENCE, shared
from providers.tags import Turns, there

ADDRESS = "https://cloud.lambda.ai"
LAUNCH, TERMINATE = "/api/v1/instance-operations/launch", "/api/v1/instance-operations/terminate"
INSTANCES, TYPES, KEYS = "/api/v1/instances", "/api/v1/instance-types", "/api/v1/ssh-keys"
REQUESTS_EVERY = timedelta(seconds=1)  # the description's first paragraph
LAUNCHES_EVERY = timedelta(seconds=12) + PATIENCE  # a launch that has its turn may still wait for its turn as a request
ABSENT = "global/object-does-not-exist"
JUDGED = frozenset(range(400, 500)) - {408, 429}  # what carries a code of Lambda's, which says more than the status

PHASES: Mapping[str, Phase] = {
    "booting": Phase.STARTING,
    "active": Phase.RUNNING,
    "unhealthy": Phase.UNKNOWN,  # it is billed, and nobody says whether it runs: its node knows better
    "terminating": Phase.DESTROYING,
    "terminated": Phase.ENDED,
    "preempted": Phase.STOPPED,  # nothing says that its bill has ended: it is to be terminated
}
CODES: Mapping[str, Why | None] = {  # every code of the description; None: not to be taken for a definite no
    "global/account-inactive": Why.CREDENTIALS,
    "global/conflict": Why.REQUEST,
    "global/duplicate": Why.REQUEST,
    "global/forbidden": Why.CREDENTIALS,
    "global/internal-error": None,
    "global/invalid-address": Why.FUNDS,  # the billing address
    "global/invalid-api-key": Why.CREDENTIALS,
    "global/invalid-parameters": Why.REQUEST,
    "global/not-found": Why.REQUEST,
    "global/object-does-not-exist": Why.REQUEST,  # of a launch: its region, type, SSH key or image
    "global/quota-exceeded": Why.QUOTA,
    "filesystems/filesystem-in-use": Why.REQUEST,
    "firewall-rulesets/firewall-ruleset-in-use": Why.REQUEST,
    "instance-operations/launch/file-system-in-wrong-region": Why.REQUEST,
}
NO_CAPACITY = "instance-operations/launch/insufficient-capacity"
UPSTREAM = "provider/"  # "errors that come from upstream services": outages, quotas or exhaustion, nobody says which
BANNED, BAN = "banned you temporarily", timedelta(minutes=5)  # a doorkeeper before the API: seen by brevdev/cloud (lambdalabs)

INSTANCE_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{7,63}")
IMAGE_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PROFILE = Profile(
    footprint="USA, and as others list them regions in Europe, India, Japan and Israel; the catalogue says which have machines",
    audit_logs="yes: audit events of the account, by API",
    pricing="per minute, from the first passed health check on; the catalogue's price of a type",
    preemption="a status `preempted` exists; when it comes, and with what notice, is not documented",
    proven_against="vendor spec: each request, and each answer of our own stand-in, judged by Lambda's OpenAPI 1.10.0",
    source="Lambda Cloud API 1.10.0 (2026-08), docs.lambda.ai/public-cloud/billing",
)


@dataclass(frozen=True)
class LambdaSettings:
    api_key: Secret
    ssh_key_name: str  # a launch must name exactly one key of the account, whether it is used or not
    regions: tuple[str, ...] = ()  # empty: all
    image: str = ""  # an image's id or family; empty: the newest Lambda Stack
    firewall_rulesets: Mapping[str, str] = field(default_factory=dict[str, str])  # region -> id of the ruleset there
    file_systems: Mapping[str, str] = field(default_factory=dict[str, str])  # region -> name of the one mounted there

    def __post_init__(self) -> None:
        if not self.api_key:
            raise ValueError("api_key is empty")
        if not 1 <= len(self.ssh_key_name) <= 64:
            raise ValueError("ssh_key_name is the name of an SSH key of the account, of 1 to 64 characters")
        for region in (*self.regions, *self.firewall_rulesets, *self.file_systems):
            if not OFFER_ID.fullmatch(f"{region}/x"):
                raise ValueError(f"{region[:80]!r} is no region: they look like us-west-1")


class LambdaProvider:
    """See the module. An offer's id is REGION/TYPE."""

    Settings = LambdaSettings

    def __init__(
        self,
        name: str,
        settings: LambdaSettings,
        *,
        clock: Clock = SYSTEM,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.traits = Traits(
            billing_granularity=timedelta(minutes=1),  # docs.lambda.ai/public-cloud/billing: "in one-minute increments"
            user_data_limit=1_000_000,  # "cannot exceed 1MB"
            tag_limit=63,  # a name has 64 characters
            creates_per_minute=4,
            offers_every=timedelta(seconds=30),
            profile=PROFILE,
            notes={"dead-man switch": "none, and nothing says that a machine which powers itself off is no longer billed"},
        )
        self._clock = clock
        account = f"lambda|{ADDRESS}|{settings.api_key.reveal()}"
        self._turns = Turns(account)
        self._launches = shared(account + "|launch", LAUNCHES_EVERY, clock=clock)
        self._pace = shared(account, REQUESTS_EVERY, clock=clock)
        self._api = Api(
            ADDRESS,
            title=f"lambda {name}",
            headers={"Authorization": Secret(f"Bearer {settings.api_key.reveal()}")},
            transport=transport,
            clock=clock,
            pace=self._pace,
        )

    async def offers(self, need: Need) -> Sequence[Offer]:
        """One per type and region that has some now. A type that is nowhere to be had names no region, and is no offer."""
        with guarded("lambda offers"):
            seen = self._clock.now()
            rows = table(self._data(await self._get(TYPES)))
            return offered(rows, provider=self.name, seen=seen, regions=self.settings.regions)

    async def create(self, order: Order) -> Instance:
        """Looks for the tag, then launches once. Raises `Throttled` where the last launch was a moment ago."""
        with guarded("lambda create", maybe_created=True):
            vet(order, self.traits)
            body = self._launch(order)
            async with self._turns.of(order):
                made = there(await self.owned(order.owner), order)
                if made is not None:
                    return made
                await self._launches.turn(f"lambda {self.name}: launch")
                return await self._launched(order, body)

    async def get(self, instance_id: str) -> Instance | None:
        with guarded("lambda get"):
            if not INSTANCE_ID.fullmatch(instance_id):
                return None
            answer = await self._api.read(f"{INSTANCES}/{instance_id}", accept=JUDGED)
            if answer.status == 404 and _code(answer) == ABSENT:
                return None
            shown = _instance(table(self._data(answer)))
            if shown.id != instance_id:
                raise Unclear(f"lambda {self.name}: it shows another instance than was asked for")
            return shown

    async def owned(self, owner: str) -> Sequence[Instance]:
        with guarded("lambda owned"):
            return [_instance(row) for row in await self._listing() if _tags(row).get("sublet-owner") == owner]

    async def destroy(self, instance_id: str) -> None:
        with guarded("lambda destroy"):
            if not INSTANCE_ID.fullmatch(instance_id):
                return
            answer = await self._api.write(
                "POST", TERMINATE, content={"instance_ids": [instance_id]}, accept=JUDGED, repeatable=True
            )
            if answer.status == 404 and _code(answer) == ABSENT:
                return
            ended = tables(table(self._data(answer))["terminated_instances"])
            if any(row.get("id") == instance_id for row in ended):
                return
            shown = await self.get(instance_id)  # not in its list of those that it ended: was it over before?
            if shown is not None and shown.phase not in (Phase.ENDED, Phase.DESTROYING):
                raise Unclear(f"lambda {self.name}: {instance_id} is still {shown.detail} after its termination was taken")

    async def check(self) -> Health:
        """Asks for the account's SSH keys and the catalogue. Lambda shows no balance and no quota."""
        try:
            with guarded("lambda check"):
                names = {str(row["name"]) for row in tables(self._data(await self._get(KEYS)))}
                offers = await self.offers(Need())
        except ProviderError as error:
            return Health(False, str(error))
        facts = {"offers now": str(len(offers)), "ssh keys": str(len(names))}
        if self.settings.ssh_key_name not in names:
            return Health(False, f"the account has no SSH key named {self.settings.ssh_key_name!r}", facts)
        return Health(True, f"the key is good, and {len(offers)} types and regions have machines now", facts)

    async def aclose(self) -> None:
        await self._api.aclose()

    async def _get(self, path: str) -> Answer:
        return await self._api.read(path, accept=JUDGED)

    async def _listing(self) -> Sequence[Mapping[str, Any]]:
        answer = await self._get(INSTANCES)
        rows = tables(self._data(answer))
        if table(answer.json()).get("page_token"):  # as other lists of this API have it; this one has none so far
            raise Unclear(f"lambda {self.name}: the list of instances has another page, and nothing says how to ask for it")
        return rows

    def _launch(self, order: Order) -> dict[str, object]:
        place = OFFER_ID.fullmatch(order.offer.id)
        if place is None:
            raise Refused(f"{order.offer.id[:80]!r} is no offer of lambda: they look like us-west-1/gpu_1x_a10")
        region, kind = place.groups()
        tags = {
            "sublet-owner": order.owner,
            "sublet-tag": order.tag,
            "sublet-key": order.key,
            "sublet-ends-at": order.ends_at.astimezone(UTC).isoformat(timespec="seconds"),
            "sublet-asked-at": self._clock.now().isoformat(timespec="seconds"),
        }
        body: dict[str, object] = {
            "region_name": region,
            "instance_type_name": kind,
            "ssh_key_names": [self.settings.ssh_key_name],
            "name": order.tag,
            "user_data": order.user_data,
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        image = order.image or self.settings.image
        if image:
            body["image"] = {"id" if IMAGE_ID.fullmatch(image) else "family": image}
        if region in self.settings.firewall_rulesets:
            body["firewall_rulesets"] = [{"id": self.settings.firewall_rulesets[region]}]
        if region in self.settings.file_systems:
            body["file_system_names"] = [self.settings.file_systems[region]]
        return body

    async def _launched(self, order: Order, body: Mapping[str, object]) -> Instance:
        asked = self._clock.now()
        answer = await self._api.write("POST", LAUNCH, content=body, accept=JUDGED, creates=True, timeout=60)
        ids = cast("list[object]", table(self._data(answer))["instance_ids"])
        if not isinstance(ids, list) or len(ids) != 1 or not INSTANCE_ID.fullmatch(str(ids[0])):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise Unclear(f"lambda {self.name}: the launch was taken, and its answer names no instance")
        region = order.offer.id.partition("/")[0]
        return Instance(str(ids[0]), order.tag, Phase.STARTING, asked, region, "booting", order.key)

    def _data(self, answer: Answer) -> Any:
        """What a good answer carries; a bad one is raised as what its code says."""
        if answer.status >= 400:
            self._raise(answer)
        return table(answer.json())["data"]

    def _raise(self, answer: Answer) -> NoReturn:
        code = _code(answer)
        if not code and BANNED in answer.text:
            self._pace.hold(BAN)
            raise Throttled(f"{answer.what}: {answer.status}: {BANNED}", wait=BAN)
        if not code and answer.status != 401:
            raise Unclear(f"{answer.what}: {answer.status}, with no word of Lambda's", maybe_created=answer.writing)
        if not code:
            raise Refused(f"{answer.what}: 401", why=Why.CREDENTIALS)
        said = table(table(answer.json())["error"]).get("message")
        text = self._api.redact(f"{answer.what}: {answer.status} {code}: {said}")
        if code == NO_CAPACITY:
            raise NoCapacity(text, reach=Reach.REGION)
        why = CODES.get(code, Why.CREDENTIALS if answer.status in (401, 403) else Why.REQUEST)
        if why is None or code.startswith(UPSTREAM):
            raise Unclear(text, maybe_created=answer.writing)
        raise Refused(text, why=why)


def _code(answer: Answer) -> str:
    """Lambda's own code of an error; empty where something else answered."""
    try:
        code = table(table(answer.json())["error"])["code"]
    except (Unclear, KeyError, TypeError):
        return ""
    return code if isinstance(code, str) else ""


def _tags(row: Mapping[str, Any]) -> Mapping[str, str]:
    return {str(tag["key"]): str(tag["value"]) for tag in tables(row.get("tags") or [])}


def _instance(row: Mapping[str, Any]) -> Instance:
    tags, status, instance_id = _tags(row), str(row["status"]), row["id"]
    if not isinstance(instance_id, str) or not INSTANCE_ID.fullmatch(instance_id):
        raise ValueError("an instance has an id of a strange shape")
    return Instance(
        id=instance_id,
        tag=tags.get("sublet-tag", ""),
        phase=PHASES.get(status, Phase.UNKNOWN),
        created_at=_time(tags.get("sublet-asked-at", "")),
        region=str(table(row["region"])["name"]),
        detail=status[:80],
        key=tags.get("sublet-key", ""),
        preempted=status == "preempted",
    )


def _time(text: str) -> datetime | None:
    """A tag can be edited by anyone who may log in to the account."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else None
