"""A database of an earlier release, with a lease in each state, is migrated, and the new code leads every lease to its end."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from app.core.model import Reason
from app.core.states import State
from app.demo.nouns import ApiFault
from app.store import leases
from app.store.db import Database, migrations, upgrade
from providers.fake import FakeSettings
from providers.fake_cloud import Trouble
from tests.world import World

LABELS = ["gpu", "rubin"]
BEFORE = ("0001", "0002")
"""The revisions of earlier releases."""


async def through_an_earlier_release(world: World, url: str, revision: str) -> None:
    """Stop; the rows become what that release would have left; the new release migrates them and starts."""
    with world.database.write() as conn:
        config = Config()
        config.set_main_option("script_location", str(migrations()))
        config.attributes["connection"] = conn
        command.downgrade(config, revision)
    upgrade(url)
    await world.restart()


@pytest.mark.parametrize("revision", BEFORE)
async def test_leases_in_every_state_are_led_to_their_end(
    database: Database, database_url: str, tmp_path: Path, revision: str
) -> None:
    async with World(database, tmp_path, clouds={"cloud": FakeSettings(keeps_records=True)}) as world:
        world.cloud.faults.script("offers", Trouble.BROKEN_OFF)
        world.cloud.faults.script("create", Trouble.THROTTLED, wait=timedelta(seconds=2))
        world.cloud.faults.script("destroy", Trouble.STUCK, wait=timedelta(seconds=20), times=None)
        world.github.state.book.faults.api.append(ApiFault("generate-jitconfig", 502))
        keys = [world.github.queue(LABELS) for _ in range(2)]
        world.github.state.book.limits.lost = timedelta(seconds=20)
        world.job_duration = timedelta(seconds=25)
        seen: set[State] = set()

        async def go_on() -> None:
            await world.step()
            new = {lease.state for lease in world.leases()} - seen
            seen.update(new)
            if new:
                await through_an_earlier_release(world, database_url, revision)
            busy = [lease for lease in world.leases() if lease.state is State.BUSY]
            if len(busy) == 2:  # one is ended by a person, and the forge does not let go of its runner at once
                world.github.state.book.faults.api.append(ApiFault("/actions/runners/", 502, times=2))
                leases.ask(database, busy[0].id, "destroy", Reason.OPERATOR, "Not wanted.", "ada", world.clock.now())

        for _ in range(200):
            await go_on()
            if world.all_released():
                break
        assert seen == set(State)
        await world.run(timedelta(minutes=1))
        assert [world.github.conclusion(key) for key in keys].count("success") == 1
        world.assert_clean()
