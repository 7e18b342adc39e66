"""One rented machine from the inside: it boots, its node speaks, its runner takes a job; or it does none of that."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import httpx

from app.demo.work import Refusal
from providers.contract import Phase
from providers.fake_cloud import FakeCloud, Machine
from tests.fake_node import FakeNode, Manner, Refused, read_user_data
from tests.forge_programs import RunnerProgram, Work

if TYPE_CHECKING:
    from tests.simulation.world import World

TROUBLE = (httpx.ConnectError, httpx.ReadTimeout)


class Node(FakeNode):
    """An agent whose clock may be wrong."""

    skew = timedelta(0)
    world: World

    async def event(self, kind: str, at: str | None = None, **data: Any) -> None:
        if self.skew:
            at = (self.world.clock.now() + self.skew).isoformat()
        await super().event(kind, at, **data)


class Tenant:
    """Lives until its machine is gone."""

    def __init__(self, world: World, cloud: FakeCloud, machine: Machine) -> None:
        self.world, self.cloud, self.machine = world, cloud, machine
        told = read_user_data(machine.user_data)
        self.lease_id, self.token = told.lease, told.token
        world.canaries.add(told.token)
        self.node = Node(cast(httpx.AsyncClient, world.door), told, self._manner())
        self.node.world = world
        if world.happens("node_clock"):
            self.node.skew = timedelta(seconds=world.dice.choice((-7200, -600, 600, 7200, 86_400)))
        self.mute_from = world.dice.uniform(5, 300) if world.happens("node_mute_later") else None
        self.dies = world.happens("runner_dies")
        self.program: RunnerProgram | None = None
        self.side: Any = None
        self.work: Work | None = None
        self.working = False  # a job runs here now
        self.runner_name = ""
        self.born = world.loop.now
        if world.happens("preempted"):
            world.later(world.dice.uniform(1, 1500), self._vanish)
        elif world.happens("stopped"):
            world.later(world.dice.uniform(1, 1500), self._stop)

    def _manner(self) -> Manner:
        world = self.world
        if world.happens("node_silent"):
            return Manner.SILENT
        if world.happens("node_boots_twice"):
            return Manner.TWICE
        return Manner.LIAR if world.happens("node_lies") else Manner.HONEST

    @property
    def here(self) -> bool:
        return (
            self.machine.phase(self.world.clock.now()) in (Phase.RUNNING, Phase.DESTROYING) and self.machine.stopped_at is None
        )

    def _vanish(self) -> None:
        if self.machine.phase(self.world.clock.now()) is not None and self.world.troubled:
            self.world.count("preempted")
            self.cloud.vanish(self.machine.id)

    def _stop(self) -> None:
        if self.machine.phase(self.world.clock.now()) is Phase.RUNNING and self.world.troubled:
            self.world.count("stopped")
            self.cloud.stop(self.machine.id)

    async def live(self) -> None:
        """Its whole life, and perhaps what somebody does with its papers afterwards."""
        await self._live_on()
        if self.world.happens("old_token"):
            await asyncio.sleep(self.world.dice.uniform(5, 1200))
            await self.play_back()

    async def _live_on(self) -> None:
        while self.machine.runs_from is None or self.world.clock.now() < self.machine.runs_from:
            await asyncio.sleep(5)
            if self.machine.phase(self.world.clock.now()) is None:
                return
        if self.node.manner is Manner.SILENT:
            return
        try:
            await self._live()
        except asyncio.CancelledError:
            raise
        except Refusal:
            pass  # the forge let go of its runner
        finally:
            self.working = False
        if self.here:
            self.cloud.stop(self.machine.id)  # the agent powers the machine off

    async def _live(self) -> None:
        world, node = self.world, self.node
        await asyncio.sleep(world.dice.uniform(0.5, 5))
        last_heard = world.loop.now
        while self.here and not node.stopped:
            if self.mute_from is not None and world.loop.now - self.born > self.mute_from and world.troubled:
                await self._mute()
                return
            if world.clock.now() >= self.machine.hard_end:
                return
            try:
                did = await node.step()
                last_heard = world.loop.now
            except TROUBLE:
                did = ""
                if world.loop.now - last_heard > world.conditions.silent and not self.working:
                    return  # silent for too long: it powers itself off
            except Refused as refused:
                if refused.status < 429:
                    raise
                did = ""
            if "online" not in node.done:
                await asyncio.sleep(0.5 if did else 10)
                continue
            if self.program is None:
                self._start_runner()
            if await self._work():
                await asyncio.sleep(5)
                await self._beat_until_end()
                return

    def _start_runner(self) -> None:
        credential = self.node.credential or {}
        for side in self.world.sides.values():
            found = side.identity(credential)
            if found is not None:
                self.side = side
                self.runner_name, secret = found
                self.world.canaries.add(secret[-60:])
                self.program = side.program(credential)

    async def _work(self) -> bool:
        """A look at the forge for a job; True once the runner has ended."""
        world, program = self.world, self.program
        assert program is not None
        if self.dies and world.dice.random() < 0.3:
            world.count("runner_dies")
            return await self._tell(self.node.exit(2))
        now = world.clock.now()
        work = program.take(now)
        if work is None:
            if program.ended is not None:
                return await self._tell(self.node.exit(program.ended))
            await self._wait(world.conditions.heartbeat, lambda: True)
            return False
        return await self._run(program, work)

    async def _run(self, program: RunnerProgram, work: Work) -> bool:
        world = self.world
        self.work, self.working = work, True
        world.watch.started(self, work.key)
        allowed = await self._ask(work) if work.claim else True  # without a hook nobody asks, and it has begun already
        if allowed:
            world.watch.allowed.add(f"{self.side.name}-{work.key}")
        ends = world.loop.now + (self._lasts() if allowed else 0.0)
        while world.loop.now < ends:
            await asyncio.sleep(min(world.conditions.heartbeat, max(ends - world.loop.now, 0.01)))
            if not self.here:
                return True
            if self.side.renew(program, work.key):
                self.side.abandon(program, work.key)
                self.working = False
                return await self._tell(self.node.exit(0))
            if self.mute_from is not None and world.loop.now - self.born > self.mute_from and world.troubled:
                await self._mute(program, work.key, ends)
                return True
            try:
                if "job" not in self.node.done and not work.claim:
                    await self.node.begun()  # until it is told
                await self.node.heartbeat()
            except (*TROUBLE, Refused):
                continue
            if self.node.stopped and world.clock.now() >= self.machine.hard_end:
                return True
        if not self.here:
            return True
        program.finish(work, allowed and world.dice.random() > 0.1, world.clock.now())
        self.working = False
        return await self._tell(self.node.exit(0))

    def _lasts(self) -> float:
        """A node that will fall silent has a long job more often than not, or nobody would notice."""
        lasts = self.world.durations()
        return lasts if self.mute_from is None else max(lasts, self.world.dice.choice((20.0, 900.0, 1800.0)))

    async def _ask(self, work: Work) -> bool:
        """As the agent's hook does: without an answer in time the job does not begin."""
        for _ in range(20):
            try:
                allowed, lines = await self.node.job_started(**work.claim)
                await self.node.log(*lines)
                return allowed
            except TROUBLE:
                await asyncio.sleep(3)
            except Refused as refused:
                if refused.status < 429:
                    return False
                await asyncio.sleep(3)
        return False

    async def _mute(self, program: RunnerProgram | None = None, key: str = "", ends: float = 0.0) -> None:
        """The agent is dead. Its machine is not; and its job goes on for a while, or dies with it."""
        world = self.world
        world.count("node_mute_later")
        goes_on = program is not None and world.dice.random() < 0.8
        while goes_on and program is not None and world.loop.now < ends and self.here:
            await asyncio.sleep(world.conditions.heartbeat)
            if self.here and self.side.renew(program, key):
                break
        if goes_on and self.here and self.work is not None and program is not None:
            program.finish(self.work, True, world.clock.now())
        self.working = False
        while self.machine.phase(world.clock.now()) is not None:  # noqa: ASYNC110  time alone ends it
            await asyncio.sleep(120)

    async def _tell(self, word: Any) -> bool:
        try:
            await word
        except (*TROUBLE, Refused):
            pass  # the heartbeats go on, and the forge knows it anyway
        return True

    async def _beat_until_end(self) -> None:
        """After its runner ended: the agent repeats what it could not tell, until it is told to stop."""
        world = self.world
        for _ in range(40):
            if not self.here or self.node.stopped:
                return
            try:
                if "exit" not in self.node.done:
                    await self.node.exit(0)
                await self.node.heartbeat()
            except (*TROUBLE, Refused):
                pass
            await asyncio.sleep(world.conditions.heartbeat)

    async def _wait(self, seconds: float, _: Any) -> None:
        """Until then, or until the forge has something new."""
        await self.world.news(seconds)

    async def play_back(self) -> None:
        """Somebody who read its start-up script tries the token, and a made-up session, long after."""
        stranger = FakeNode(cast(httpx.AsyncClient, self.world.door), self.node.told)
        try:
            response = await stranger.post("join", {"lease": self.lease_id, "token": self.token, "session": stranger.session})
        except TROUBLE:
            return
        self.world.count("old_token")
        if response.is_success and "join" in self.node.done:
            self.world.broken("a join token was taken twice", json.dumps({"lease": self.lease_id}))
