"""The doctor says when each forge was last asked for what webhooks missed, and what came of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from app.forges.contract import Pace
from app.store import polls
from app.store.db import Database
from app.web.listen_checks import listen_checks
from app.web.schema import Check
from tests.world import World


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


async def told(world: World) -> Check:
    (found,) = await listen_checks(world.service.parts)
    return found


async def test_the_last_rounds_are_told_with_their_age(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        assert (await told(world)).status == "skip"
        await world.step()
        world.clock.advance(timedelta(minutes=2))
        found = await told(world)
        assert found.status == "ok"
        assert "Open jobs: looked for 2 min" in found.text and "Lost deliveries: looked for 2 min" in found.text
        world.clock.advance(timedelta(hours=1))
        assert (await told(world)).status == "warn"


@pytest.mark.parametrize("said", ["Refused: 403.", "Broken off: no answer.", "Failed: KeyError."])
async def test_a_round_that_came_to_nothing_is_a_warning(database: Database, tmp_path: Path, said: str) -> None:
    async with World(database, tmp_path) as world:
        last = polls.take(database, "poll github", world.clock.now(), timedelta(minutes=5), world.clock.now())
        assert last is not None
        polls.finish(database, last, said, None)
        found = await told(world)
        assert (found.status, said in found.text, bool(found.fix)) == ("warn", True, True)


async def test_a_pace_that_is_not_free_is_told(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with World(database, tmp_path) as world:
        await world.step()
        monkeypatch.setattr(world.github.forge, "pace", lambda: Pace.SLOW)
        assert "a third as often" in (await told(world)).text
        monkeypatch.setattr(world.github.forge, "pace", lambda: Pace.STOP)
        assert (await told(world)).status == "warn"
