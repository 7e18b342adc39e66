"""Machines from a Terraform module of the user's own: `plan`, `apply` and `destroy`, one workspace and state per lease.

The module takes documented inputs (tag, owner, ends_at, user_data, ...) and gives documented outputs (id, phase, ...);
docs/how-to/providers/terraform.md has them. Every run is a process of its own that a dying service does not touch, so
the state is never lost; whatever differs between before and after a crash lies in files (terraform_leases.py).
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from providers import terraform_runs
from providers.clock import SYSTEM, Clock
from providers.contract import (
    TAG,
    Health,
    Instance,
    Need,
    NoCapacity,
    Offer,
    Order,
    Profile,
    ProviderError,
    Reach,
    Refused,
    Throttled,
    Traits,
    Unclear,
    guarded,
    vet,
)
from providers.terraform_leases import Leases, Look, Record
from providers.terraform_modules import Modules, Version
from providers.terraform_phases import instance_of, is_gone
from providers.terraform_runs import Run, Verb, read
from providers.terraform_settings import TerraformSettings, offered, patterns, shelves
from providers.terraform_steps import Steps, environment_of
from providers.terraform_words import errors, hidden, shown, sort

log = logging.getLogger(__name__)

PROFILE = Profile(
    pricing="what your settings say",
    proven_against="vendor software: Terraform 1.11 with terraform_data; where it is not installed, a stand-in of ours",
)


class TerraformProvider:
    """See the module. An instance's id is its tag: it is known before Terraform begins, and after every crash."""

    Settings = TerraformSettings

    def __init__(self, name: str, settings: TerraformSettings, *, clock: Clock = SYSTEM) -> None:
        self.name = name
        self.settings = settings
        self.traits = Traits(
            billing_granularity=settings.billing_granularity,
            billing_minimum=settings.billing_minimum,
            currency=settings.currency,
            spot=any(shelf.spot for shelf in shelves(settings).values()),
            spot_notice=settings.spot_notice,
            boots_from=settings.boots_from,
            idempotent_create=True,  # the folder of the lease is there before anything is asked for
            unique_names=True,
            knows_at_once=True,
            unknown_window=timedelta(minutes=1),
            user_data_limit=settings.user_data_limit,
            tag_limit=63,
            dead_man_switch=settings.dead_man_switch,
            profile=PROFILE,
            notes={"state": f"Terraform's states lie under {settings.root}; they belong into the backup"},
        )
        self._clock = clock
        self._shelves = shelves(settings)
        root = settings.root.absolute()
        secrets = [secret.reveal() for secret in settings.secrets.values()]
        self._secrets = secrets
        self._leases = Leases(root)
        environment = environment_of(root, settings)
        self._modules = Modules(
            root, settings.module, settings.binary, environment, seconds=settings.init_timeout.total_seconds(), secrets=secrets
        )
        self._steps = Steps(self._leases, self._modules, settings, environment)
        self._looked: dict[str, datetime] = {}  # tag -> when the vendor was last asked

    async def offers(self, need: Need) -> Sequence[Offer]:
        """What the settings list; none once every slot is taken. Whether the vendor has one, only an apply tells."""
        with guarded("terraform offers"):
            if len(await asyncio.to_thread(self._leases.tags)) >= self.settings.slots:
                return []
            return [offered(shelf, self.name, self.settings, self._clock.now()) for shelf in self._shelves.values()]

    async def create(self, order: Order) -> Instance:
        """Waits for the apply as long as `wait` says; a longer one goes on, and the instance is STARTING."""
        with guarded("terraform create", maybe_created=True):
            vet(order, self.traits)
            if order.tag == "default":
                raise Refused("no Terraform workspace of our own may be named default")
            if order.offer.id not in self._shelves:
                raise Refused(f"there is no offer {order.offer.id[:80]!r} in the settings of {self.name}")
            await asyncio.to_thread(self._begin, order)
            await self._wait(order.tag)
            return await self._made(order)

    async def get(self, instance_id: str) -> Instance | None:
        """None only after a destroy that succeeded and left an empty state, or where nothing was ever applied."""
        with guarded("terraform get"):
            if not TAG.fullmatch(instance_id):
                return None
            look = await asyncio.to_thread(self._settle, instance_id)
            if look is not None and self._is_due(instance_id, look):
                await asyncio.to_thread(self._start, instance_id, Verb.REFRESH)
                await self._wait(instance_id)
                look = await asyncio.to_thread(self._leases.look, instance_id)
                run = None if look is None else look.run
                if run is not None and run.verb is Verb.REFRESH and not run.busy and not run.done("refresh"):
                    raise Unclear(f"terraform refresh: {self._said(instance_id, run)}", maybe_created=False)
            return None if look is None else instance_of(instance_id, look, self.settings.phases)

    async def owned(self, owner: str) -> Sequence[Instance]:
        """From the folders. One whose order cannot be read counts as this owner's: better asked about than forgotten."""
        with guarded("terraform owned"):
            return await asyncio.to_thread(self._owned, owner)

    async def destroy(self, instance_id: str) -> None:
        """A create that is at work is asked to stop first. Raises `Unclear` if Terraform fails; the state stays."""
        with guarded("terraform destroy"):
            if not TAG.fullmatch(instance_id) or not await asyncio.to_thread(self._ask_to_end, instance_id):
                return
            await self._wait(instance_id)
            look = await asyncio.to_thread(self._settle, instance_id)
            if look is not None and look.run is not None and not look.busy and look.run.verb is not Verb.DESTROY:
                await asyncio.to_thread(self._ask_to_end, instance_id)  # what was stopped has written its state
                await self._wait(instance_id)
                look = await asyncio.to_thread(self._settle, instance_id)
            if look is not None and look.run is not None and not look.busy:
                raise Unclear(f"terraform destroy: {self._said(instance_id, look.run)}", maybe_created=False)

    async def check(self) -> Health:
        """Prepares the module, which costs nothing at the vendor, and counts."""
        try:
            with guarded("terraform check"):
                version = await asyncio.to_thread(self._modules.current)
                tags = await asyncio.to_thread(self._leases.tags)
                facts = {"program": await asyncio.to_thread(self._modules.program), "module": version.name}
                lost = sorted(read(self._steps.cut_off))
        except ProviderError as error:
            return Health(False, str(error))
        if lost:
            facts["cut off"] = ", ".join(lost)  # a person may look for machines of these names at the vendor's
        return Health(True, f"{self.settings.slots - len(tags)} of {self.settings.slots} slots are free", facts)

    async def aclose(self) -> None:
        """Nothing to close: the runs live on."""

    async def _wait(self, tag: str) -> None:
        """Until no run of the lease is at work, or the time is up. Real processes: no clock of a test moves them."""
        end, pause = time.monotonic() + self.settings.wait.total_seconds(), 0.01
        while time.monotonic() < end:
            run = terraform_runs.last(self._leases.folder / tag)
            if run is None or not run.busy:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.5)

    def _begin(self, order: Order) -> None:
        """Write down what is ordered, and start its run, unless that has happened already."""
        leases = self._leases
        there = leases.look(order.tag)
        version = self._modules.current() if there is None else None
        with leases.locked():
            leases.sweep()
            there = leases.look(order.tag)
            if there is None:
                self._place(order, version or self._modules.current())
            elif self._same(order, there):
                return
            self._steps.start(order.tag, Verb.CREATE)

    def _place(self, order: Order, version: Version) -> None:
        leases = self._leases
        tags = leases.tags()
        if len(tags) >= self.settings.slots:
            raise NoCapacity(f"all {self.settings.slots} slots are taken", reach=Reach.PROVIDER)
        if leases.busy() >= self.settings.at_once:
            raise Throttled(f"{self.settings.at_once} runs of Terraform are at work", wait=timedelta(seconds=5))
        records = [leases.record(tag) for tag in tags]
        self._modules.retire(frozenset({version.name, *(record.module for record in records if record is not None)}))
        shelf = self._shelves[order.offer.id]
        now = self._clock.now().isoformat()
        ends_at = order.ends_at.astimezone(UTC).isoformat()
        record = Record(order.tag, order.key, order.owner, shelf.offer, shelf.region, version.name, now, ends_at)
        given = {**self.settings.variables, **shelf.variables}
        ours = {
            "tag": order.tag,
            "owner": order.owner,
            "key": order.key,
            "ends_at": ends_at,
            "user_data": order.user_data,
            "image": order.image,
            "offer": shelf.offer,
            "type": shelf.type,
            "region": shelf.region,
            "gpu": shelf.gpu,
            "gpus": shelf.gpus,
            "disk_gib": shelf.disk_gib,
            "spot": shelf.spot,
        }
        leases.place(record, {**given, **{key: value for key, value in ours.items() if key in version.inputs}})

    def _same(self, order: Order, there: Look) -> bool:
        """Whether nothing is to be done for this order. Raises if what is there is not what is asked for."""
        if there.record is None or there.record.owner != order.owner:
            raise Refused(f"the name {order.tag} is taken by an instance that is not ours")
        if there.record.key != order.key:
            raise Unclear(f"an instance {order.tag} of another attempt is there")
        if there.ending:
            raise Unclear(f"{order.tag} is being destroyed", maybe_created=False)
        return there.busy or (there.created is not None and there.created.done("apply"))

    async def _made(self, order: Order) -> Instance:
        """What came of the run. A definite no leaves nothing behind."""
        look = await asyncio.to_thread(self._leases.look, order.tag)
        run = None if look is None else look.created
        if look is None or run is None:
            raise Unclear(f"{order.tag} was destroyed while it was being created", maybe_created=False)
        if look.busy or run.done("apply"):
            self._looked[order.tag] = self._clock.now()
            return instance_of(order.tag, look, self.settings.phases)
        if run.cut_off or run.word != "finished":
            raise Unclear(f"terraform {'was killed' if run.cut_off else f'is {run.word}'} in a create", maybe_created=True)
        step = "apply" if "apply" in run.begun else "plan"
        said = f"terraform {step}: {self._said(order.tag, run)}"
        no = sort(self._errors(run), said, patterns(self.settings))
        if not look.applied or (run.done("show") and look.shown is not None and look.shown.resources == 0):
            await asyncio.to_thread(self._forget, order.tag, run)
            raise no or (Refused(said) if step == "plan" else Unclear(said))
        if no is not None:
            await self._undo(order.tag, no)  # what the apply had made before the vendor said no
            raise no
        raise Unclear(said)

    async def _undo(self, tag: str, no: ProviderError) -> None:
        try:
            await self.destroy(tag)
            left = await self.get(tag)
        except ProviderError as error:
            raise Unclear(f"{no}; and what it had made is still there: {error}") from None
        if left is not None:
            raise Unclear(f"{no}; what it had made is being destroyed")

    def _forget(self, tag: str, run: Run) -> None:
        """Take away a lease that this run left with nothing: never one that another run has gone on with."""
        with self._leases.locked():
            look = self._leases.look(tag)
            if look is not None and look.run is not None and look.run.folder == run.folder and not look.busy:
                self._leases.remove(tag)

    def _start(self, tag: str, verb: Verb) -> None:
        with self._leases.locked():
            look = self._leases.look(tag)
            if look is None or look.busy:
                return
            if verb is Verb.REFRESH:
                self._looked[tag] = self._clock.now()
                if look.ending or self._leases.busy() >= self.settings.at_once:
                    return
            self._steps.start(tag, verb)

    def _ask_to_end(self, tag: str) -> bool:
        """Whether there is anything to wait for."""
        with self._leases.locked():
            look = self._leases.look(tag)
            if look is None:
                return False
            self._leases.ask_to_end(tag)
            if look.busy and look.run is not None:
                if look.run.verb is not Verb.DESTROY:
                    terraform_runs.stop(look.run)
                return True
            if not look.applied:
                self._leases.remove(tag)
                return False
            self._steps.start(tag, Verb.DESTROY)
            return True

    def _settle(self, tag: str) -> Look | None:
        """The lease; a destroyed one is taken away first."""
        look = self._leases.look(tag)
        if look is None or not is_gone(look):
            return look
        with self._leases.locked():
            look = self._leases.look(tag)
            if look is None or not is_gone(look):
                return look
            creates = terraform_runs.every(self._leases.folder / tag, Verb.CREATE)
            if any(run.cut_off and "apply" in run.begun for run in creates):
                log.warning("Terraform was killed in the create of %s: look for a machine of that name at the vendor's", tag)
                self._steps.note_cut_off(tag, self._clock.now().isoformat())
            self._leases.remove(tag)
            self._looked.pop(tag, None)
            return None

    def _owned(self, owner: str) -> list[Instance]:
        found: list[Instance] = []
        for tag in self._leases.tags():
            look = self._settle(tag)
            if look is not None and (look.record is None or look.record.owner == owner):
                found.append(instance_of(tag, look, self.settings.phases))
        return found

    def _is_due(self, tag: str, look: Look) -> bool:
        every, now = self.settings.refresh_every, self._clock.now()
        if not every or look.busy or look.ending or look.created is None or not look.created.done("apply"):
            return False
        return now - self._looked.setdefault(tag, now) >= every

    def _said(self, tag: str, run: Run) -> str:
        """What Terraform said in the steps that failed, safe to show."""
        inputs = read(self._leases.folder / tag / "order.tfvars.json")
        texts = self._errors(run) or [f"it is {run.word}" if run.word not in ("", "finished") else "it says nothing"]
        return shown(texts, hidden(str(inputs.get("user_data", "")), self._secrets))

    def _errors(self, run: Run) -> list[str]:
        return [text for step in run.begun if not run.done(step) for text in errors(run.said(step))]
