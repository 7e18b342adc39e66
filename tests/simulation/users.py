"""Who sets the world going: people who push, cancel and re-run; a network that loses and repeats webhooks; operators."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import httpx

from app.core.model import Reason
from app.store import leases, strays, surveys
from tests.simulation.sides import LABELS, Parcel, unheard

if TYPE_CHECKING:
    from tests.simulation.world import World

DONE = frozenset({"success", "failure", "cancelled", "skipped"})


class Users:
    """See the module."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.keys: list[tuple[str, str]] = []  # forge, job key
        self.foreign: set[str] = set()  # "forge-key" of jobs that are not ours
        self.stolen: set[str] = set()  # "forge-key" and the turn of it
        self.cancelled: set[str] = set()  # the same
        self.accepted: list[Parcel] = []
        self.gone = False  # nobody does anything more

    async def work(self) -> None:
        """All jobs of the seed, spread over its hours or in one burst."""
        world, known = self.world, self.world.conditions
        length = known.hours * 3600.0
        moments = sorted(world.dice.uniform(0, length * 0.1 if known.burst else length * 0.7) for _ in range(known.jobs))
        for moment in moments:
            await asyncio.sleep(max(moment - world.loop.now, 0.0))
            self._queue()
        if world.conditions.rates.get("operator"):
            world.loop.spawn(None, self._operate())

    def _queue(self) -> None:
        world = self.world
        forge = world.dice.choice(sorted(world.sides))
        repository = world.dice.choice(("acme/train", "acme/train", "acme/infer"))
        labels: list[str] = list(LABELS)
        foreign = world.happens("not_ours")
        if foreign:
            world.count("not_ours")
            labels, repository = world.dice.choice(((["ubuntu-latest"], repository), (labels, "evil/miner")))
        asks = forge in ("github", "forgejo") or (forge == "gitea" and world.conditions.gitea_hook)
        fork = asks and not foreign and world.happens("fork_pr")
        gated = not foreign and world.happens("approval_gated")
        side = world.sides[forge]
        key = side.queue(repository, labels, fork=fork, gated=gated)
        self.keys.append((forge, key))
        world.trace(f"job {forge}-{key} {repository}{' fork' if fork else ''}{' gated' if gated else ''}")
        if foreign or fork:
            self.foreign.add(f"{forge}-{key}")
        if fork:
            world.count("fork_pr")
        if gated:
            world.count("approval_gated")
            world.later(world.dice.uniform(5, 1800), side.approve, key)
        if world.happens("cancelled"):
            world.later(world.dice.choice((1, 20, 120, 600)) * world.dice.random(), self._cancel, forge, key)
        if not foreign and world.happens("stolen_runner"):
            world.later(world.dice.uniform(1, 240), self._steal, forge, key)
        if world.happens("rerun"):
            if world.dice.random() < 0.4:
                world.later(world.dice.uniform(300, 3000), self._rerun, forge, key)
            else:  # perhaps sooner than we have heard of its end
                world.later(world.dice.uniform(10, 60), self._rerun_once_ended, forge, key)

    def _cancel(self, forge: str, key: str) -> None:
        self.world.count("cancelled")
        self.cancelled.add(self.world.attempt(forge, key))
        self.world.trace(f"cancel {forge}-{key}")
        self.world.sides[forge].cancel(key)

    def _steal(self, forge: str, key: str) -> None:
        end = self.world.sides[forge].steal(key)
        if end is not None:
            self.world.count("stolen_runner")
            self.stolen.add(self.world.attempt(forge, key))
            self.world.trace(f"a foreign runner takes {forge}-{key}")
            self.world.later(self.world.durations(), end)

    def _rerun_once_ended(self, forge: str, key: str) -> None:
        world = self.world
        if world.sides[forge].all_jobs()[key] in DONE:
            self._rerun(forge, key)
        elif world.troubled:
            world.later(20.0, self._rerun_once_ended, forge, key)

    def _rerun(self, forge: str, key: str) -> None:
        if self.gone:
            return  # what is judged now has settled
        side = self.world.sides[forge]
        before = side.turn(key)
        again = side.rerun(key)
        if again is not None:
            self.world.watch.may_turn(forge, key, side.turn(key) - before)
            self.world.count("rerun")
            self.world.trace(f"{forge}-{key} is run again as {again}")
            self.keys.append((forge, again))
            if f"{forge}-{key}" in self.foreign:
                self.foreign.add(f"{forge}-{again}")

    async def _operate(self) -> None:
        """Now and then a person ends a lease, or asks for its drain."""
        world = self.world
        for _ in range(3):
            await asyncio.sleep(world.dice.uniform(60, 1800))
            live = world.watch.all("SELECT id FROM lease WHERE state <> 'released' ORDER BY created_at")
            server = world.choose_server()
            if live and server is not None and world.happens("operator"):
                world.count("operator")
                lease_id, what = world.dice.choice(live)[0], world.dice.choice(("drain", "destroy"))
                world.trace(f"an operator asks for {what} of {lease_id}")
                leases.ask(world.database, lease_id, what, Reason.OPERATOR, "By hand.", "ann", server.clock.now())
                server.service.deps.bell.ring()

    def answer(self) -> None:
        """A person says yes where the sweep has stopped and asks."""
        world = self.world
        for name, survey in surveys.listing(world.database).items():
            if survey.stopped_at is not None:
                waiting = frozenset(one.instance_id for one in strays.open_ones(world.database, name))
                strays.confirm(world.database, name, "ann", world.clock.now(), waiting, "They are ours.")
                world.count("sweep_asked")

    # --- the network between forge and service

    def post(self, parcel: Parcel) -> None:
        """What becomes of one delivery."""
        world, intake = self.world, self.world.conditions.forges[parcel.forge]
        if not intake.webhooks:
            return  # nobody has set one up there
        keeps_on = world.conditions.kept(parcel.forge)
        if world.conditions.deaf or (not keeps_on and world.happens("webhook_lost")):
            world.count("webhook_lost")
            if intake.sure or world.dice.random() < 0.5:
                world.later(0.0, parcel.receipt, 0)  # the forge knows that it failed
            else:
                world.later(0.0, parcel.receipt, 202)  # some box in between said yes, and lost it
            return
        world.loop.spawn(None, self._carry(parcel))
        if world.happens("webhook_repeated"):
            world.count("webhook_repeated")
            world.loop.spawn(None, self._carry(parcel))
        if world.happens("webhook_replayed"):
            world.count("webhook_reordered")
            world.loop.spawn(None, self._carry(renamed(parcel, world.dice), world.dice.uniform(60, 5000)))

    async def _carry(self, parcel: Parcel, wait: float = 0.0) -> None:
        world = self.world
        if not wait and world.happens("webhook_late"):
            world.count("webhook_late")
            wait = world.dice.choice((2.0, 20.0, 300.0, 3000.0)) * world.dice.random()
        await asyncio.sleep(wait)
        keeps_on = world.conditions.kept(parcel.forge)
        response: httpx.Response | None = None
        while response is None or (keeps_on and response.status_code == 503):
            if response is not None:
                await asyncio.sleep(60)
            if not keeps_on and world.happens("webhook_refused"):
                world.count("webhook_refused")
                parcel.receipt(0)
                return
            try:
                response = await world.door.post(f"/hooks/{parcel.forge}", content=parcel.body, headers=parcel.headers)
            except (httpx.ConnectError, httpx.ReadTimeout):
                if not keeps_on:
                    parcel.receipt(0)
                    return
                await asyncio.sleep(60)
        parcel.receipt(response.status_code)
        world.trace(f"webhook {parcel.action} {parcel.job}: {response.status_code}")
        if response.status_code == 202:
            self.accepted.append(parcel)
        if response.status_code not in (202, 503):
            world.broken("a delivery was refused", f"{response.status_code} {response.text[:200]}")


def renamed(parcel: Parcel, dice: random.Random) -> Parcel:
    """The same body and signature under a delivery id of its own, as somebody who recorded it could send it."""
    fresh = f"{dice.getrandbits(128):032x}"
    makers = ("github", "gitea", "gogs", "forgejo")
    names = {"idempotency-key", "x-gitlab-event-uuid", *(f"x-{maker}-delivery" for maker in makers)}
    headers = {name: fresh if name in names else value for name, value in parcel.headers.items()}
    return Parcel(parcel.forge, headers, parcel.body, unheard, parcel.job, parcel.action)
