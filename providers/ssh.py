"""Instances on hosts of your own, or contracted ones, over SSH: one for each slot of a host's GPUs, wiped when it ends.

On-premises first: these machines are there already, and are ranked before anything that has to be rented. Nothing is installed
on a host but a user and its public key; Python 3.8 or later is there for the node agent anyway. A slot is claimed on the host
itself, so several services may share hosts, and a restart of any of them changes nothing. Like `local` it isolates by user,
process and folder, not by kernel.
"""

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from providers.clock import SYSTEM, Clock
from providers.contract import (
    TAG,
    Availability,
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
    Traits,
    Unclear,
    guarded,
    vet,
)
from providers.http import table, tables
from providers.ssh_hosts import HOST, Host, SshSettings, State, hosts_of
from providers.ssh_wire import Access, Away, Wire, program

log = logging.getLogger(__name__)

PHASES: Mapping[str, Phase] = {
    "starting": Phase.STARTING,
    "running": Phase.RUNNING,
    "ended": Phase.STOPPED,
    "broken": Phase.FAILED,
    "ending": Phase.DESTROYING,
}
ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64"}
OFFER = re.compile(r"(?P<host>[a-z0-9.-]{1,63})/slot-(?P<slot>\d{1,3})")
GIB = 1024**3
PROFILE = Profile(
    hardware="whatever your hosts have",
    footprint="where you put them",
    own_keys="your own disks",
    residency="your own hosts",
    pricing="what your settings say",
    preemption="nobody but you",
    proven_against="vendor software: OpenSSH's sshd 9.2 on loopback, real processes on Linux; GPUs by a stand-in of nvidia-smi",
)


class SshProvider:
    """See the module. An instance's id is HOST:TAG, an offer's HOST/slot-N."""

    Settings = SshSettings

    def __init__(self, name: str, settings: SshSettings, *, clock: Clock = SYSTEM, host_program: bytes | None = None) -> None:
        """`host_program` is for tests: the host's side as it is sent."""
        self.name = name
        self.settings = settings
        self._clock = clock
        self._troubled: dict[str, str] = {}
        hosts = hosts_of(settings)
        rented = any(host.contracted for host in hosts.values())
        self.traits = Traits(
            billing_granularity=settings.billing_granularity,
            billing_minimum=settings.billing_minimum,
            currency=settings.currency,
            boots_from=BootsFrom.PROCESS,
            own_hardware=not rented,
            idempotent_create=True,
            knows_at_once=True,
            unknown_window=timedelta(seconds=60),  # the host's side of a create that was cut off: lock, GPUs and keeper
            user_data_limit=256 * 1024,
            tag_limit=63,
            dead_man_switch=True,
            offers_every=timedelta(seconds=10),
            profile=PROFILE,
            notes={"isolation": "a user, a process group and a folder on a shared host; with first_uid a user per slot"},
        )
        access, text = Access(settings), program() if host_program is None else host_program
        self._wires = {name: Wire(host, access, text) for name, host in hosts.items()}

    async def offers(self, need: Need) -> Sequence[Offer]:
        """One offer per free slot of every host that is well. Raises if no host at all could be asked."""
        with guarded("ssh offers"):
            wires = [wire for wire in self._wires.values() if wire.host.state is State.SERVING]
            told = await asyncio.gather(*(self._offered(wire) for wire in wires), return_exceptions=True)
            troubles = _troubles(told)
            for wire, result in zip(wires, told, strict=True):
                self._say(wire.host.name, str(result) if isinstance(result, BaseException) else "")
            if troubles and len(troubles) == len(wires):
                raise troubles[0]
            return [offer for offers in told if not isinstance(offers, BaseException) for offer in offers]

    async def create(self, order: Order) -> Instance:
        """On the offered slot, else on another one of the same host. One request; the host itself keeps it to one instance."""
        with guarded("ssh create", maybe_created=True):
            vet(order, self.traits)
            offer = OFFER.fullmatch(order.offer.id)
            wire = self._wires.get(offer["host"]) if offer is not None else None
            if offer is None or wire is None or wire.host.state is not State.SERVING:
                raise NoCapacity(f"{order.offer.id[:80]} is no slot of a host that serves")
            host, now = wire.host, self._clock.now()
            request = {
                "tag": order.tag,
                "owner": order.owner,
                "key": order.key,
                "script": order.user_data,
                "created_at": now.isoformat(),
                "ends_at": order.ends_at.isoformat(),
                "seconds": max((order.ends_at - now).total_seconds(), 0.0),
                "slot": int(offer["slot"]),
                "gpus": host.each,
            }
            place = {"root": host.root, "slots": host.slots, "first_uid": host.first_uid, "groups": self.settings.groups}
            try:
                row = await wire.ask("create", creates=True, order=request, smi=host.nvidia_smi, **place)
            except Away as error:  # nothing was sent, and another host may have room
                raise NoCapacity(str(error)) from None
            return self._instance(host, table(row))

    async def get(self, instance_id: str) -> Instance | None:
        """Raises `Unclear` for a host that is no longer in the settings: that it is not asked proves nothing."""
        with guarded("ssh get"):
            wire, tag = self._place(instance_id)
            if wire is None:
                return None
            row = await wire.ask("look", tag=tag, root=wire.host.root, first_uid=wire.host.first_uid)
            return None if row is None else self._instance(wire.host, table(row))

    async def owned(self, owner: str) -> Sequence[Instance]:
        """All of every host that is not retired. One that cannot be asked makes it `Unclear`."""
        with guarded("ssh owned"):
            wires = [wire for wire in self._wires.values() if wire.host.state is not State.RETIRED]
            told = await asyncio.gather(*(self._listed(wire, owner) for wire in wires), return_exceptions=True)
            if troubles := _troubles(told):
                words = "; ".join(str(trouble) or type(trouble).__name__ for trouble in troubles)
                raise Unclear(f"{len(troubles)} of {len(wires)} hosts could not be listed: {words}"[:600], maybe_created=False)
            return [instance for rows in told if not isinstance(rows, BaseException) for instance in rows]

    async def destroy(self, instance_id: str) -> None:
        """SIGTERM, a short grace, SIGKILL until none is left, the wipe, and only then the slot is free."""
        with guarded("ssh destroy"):
            wire, tag = self._place(instance_id)
            if wire is None:
                return
            left = await wire.ask("destroy", tag=tag, root=wire.host.root, first_uid=wire.host.first_uid)
            if left != 0:
                raise Unclear(f"host {wire.host.name}: {left} processes of {tag} do not end", maybe_created=False)

    async def check(self) -> Health:
        """Every host: its GPUs, its free slots, or what is wrong with it."""
        facts, troubles, free = dict[str, str](), 0, 0
        wires = [wire for wire in self._wires.values() if wire.host.state is not State.RETIRED]
        words = await asyncio.gather(*(self._word(wire.host) for wire in wires))
        for wire, (ok, slots, word) in zip(wires, words, strict=True):
            facts[wire.host.name] = word
            troubles += not ok
            free += slots
        facts |= {name: "retired" for name, wire in self._wires.items() if wire.host.state is State.RETIRED}
        slots = sum(wire.host.slots for wire in wires)
        if troubles:
            bad = ", ".join(wire.host.name for wire, (ok, _, _) in zip(wires, words, strict=True) if not ok)
            return Health(False, f"{troubles} of {len(wires)} hosts cannot be used: {bad}", facts)
        return Health(True, f"{free} of {slots} slots on {len(wires)} hosts are free", facts)

    async def aclose(self) -> None:
        """Ends the connections; the instances live on."""
        await asyncio.gather(*(wire.aclose() for wire in self._wires.values()))

    def _say(self, name: str, trouble: str) -> None:
        """In the log, once for each change: offers are asked for every few seconds."""
        if trouble != self._troubled.get(name, ""):
            log.warning("host %s %s", name, f"makes no offer: {trouble}" if trouble else "makes offers again")
        self._troubled[name] = trouble

    async def _offered(self, wire: Wire) -> list[Offer]:
        facts = await self._facts(wire.host.name)
        with guarded(f"host {wire.host.name}"):
            if problem := self._problem(wire.host, facts):
                raise NoCapacity(f"host {wire.host.name}: {problem}")
            return self._slots(wire.host, facts)

    async def _facts(self, name: str) -> Mapping[str, Any]:
        with guarded(f"host {name}"):
            wire = self._wires[name]
            return table(await wire.ask("facts", root=wire.host.root, smi=wire.host.nvidia_smi))

    async def _listed(self, wire: Wire, owner: str) -> list[Instance]:
        with guarded(f"host {wire.host.name}"):
            rows = tables(await wire.ask("listing", owner=owner, root=wire.host.root, first_uid=wire.host.first_uid))
            return [self._instance(wire.host, row) for row in rows if row.get("owner") == owner]

    async def _word(self, host: Host) -> tuple[bool, int, str]:
        """Whether it is well, its free slots, and a sentence."""
        try:
            facts = await self._facts(host.name)
            with guarded(f"host {host.name}"):
                problem = self._problem(host, facts)
                free = len(self._slots(host, facts)) if not problem else 0
                taken = len({int(slot) for slot in facts["taken"]})
                cards = tables(table(facts["cards"])["cards"])
                driver = f", driver {cards[0]['driver']}" if cards else ""
                told = ", ".join(sorted({f"{host.gpus} × {card['name']}" for card in cards})) if host.gpus else "no GPU"
                rest = f"{facts['machine']}, Linux {facts['kernel']}, Python {facts['python']}"
        except ProviderError as error:
            return False, 0, str(error)
        if problem:
            return False, 0, problem
        told = told or f"{host.gpus} GPUs by the settings: nvidia-smi is not there"
        busy = host.slots - free - taken
        shared = f" and {busy} whose GPUs another program uses" if busy else ""
        drained = ", drained" if host.state is State.DRAINED else ""
        return True, free, f"{free} of {host.slots} slots free{shared}{drained}; {told}{driver}; {rest}"[:300]

    def _problem(self, host: Host, facts: Mapping[str, Any]) -> str:
        """Why a host that answers may not be used now; empty if it may."""
        cards = table(facts["cards"])
        listed, gib = len(tables(cards["cards"])), int(facts["disk_bytes"]) // GIB
        if facts["trouble"]:
            return str(facts["trouble"])[:300]
        if host.first_uid and not facts["root"]:
            return "a user for each slot needs root, or sudo, on the host"
        if gib < self.settings.min_disk_gib:
            return f"only {gib} GiB of disk are free, and min_disk_gib is {self.settings.min_disk_gib}"
        if host.gpus and cards["problem"] and cards["problem"] != "absent":
            return str(cards["problem"])[:300]
        if host.gpus and not cards["problem"] and listed < host.gpus:
            return f"nvidia-smi lists {listed} of {host.gpus} GPUs"
        return ""

    def _slots(self, host: Host, facts: Mapping[str, Any]) -> list[Offer]:
        """An offer for each slot that is free and whose GPUs nobody uses."""
        cards = tables(table(facts["cards"])["cards"])
        taken = {int(slot) for slot in facts["taken"]}
        offers: list[Offer] = []
        for slot in sorted(set(range(1, host.slots + 1)) - taken):
            mine = cards[(slot - 1) * host.each : slot * host.each]
            if not any(card["used"] for card in mine):
                offers.append(self._offer(host, slot, mine, facts))
        return offers

    def _offer(self, host: Host, slot: int, cards: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> Offer:
        machine = str(facts["machine"])
        told = min((round(int(card["memory_mib"]) / 1024) for card in cards), default=host.gpu_memory_gib)
        return Offer(
            id=f"{host.name}/slot-{slot}",
            provider=self.name,
            region=host.region,
            price_per_hour=host.price,
            currency=self.settings.currency,
            seen_at=self._clock.now(),
            country=host.country or None,
            gpu=(str(cards[0]["name"])[:100] if cards else host.gpu or None) if host.each else None,
            gpus=host.each,
            gpu_memory_gib=told if host.each else 0,
            memory_gib=int(facts["memory_bytes"]) // GIB // host.slots,
            disk_gib=int(facts["disk_bytes"]) // GIB,
            architecture=ARCHITECTURES.get(machine, machine),
            own=host.own,
            availability=Availability.AVAILABLE,
            title=f"slot {slot} of {host.slots} on {host.name}",
            type=host.name,
        )

    def _place(self, instance_id: str) -> tuple[Wire | None, str]:
        """Whom to ask for an id. Nobody for one that is not of our shape, and for a retired host's."""
        name, colon, tag = instance_id.partition(":")
        if not colon or not HOST.fullmatch(name) or not TAG.fullmatch(tag):
            return None, ""
        wire = self._wires.get(name)
        if wire is None:
            raise Unclear(
                f'host {name} is not in the settings any more: put it back, or say state = "retired" once it is off',
                maybe_created=False,
            )
        return (None, "") if wire.host.state is State.RETIRED else (wire, tag)

    def _instance(self, host: Host, row: Mapping[str, Any]) -> Instance:
        tag, created = str(row["tag"]), row.get("created_at")
        if not TAG.fullmatch(tag):
            raise ValueError("the host shows a tag that is none")
        phase = PHASES.get(str(row["state"]), Phase.UNKNOWN)
        at = datetime.fromisoformat(created) if isinstance(created, str) else None
        detail, key = str(row.get("detail", ""))[:300], row.get("key")
        return Instance(f"{host.name}:{tag}", tag, phase, at, host.region, detail, key if isinstance(key, str) else "")


def _troubles(told: Sequence[object]) -> list[Exception]:
    """What went wrong; a cancellation goes on."""
    for result in told:
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result
    return [result for result in told if isinstance(result, Exception)]
