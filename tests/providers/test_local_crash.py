"""The service is killed with SIGKILL at every step of a local create and destroy: one script runs, and all of it ends."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from providers import local
from providers.clock import SYSTEM
from providers.contract import Instance, Phase
from providers.local import LocalProvider, LocalSettings
from providers.local_folders import Folders
from tests.providers.benches import Orders, plain_offer
from tests.providers.patience import eventually


@dataclass
class Yard:
    """A root, an order whose script counts its runs, and a service that dies."""

    root: Path
    runs: Path

    def __post_init__(self) -> None:
        self.folders = Folders(self.root, "local")
        script = f"echo run >>{self.runs}\nsleep 600 & wait\n"
        self.order = Orders(plain_offer("local", SYSTEM.now()), now=SYSTEM.now(), script=script)()
        self.provider = LocalProvider("local", LocalSettings(self.root))

    async def service_dies_when(self, point: str) -> str:
        """What it said before it died."""
        order = self.order
        words = (str(self.root), order.tag, order.key, order.owner, point)
        service = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.providers.crash",
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        said, errors = await service.communicate(order.user_data.encode())
        assert service.returncode == -signal.SIGKILL, errors.decode()
        return said.decode()

    async def owned(self) -> list[Instance]:
        return list(await self.provider.owned(self.order.owner))

    async def ran(self, times: int) -> None:
        """Wait until the script has run so often, and see that it did not run more often."""
        await eventually(lambda: self.count() >= times, f"{times} runs")
        assert self.count() == times

    def count(self) -> int:
        return self.runs.read_text().count("run") if self.runs.exists() else 0

    def rest(self) -> list[str]:
        return sorted(entry.name for entry in self.root.iterdir() if entry.name != ".lock")


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    place = Yard(tmp_path / "root", tmp_path / "runs")
    yield place
    for tag in place.folders.tags():
        await place.provider.destroy(tag)
    assert not place.folders.processes(place.order.tag)


async def test_killed_before_the_folder_has_its_name_there_is_nothing(yard: Yard) -> None:
    await yard.service_dies_when("drafted")
    assert await yard.owned() == []
    assert await yard.provider.get(yard.order.tag) is None
    await yard.provider.create(yard.order)
    await yard.ran(1)
    assert yard.rest() == [yard.order.tag], "the draft of the dead service is swept away"


async def test_killed_before_the_keeper_the_instance_is_half_created_and_its_create_completes_it(yard: Yard) -> None:
    await yard.service_dies_when("placed")
    assert [(half.tag, half.phase, half.key) for half in await yard.owned()] == [(yard.order.tag, Phase.FAILED, yard.order.key)]
    assert yard.count() == 0
    assert (await yard.provider.create(yard.order)).phase is Phase.RUNNING
    await yard.ran(1)


async def test_a_half_created_instance_can_be_destroyed(yard: Yard) -> None:
    await yard.service_dies_when("placed")
    await yard.provider.destroy(yard.order.tag)
    assert await yard.provider.get(yard.order.tag) is None
    assert yard.rest() == []


async def test_killed_right_after_the_spawn_the_keeper_goes_on_and_a_second_create_starts_nothing(yard: Yard) -> None:
    await yard.service_dies_when("spawned")
    created = await yard.provider.create(yard.order)
    assert created.phase is Phase.RUNNING
    await yard.ran(1)
    assert [instance.id for instance in await yard.owned()] == [created.id]


def keepers(yard: Yard) -> list[psutil.Process]:
    return [process for process in yard.folders.processes(yard.order.tag) if "-I" in process.cmdline()]


def has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # between the two questions
        return True


async def test_a_keeper_that_comes_late_finds_the_name_taken_and_goes(yard: Yard) -> None:
    late = int(await yard.service_dies_when("frozen"))
    await yard.provider.create(yard.order)
    await yard.ran(1)
    keeper = psutil.Process(late)
    keeper.resume()
    await eventually(lambda: has_ended(keeper), "the late one gone")
    await eventually(lambda: len(keepers(yard)) == 1, "one keeper")
    await yard.ran(1)


async def test_a_keeper_that_comes_after_the_destroy_finds_no_folder_and_goes(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "GRACE", 0.1)
    late = int(await yard.service_dies_when("frozen"))
    await yard.provider.destroy(yard.order.tag)
    assert await yard.provider.get(yard.order.tag) is None
    with contextlib.suppress(ProcessLookupError):
        os.kill(late, signal.SIGCONT)
    assert yard.rest() == []
    assert not yard.folders.processes(yard.order.tag)


async def test_killed_between_create_and_record_the_instance_lives_on_and_is_found(yard: Yard) -> None:
    await yard.service_dies_when("started")
    found = await yard.owned()
    assert [(instance.tag, instance.phase) for instance in found] == [(yard.order.tag, Phase.RUNNING)]
    assert (await yard.provider.create(yard.order)).id == found[0].id
    await yard.ran(1)


@pytest.mark.parametrize("point", ["asked to end", "emptied", "renamed"])
async def test_killed_during_a_destroy_the_next_one_ends_it(yard: Yard, point: str) -> None:
    await yard.service_dies_when(point)
    await yard.provider.destroy(yard.order.tag)
    assert await yard.provider.get(yard.order.tag) is None
    assert yard.rest() == []
    assert not yard.folders.processes(yard.order.tag)


async def test_gone_between_rename_and_removal_is_gone_already(yard: Yard) -> None:
    await yard.service_dies_when("renamed")
    assert await yard.provider.get(yard.order.tag) is None
    assert await yard.owned() == []
    await yard.provider.create(replace(yard.order, key="another-attempt"))
    await yard.ran(2)
    assert yard.rest() == [yard.order.tag], "the next create removes the rest"
