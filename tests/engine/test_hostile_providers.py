"""A provider that talks nonsense, fails in its own way or says nothing delays no other, and costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.core.model import Reason
from app.core.placement import sound
from app.core.states import State
from app.engine import bill, reaper, reconcile
from app.engine.watch import meter
from app.store.db import Database
from providers.contract import Instance, Need, Offer, Order, Phase, Refused, Traits
from providers.fake import FakeSettings
from tests.core.values import NOON, lease, offer
from tests.world import World, pool_of

LABELS = ["gpu", "rubin"]
TWO = {"bad": FakeSettings(price_per_hour=Decimal(1)), "good": FakeSettings()}
NONSENSE: list[dict[str, Any]] = [
    {"price_per_hour": Decimal("NaN")},
    {"price_per_hour": Decimal(-3)},
    {"price_per_hour": Decimal("Infinity")},
    {"price_per_hour": 1.5},
    {"provider": "good"},
    {"provider": "nobody"},
    {"currency": "JPY"},
    {"seen_at": NOON.replace(tzinfo=None)},
    {"id": ""},
    {"id": "x" * 5_000},
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=range(len(NONSENSE)))
def test_an_offer_that_makes_no_sense_is_no_offer(nonsense: dict[str, Any]) -> None:
    good = offer("fine")
    assert sound([replace(offer("odd"), **nonsense), good], "cloud", Traits()) == [good]


def test_of_offers_with_one_name_the_dearest_counts() -> None:
    """Only the name is ordered by: whichever machine comes, it is within the cap."""
    assert sound([offer("a", "1"), offer("a", "8"), offer("b")], "cloud", Traits()) == [offer("a", "8"), offer("b")]


@pytest.mark.parametrize("nonsense", NONSENSE[:5], ids=range(5))
async def test_nonsense_of_one_cloud_keeps_no_job_from_another(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nonsense: dict[str, Any]
) -> None:
    pool = pool_of(need=Need(gpu="rubin", gpus=1))  # without a cap of price
    async with World(database, tmp_path, clouds=TWO, pools=[pool]) as world:
        honest = world.providers["bad"].offers

        async def lie(need: Need) -> Sequence[Offer]:
            return [replace(one, **nonsense) for one in await honest(need)]

        monkeypatch.setattr(world.providers["bad"], "offers", lie)
        key = world.github.queue(LABELS)
        await world.run_until(world.all_released, within=timedelta(minutes=10))
        assert world.github.conclusion(key) == "success"
        assert world.lease().provider == "good"
        world.assert_clean()


async def test_a_wrapper_that_breaks_keeps_no_job_from_another(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path, clouds=TWO) as world:

        async def breaks(_need: Need) -> Sequence[Offer]:
            raise KeyError("sk-secret-of-the-vendor")

        monkeypatch.setattr(world.providers["bad"], "offers", breaks)
        world.github.queue(LABELS)
        await world.run_until(world.all_released, within=timedelta(minutes=10))
        assert world.lease().provider == "good"
        assert "sk-secret" not in str(world.lease().decision)


async def test_an_answer_to_create_that_names_another_machine_is_no_answer(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it names may be somebody else's, and must never be destroyed for ours."""
    async with World(database, tmp_path) as world:
        provider = world.providers["cloud"]
        honest = provider.create

        async def mixes_up(order: Order) -> Instance:
            return replace(await honest(order), id="somebody-else", tag="sublet-somebody-else")

        monkeypatch.setattr(provider, "create", mixes_up)
        key = world.github.queue(LABELS)
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"
        assert [world.lease().instance_id] == list(world.cloud.machines)
        world.assert_clean()


def test_a_cloud_s_time_without_a_zone_is_no_time() -> None:
    asked = lease(1, asked_at=NOON)
    assert meter(asked, Instance("i", asked.tag, Phase.RUNNING, created_at=NOON.replace(tzinfo=None)), NOON) == {}


async def test_a_cloud_that_never_answers_the_sweep_hides_no_orphan_of_another(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "SWEEP_TIMEOUT", 0.05)
    async with World(database, tmp_path, clouds=TWO) as world:

        async def hangs(_owner: str) -> Sequence[Instance]:
            await asyncio.Event().wait()
            return ()

        monkeypatch.setattr(world.providers["bad"], "owned", hangs)
        for name in ("sublet-nobody-1", "sublet-nobody-2"):
            stray(world, name)
        refused: list[str] = []
        honest = world.providers["good"].destroy

        async def keeps_one(instance_id: str) -> None:
            if not refused:
                refused.append(instance_id)
                raise Refused("this one stays")
            await honest(instance_id)

        monkeypatch.setattr(world.providers["good"], "destroy", keeps_one)
        assert await reaper.survey(world.service.deps) == 0
        world.clock.advance(timedelta(minutes=1))
        assert await reaper.survey(world.service.deps) == 1
        assert [machine.id for machine in world.living()] == refused


def stray(world: World, tag: str) -> None:
    now = world.clock.now()
    order = Order(offer("cloud-1", provider="good"), tag, tag, world.service.deps.owner, "", now + timedelta(hours=1))
    world.providers["good"].cloud.make(order, at=now)


async def test_a_lease_that_cannot_be_booked_holds_up_no_other(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path) as world:
        honest, poisoned = bill.close, list[str]()

        def close(one: Any, spans: Any) -> Any:
            if not poisoned:
                poisoned.append(one.id)
            if one.id in poisoned:
                raise ArithmeticError("poison")
            return honest(one, spans)

        monkeypatch.setattr(bill, "close", close)
        world.github.queue(LABELS)
        await world.run_until(world.all_released)
        second = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.github.conclusion(second)) and world.all_released())
        assert [one.booked_at is None for one in world.leases()] == [True, False]


async def test_a_plan_that_fails_keeps_no_lease_from_its_end(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(database, tmp_path) as world:
        world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.lease().state is State.BUSY)

        def broken(*_: object) -> None:
            raise RuntimeError("no plan")

        monkeypatch.setattr(reconcile, "decide", broken)
        await world.run_until(world.all_released)
        assert world.lease().reason is Reason.JOB_DONE
        world.assert_clean()
