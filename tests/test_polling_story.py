"""A service that no webhook reaches: what it hears of, when, and what it does not do any more."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from app.core.model import RepositoryRule
from app.settings.forges import ForgejoSettings
from app.store import polls
from app.store.db import Database
from tests.fakes.forgejo import RELEASED
from tests.world import POLL_SECONDS, World

LABELS = ["gpu", "rubin"]
FORGES = pytest.mark.parametrize("forge", ["github", "gitlab", "gitea", "forgejo"])


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@FORGES
async def test_a_repository_that_is_made_later_is_found_by_its_pattern(database: Database, tmp_path: Path, forge: str) -> None:
    """At once where one listing shows all of an owner's jobs; else as soon as the owner's repositories are listed again."""
    async with World(database, tmp_path, forges=[forge], intake={forge: "poll"}) as world:
        side = world.sides[forge]
        side.queue(["other"], "acme/old")
        await world.run(timedelta(minutes=1), stride=5)
        key = side.queue(LABELS, "acme/new")
        queued = world.clock.now()
        soon = timedelta(seconds=POLL_SECONDS + 5)
        if not side.forge.wide:
            await world.run(timedelta(minutes=8), stride=15)
            assert world.leases() == []
            soon = timedelta(minutes=10) + soon
        await world.run_until(lambda: bool(world.leases()), stride=5)
        assert world.clock.now() - queued <= soon
        await world.run_until(lambda: bool(side.conclusion(key)) and world.all_released(), stride=5)
        world.assert_clean()


@FORGES
async def test_where_only_polls_are_heard_the_webhooks_address_is_not_there(
    database: Database, tmp_path: Path, forge: str
) -> None:
    async with World(database, tmp_path, forges=["github", forge][forge == "github" :], intake={forge: "poll"}) as world:
        world.sides[forge].queue(["other"], "acme/train")
        for headers, body in world.sides[forge].deliveries():
            answer = await world.client.post(f"/hooks/{forge}", content=body, headers=headers)
            assert answer.status_code == 404
            assert f"{forge} is polled here" in answer.text
        answer = await world.client.post(f"/hooks/{forge}", content=b"{}")
        assert (answer.status_code, "is polled here" in answer.text) == (404, True)
        await world.run(timedelta(minutes=3), stride=15)
        rounds = {one.name for one in polls.rounds(database)}
        assert f"poll {forge}" in rounds
        assert f"redeliver {forge}" not in rounds, "nothing is sent to us, so nothing can be sent again"
        assert forge == "github" or "redeliver github" in rounds


async def test_a_released_forgejo_tells_no_webhook_of_a_job_and_polls_hear_of_it_in_time(
    database: Database, tmp_path: Path
) -> None:
    """Its webhooks come when a run has ended. So whoever only listens to them hears nothing, and the default polls often."""
    async with World(database, tmp_path, forges=["forgejo"], intake={"forgejo": "webhook"}) as world:
        world.forgejo.server.webhooks = RELEASED
        key = world.forgejo.queue(LABELS)
        await world.run(timedelta(minutes=30), stride=60)
        assert world.leases() == []
        world.forgejo.cancel(key)
        await world.step()
        assert world.answers == [202], "the end of the run was told, and says nothing to us"
        assert world.leases() == []
    told = {"url": "https://forgejo.test", "token": "env:TOKEN", "webhook_secret": "env:SECRET"}
    assert ForgejoSettings.model_validate(told).usual_poll == POLL_SECONDS


async def test_a_released_forgejo_is_served_by_the_polls_of_the_default(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, forges=["forgejo"]) as world:
        world.forgejo.server.webhooks = RELEASED
        key, queued = world.forgejo.queue(LABELS), world.clock.now()
        await world.run_until(lambda: bool(world.leases()))
        assert world.clock.now() - queued <= timedelta(seconds=POLL_SECONDS + 2)
        await world.run_until(lambda: bool(world.forgejo.conclusion(key)) and world.all_released())
        assert world.lease().job_id == f"forgejo-{key}"
        world.assert_clean()


async def test_a_forgejo_15_that_tells_no_runs_is_served_too(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, forges=["forgejo"], intake={"forgejo": "poll"}) as world:
        world.forgejo.server.age()
        key = world.forgejo.queue(LABELS)
        await world.run_until(lambda: bool(world.forgejo.conclusion(key)) and world.all_released())
        assert world.forgejo.conclusion(key) == "success"
        world.assert_clean()


async def test_all_four_forges_are_polled_side_by_side_and_one_that_is_down_delays_no_other(
    database: Database, tmp_path: Path
) -> None:
    names = ["github", "gitlab", "gitea", "forgejo"]
    intake = dict.fromkeys(names, "poll")
    rules = [RepositoryRule("acme/*")]
    async with World(database, tmp_path, forges=names, intake=intake, repositories=rules) as world:
        world.sides["gitlab"].down(True)
        keys = {name: side.queue(LABELS) for name, side in world.sides.items()}
        well = {name: key for name, key in keys.items() if name != "gitlab"}
        await world.run_until(
            lambda: all(world.sides[name].conclusion(key) for name, key in well.items()),
            within=timedelta(minutes=5),
            stride=5,
        )
        assert world.sides["gitlab"].conclusion(keys["gitlab"]) is None
        world.sides["gitlab"].down(False)
        await world.run_until(lambda: bool(world.sides["gitlab"].conclusion(keys["gitlab"])) and world.all_released(), stride=5)
        assert sorted(lease.job_id for lease in world.leases()) == sorted(f"{name}-{key}" for name, key in keys.items())
        world.assert_clean()
