"""Each instance a container on a machine of somebody who rents it out through Vast.ai, by the vendor's async SDK.

The API has no idempotency key, and names are not unique: tag and owner are the instance's label, by which a create looks
for its tag first; key and end time ride in its environment. An error may have made an instance all the same (a bid that is
too low makes a stopped one), so no answer is read without looking for a contract in it.
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, cast
from urllib.parse import urlsplit

from providers.clock import SYSTEM, Clock
from providers.contract import (
    BootsFrom,
    Health,
    Instance,
    Need,
    NoCapacity,
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
from providers.tags import Turns, there
from providers.vast_account import PACES, Account
from providers.vast_offers import COUNTRY, Ask, Search, Wanted

PHASES: Mapping[str, Phase] = {  # docs/sdk/python/reference/show-instance, and what its fields were seen to hold
    "": Phase.STARTING,  # null: being provisioned
    "created": Phase.STARTING,
    "scheduling": Phase.STARTING,
    "loading": Phase.STARTING,
    "rebooting": Phase.STARTING,
    "running": Phase.RUNNING,
    "stopped": Phase.STOPPED,
    "frozen": Phase.STOPPED,  # paused with its memory, and its GPUs still billed
    "exited": Phase.STOPPED,
    "offline": Phase.FAILED,  # "it will never reach running: destroy and retry"
    "unknown": Phase.UNKNOWN,  # no heartbeat of the host
}
INSTANCE_ID = re.compile(r"[1-9][0-9]{0,17}")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}@sha256:[0-9a-f]{64}")
BROKEN = "OCI runtime create failed"
ONSTART_LIMIT = 4048  # characters; "gzip+base64 for longer scripts"
START = 'unset CONTAINER_API_KEY; eval "$(echo {packed}|base64 -d|gzip -d)"'
"""Always packed: one way that is proven, and nothing of the script to be read in the console. The key that Vast puts into
every container can stop and destroy that instance: the job does not inherit it."""
PROFILE = Profile(
    hardware="whatever hosts offer; the search is live",
    footprint="hosts in many countries, each with its country in the search",
    residency="the machine is in the country that its host's address shows; who runs it is another matter",
    pricing="by the second, with the disk while it exists, also stopped; traffic is extra; a bid is paid as bid",
    preemption="on demand none; a bid is paused when it is outbid or its machine is asked for on demand",
    proven_against="the vendor's SDK against a fake of ours, judged by the vendor's API description; never live",
    source="vast-ai/docs: api-reference, guides/instances/pricing.mdx, of 2026-08; vastai 1.9.1",
)


class Start(StrEnum):
    """How the start-up script is run."""

    ONSTART = "onstart"  # by Vast's own entry point, which takes the place of the image's and opens SSH for the account's keys
    ARGUMENTS = "arguments"  # as the arguments of the image's entry point, which has to run them, or of none


@dataclass(frozen=True)
class VastSettings:
    api_key: Secret
    url: str = "https://console.vast.ai"
    countries: tuple[str, ...] = ()  # ISO 3166-1 alpha-2; empty: any
    gpus: tuple[str, ...] = ()  # Vast's names, for example "H100 SXM"; empty: any
    counts: tuple[int, ...] = (1, 2, 4, 8)  # GPUs per instance that are offered
    verified: bool = True  # only machines that Vast has verified
    datacenter: bool = False  # only hosts that Vast knows as data centres
    min_reliability: Decimal = Decimal("0.98")  # Vast's score of the machine, 0 to 1
    min_duration: timedelta = timedelta(hours=6)  # so long the host must still offer it
    min_cuda: str = ""  # highest CUDA version that the driver can run is at least this, for example "12.8"
    disk_gib: int = 60  # gone with the instance
    bids: bool = False  # whether interruptible machines are offered, too
    bid_margin: Decimal = Decimal("1.10")  # what is bid, as a multiple of the lowest bid that would win now
    rows: int = 200  # the most rows of one search; a daily quota counts them
    start: Start = Start.ONSTART

    def __post_init__(self) -> None:
        address = urlsplit(self.url)
        if address.scheme != "https" and address.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("url is https://HOST")
        for country in self.countries:
            if not re.fullmatch(r"[A-Z]{2}", country):
                raise ValueError(f"a country is two capital letters, for example SG, not {country}")
        if not self.counts or not all(1 <= count <= 64 for count in self.counts):
            raise ValueError("counts is a list of numbers of GPUs from 1 to 64")
        if not 0 <= self.min_reliability <= 1:
            raise ValueError("min_reliability is from 0 to 1")
        if self.disk_gib < 1 or self.min_duration < timedelta(0):
            raise ValueError("disk_gib is at least 1, and min_duration is not negative")
        if not 1 <= self.bid_margin <= 10:
            raise ValueError("bid_margin is from 1 to 10: less than the lowest bid makes a machine that never starts")
        if not 1 <= self.rows <= 5000:
            raise ValueError("rows is from 1 to 5000")
        if self.min_cuda and not re.fullmatch(r"\d+\.\d+", self.min_cuda):
            raise ValueError('min_cuda is a version such as "12.8"')


class VastProvider:
    """See the module. An instance's id is the number of its contract."""

    Settings = VastSettings

    def __init__(self, name: str, settings: VastSettings, *, clock: Clock = SYSTEM) -> None:
        self.name, self.settings = name, settings
        self.traits = Traits(
            spot=settings.bids,
            spot_notice=None,  # none is documented
            boots_from=BootsFrom.CONTAINER_IMAGE,
            unknown_window=timedelta(minutes=3),  # a minute for the create itself; how late the listing is, nobody says
            user_data_limit=32 * 1024,  # before it is packed; packed it must fit ONSTART_LIMIT
            tag_limit=63,
            creates_per_minute=int(timedelta(minutes=1) / PACES["create"]),
            offers_every=timedelta(minutes=5),  # asks go stale in minutes, and a daily quota counts the rows
            profile=PROFILE,
            notes={
                "hosts": "machines of other people: who runs one can see what runs on it",
                "traffic": "billed by the host per byte, and not in the offers' prices",
                "script": f"packed by gzip and base64 it has at most {ONSTART_LIMIT} characters",
            },
        )
        self._account = Account(f"Vast {name}", settings.url, settings.api_key, clock=clock)
        self._turns = Turns(f"vast|{settings.url}|{settings.api_key.reveal()}")
        wanted = Wanted(
            settings.countries,
            settings.gpus,
            settings.counts,
            settings.verified,
            settings.datacenter,
            settings.min_reliability,
            settings.min_duration,
            settings.min_cuda,
            settings.disk_gib,
            settings.bids,
            settings.bid_margin,
            settings.rows,
        )
        self._search = Search(name, self._account, wanted, clock)

    async def offers(self, need: Need) -> Sequence[Offer]:
        with guarded("Vast offers"):
            return await self._search.offers(need)

    async def create(self, order: Order) -> Instance:
        """One PUT at most, and none if the tag is there already."""
        with guarded("Vast create", maybe_created=True):
            vet(order, self.traits)
            ask = Ask.of(order.offer.id)
            body = self._body(order, ask)
            async with self._turns.of(order):
                return there(await self._tagged(order), order) or await self._rent(order, ask, body)

    async def get(self, instance_id: str) -> Instance | None:
        """By the listing, which says of a number that there is none; for one instance the API documents no such answer."""
        with guarded("Vast get"):
            row = await self._row(instance_id)
            return None if row is None else _instance(row)

    async def owned(self, owner: str) -> Sequence[Instance]:
        """The whole listing: the API filters labels by their whole text only."""
        with guarded("Vast owned"):
            return [_instance(row) for row in await self._account.instances({}) if _label(row)[1] == owner]

    async def destroy(self, instance_id: str) -> None:
        with guarded("Vast destroy"):
            row = await self._row(instance_id)
            if row is None:
                return
            if not _label(row)[1]:
                raise Refused(f"instance {instance_id} is not one of Sublet's")
            await self._account.destroy(int(instance_id))

    async def check(self) -> Health:
        try:
            with guarded("Vast check"):
                user = await self._account.user()
        except ProviderError as error:
            return Health(False, str(error))
        money = {key: str(user[key]) for key in ("credit", "balance") if isinstance(user.get(key), int | float)}
        left = user.get("credit")
        if isinstance(left, int | float) and left <= 0:
            return Health(False, "the key works, and the account has no credit", money)
        return Health(True, "the key works", money)

    async def aclose(self) -> None:
        await self._account.aclose()

    async def _row(self, instance_id: str) -> Mapping[str, Any] | None:
        if not INSTANCE_ID.fullmatch(instance_id):
            return None
        rows = await self._account.instances({"id": {"eq": int(instance_id)}})
        if any(row["id"] != int(instance_id) for row in rows):
            raise Unclear("another instance was shown than was asked for", maybe_created=False)
        return rows[0] if rows else None

    async def _tagged(self, order: Order) -> list[Instance]:
        label = _labelled(order.tag, order.owner)
        return [_instance(row) for row in await self._account.instances({"label": {"eq": label}}) if row.get("label") == label]

    async def _rent(self, order: Order, ask: Ask, body: Mapping[str, Any]) -> Instance:
        answer = await self._account.create(ask.number, body)
        contract = answer.content.get("new_contract")
        made = contract if isinstance(contract, int) and not isinstance(contract, bool) and contract > 0 else None
        if made is not None and answer.status == 200 and answer.content.get("success") is True:
            return Instance(str(made), order.tag, Phase.STARTING, None, order.offer.region, "created", order.key)
        error = self._account.no(answer, "create", _hidden(order, body), creates=True)
        if made is not None:
            await self._undo(made, order, error)
        elif answer.status == 200 and answer.content.get("success") is not False:
            raise Unclear(f"Vast answered a create with no contract: {error}")
        raise error

    async def _undo(self, contract: int, order: Order, error: ProviderError) -> None:
        """An error that made an instance: it is destroyed, and proven gone, or stays listed for the sweep. Always raises."""
        try:
            row = await self._row(str(contract))
            if row is not None and row.get("label") != _labelled(order.tag, order.owner):
                raise Unclear(f"contract {contract} is not labelled as ours")
            if row is not None:
                await self._account.destroy(contract)
            after = await self._row(str(contract))
            if row is None or (after is not None and _instance(after).phase is not Phase.ENDED):
                raise Unclear(f"contract {contract} is not proven gone")
        except ProviderError as trouble:
            raise Unclear(f"Vast made instance {contract} all the same ({error}): {trouble}") from None
        raise NoCapacity(f"Vast made instance {contract} and said no ({error}); it is destroyed") from None

    def _body(self, order: Order, ask: Ask) -> dict[str, Any]:
        if not IMAGE.fullmatch(order.image or ""):
            raise Refused("Vast is given images as REGISTRY/REPOSITORY@sha256:DIGEST only")
        command = START.format(packed=base64.b64encode(gzip.compress(order.user_data.encode(), 9, mtime=0)).decode())
        if len(command) > ONSTART_LIMIT:
            raise Refused(f"packed, the start-up script has {len(command)} characters, and Vast takes {ONSTART_LIMIT}")
        env = {"SUBLET_KEY": order.key, "SUBLET_ENDS_AT": order.ends_at.astimezone(UTC).isoformat()}
        values: dict[str, Any] = {
            "image": order.image,
            "disk": self.settings.disk_gib,
            "label": _labelled(order.tag, order.owner),
            "env": env,
            "target_state": "running",
            "cancel_unavail": True,  # no machine that waits, stopped and billed for its disk, until it may start
        }
        if ask.storage is not None:
            values["price"] = float(ask.bid(order.offer.price_per_hour))
            env["SUBLET_BID"] = str(values["price"])
        if self.settings.start is Start.ONSTART:
            values |= {"runtype": "ssh_proxy", "onstart": command}  # the one of them that opens no port
        else:
            values |= {"runtype": "args", "args": ["/bin/sh", "-c", command]}
        if order.login is not None:
            values["image_login"] = _login(order)
        return self._account.instance(**values)


def _login(order: Order) -> str:
    """As `docker login` takes it, which is the form that the vendor documents."""
    login = order.login
    if login is None or not login.username:
        raise Refused("Vast logs in to a registry with a user name and a password, and this registry gave a token only")
    words = (login.username, login.password.reveal(), login.registry)
    if not all(re.fullmatch(r"[A-Za-z0-9._~:/+=@%^*!,#-]+", word) for word in words):
        raise Refused("a registry's login with spaces, quotes or a shell's other signs cannot be given to Vast")
    return f"-u {words[0]} -p {words[1]} {words[2]}"


def _hidden(order: Order, body: Mapping[str, Any]) -> list[str]:
    """What an error must not quote."""
    login = [] if order.login is None else [order.login.password.reveal(), str(body["image_login"])]
    return [order.user_data, *login]


def _labelled(tag: str, owner: str) -> str:
    return f"{tag}/{owner}"


def _label(row: Mapping[str, Any]) -> tuple[str, str]:
    """Tag and owner; empty owner: not one of ours."""
    tag, slash, owner = str(row.get("label") or "").partition("/")
    return (tag, owner) if slash and re.fullmatch(r"[a-z0-9]{1,63}", owner) else (tag, "")


def _env(row: Mapping[str, Any], name: str) -> str:
    """The listing has the environment as pairs."""
    pairs = row.get("extra_env")
    for pair in cast("list[Any]", pairs) if isinstance(pairs, list) else []:
        if isinstance(pair, list) and len(cast("list[Any]", pair)) == 2 and pair[0] == name:
            return str(cast("list[Any]", pair)[1])
    return ""


def _instance(row: Mapping[str, Any]) -> Instance:
    actual, contract = str(row.get("actual_status") or ""), str(row.get("cur_state") or "")
    intended, said = str(row.get("intended_status") or ""), str(row.get("status_msg") or "")
    phase = PHASES.get(actual, Phase.UNKNOWN)
    if contract == "unloaded":  # released on destroy
        phase = Phase.ENDED
    elif contract == "stopped" or intended in ("stopped", "frozen"):
        phase = Phase.STOPPED  # nobody here ever stops one: it is outbid, out of credit, or its host ended the contract
    elif actual == "created" and BROKEN in said:
        phase = Phase.FAILED
    bid = row.get("is_bid") is True or bool(_env(row, "SUBLET_BID"))
    match = COUNTRY.search(str(row.get("geolocation") or ""))
    start = row.get("start_date")
    return Instance(
        id=str(int(row["id"])),
        tag=_label(row)[0],
        phase=phase,
        created_at=datetime.fromtimestamp(start, UTC) if isinstance(start, int | float) and 0 < start < 2**40 else None,
        region=match[1] if match else "",
        detail=f"{actual or 'provisioning'}, contract {contract or 'unknown'}"[:80],
        key=_env(row, "SUBLET_KEY"),
        preempted=bid and phase is Phase.STOPPED and contract == "stopped",
    )
