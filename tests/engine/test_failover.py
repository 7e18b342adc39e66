"""One provider after another says no, each in its own way, and the job runs on the next one; what was learnt is kept."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from app.core.model import Reason
from app.core.states import State
from app.store import leases, market, standings
from app.store.db import Database
from providers.contract import Reach, Why
from providers.fake import FakeSettings
from providers.fake_cloud import Trouble
from tests.world import World

LABELS = ["gpu", "rubin"]
SECOND = timedelta(seconds=1)


def clouds(*names: str) -> dict[str, FakeSettings]:
    """The first is the cheapest."""
    return {
        name: FakeSettings(seed=place, price_per_hour=Decimal(place), region=f"region-{name}")
        for place, name in enumerate(names, 1)
    }


def record_of(world: World, database: Database) -> dict[str, Any]:
    """The decision of the one lease there is."""
    (lease,) = world.leases()
    whole = leases.get(database, lease.id)
    assert whole is not None
    return dict(whole.decision or {})


def creates(world: World, name: str) -> int:
    return sum(call.verb == "create" for call in world.providers[name].cloud.calls)


async def test_three_fail_in_three_ways_and_the_job_runs_on_the_fourth_within_one_cycle(
    database: Database, tmp_path: Path
) -> None:
    async with World(database, tmp_path, clouds=clouds("full", "locked", "busy", "good")) as world:
        world.providers["full"].cloud.faults.script("create", Trouble.NO_CAPACITY, text="sold out in region-full")
        world.providers["locked"].cloud.faults.script(
            "create", Trouble.REFUSED, text="the key has expired", why=Why.CREDENTIALS
        )
        world.providers["busy"].cloud.faults.script("create", Trouble.THROTTLED, wait=40 * SECOND)
        began = world.clock.now()
        key = world.github.queue(LABELS)
        await world.run_until(lambda: any(lease.state is State.BOOTING for lease in world.leases()))
        assert world.clock.now() - began < 5 * SECOND, "one beat of the engine at most"
        (lease,) = world.leases()
        assert (lease.provider, lease.attempt) == ("good", 1)
        record = record_of(world, database)
        assert [(no["provider"], no["outcome"]) for no in record["tried"]] == [
            ("full", "no_capacity"),
            ("locked", "provider_refused"),
            ("busy", "throttled"),
        ]
        assert "sold out in region-full" in record["tried"][0]["detail"]
        assert {one["provider"] for one in record["cooldowns"]} == {"full"}
        assert {one["provider"]: one["rule"] for one in record["closed"]} == {
            "locked": "provider-away",
            "busy": "provider-away",
        }
        rules = {verdict["provider"]: verdict["rule"] for verdict in record["verdicts"]}
        assert rules == {"full": "cooling-down", "locked": "provider-away", "busy": "provider-away", "good": ""}
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"
        assert [creates(world, name) for name in ("full", "locked", "busy", "good")] == [1, 1, 1, 1]
        world.assert_clean()


async def test_a_key_that_is_refused_is_no_lack_of_machines_and_is_asked_again_later(
    database: Database, tmp_path: Path
) -> None:
    async with World(database, tmp_path, clouds=clouds("only")) as world:
        world.cloud.faults.script("create", Trouble.REFUSED, text="the key has expired", why=Why.CREDENTIALS)
        key = world.github.queue(LABELS)
        await world.run_until(lambda: any(lease.reason is not None for lease in world.leases()))
        ended = next(lease for lease in world.leases() if lease.attempt == 1)
        assert (ended.reason, ended.reason_text) == (Reason.PROVIDER_REFUSED, "the key has expired")
        await world.run(timedelta(minutes=2))
        assert creates(world, "only") == 1, "while the breaker is open nobody knocks"
        assert "the key has expired" in world.job(key).wait
        await world.run_until(world.all_released, within=timedelta(minutes=30))
        assert world.github.conclusion(key) == "success"
        assert standings.standings(database)["only"].no(world.clock.now()) is None
        world.assert_clean()


async def test_a_cloud_that_cannot_be_reached_holds_no_job_up(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, clouds=clouds("dark", "good")) as world:
        world.providers["dark"].cloud.faults.script("offers", Trouble.BROKEN_OFF, times=None)
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.github.conclusion(key)) and world.all_released())
        (lease,) = world.leases()
        assert lease.provider == "good"
        assert "Provider dark" in record_of(world, database)["troubles"][0]
        world.assert_clean()


async def test_a_wider_no_rests_the_whole_type_and_a_served_job_ends_it(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, clouds=clouds("cheap", "dear")) as world:
        world.providers["cheap"].cloud.faults.script("create", Trouble.NO_CAPACITY, reach=Reach.PROVIDER)
        first = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.github.conclusion(first)) and world.all_released())
        assert [lease.provider for lease in world.leases()] == ["dear"]
        await world.run(timedelta(minutes=2))
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.github.conclusion(key)) and world.all_released())
        assert [lease.provider for lease in world.leases()] == ["dear", "cheap"], "its rest is over"
        world.assert_clean()


async def test_an_unclear_create_is_looked_for_and_nothing_is_asked_elsewhere_meanwhile(
    database: Database, tmp_path: Path
) -> None:
    async with World(database, tmp_path, clouds=clouds("cheap", "dear")) as world:
        world.providers["cheap"].cloud.faults.script("create", Trouble.LOST_REPLY)
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.github.conclusion(key)) and world.all_released())
        assert [lease.provider for lease in world.leases()] == ["cheap"]
        assert creates(world, "dear") == 0
        world.assert_clean()


async def test_a_paused_provider_gets_nothing_new_and_what_lives_goes_on(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, clouds=clouds("cheap", "dear")) as world:
        first = world.github.queue(LABELS)
        await world.run_until(lambda: any(lease.state is State.BUSY for lease in world.leases()))
        standings.pause(database, "cheap", "ann", "their rack is moved", world.clock.now())
        second = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.github.conclusion(second)) and world.all_released())
        assert world.github.conclusion(first) == "success", "nobody ends what runs there"
        assert {lease.provider for lease in world.leases()} == {"cheap", "dear"}
        standings.resume(database, "cheap", "ann", world.clock.now())
        third = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.github.conclusion(third)) and world.all_released())
        assert sorted(lease.provider for lease in world.leases()) == ["cheap", "cheap", "dear"]
        world.assert_clean()


async def test_a_restart_between_two_offers_goes_on_with_the_next(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path, clouds=clouds("full", "good")) as world:
        world.providers["full"].cloud.faults.script("create", Trouble.NO_CAPACITY)
        key = world.github.queue(LABELS)
        await world.run_until(lambda: creates(world, "full") == 1)
        await world.restart()
        await world.run_until(lambda: bool(world.github.conclusion(key)) and world.all_released())
        assert [lease.provider for lease in world.leases()] == ["good"]
        world.assert_clean()


async def test_a_burst_asks_each_cloud_once_and_history_has_one_row_for_a_price_that_stays(
    database: Database, tmp_path: Path
) -> None:
    async with World(database, tmp_path, clouds=clouds("one")) as world:
        for _ in range(5):
            world.github.queue(LABELS)
        await world.run_until(lambda: len(world.leases()) >= 1 and world.all_released(), within=timedelta(hours=2))
        (seen,) = market.offers(database)
        history = market.prices(database, world.clock.now() - timedelta(hours=3))
        assert seen.provider == "one" and seen.gpu == "rubin"
        assert [price.price_per_hour for price in history if price.availability == "available"][:1] == [Decimal(1)]
        assert len(history) < 5
        world.assert_clean()
