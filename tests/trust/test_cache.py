"""What was looked at once is not asked for again; what is revoked, or unsigned, is known at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from app.core.images import Refusal
from app.trust.faults import RegistryAway
from tests.trust.scene import Scene, key


async def test_a_known_digest_costs_no_call_and_a_tag_costs_one(scene: Scene) -> None:
    digest = scene.image(signed=True)
    first = await scene.judge()
    scene.registry.seen.clear()
    again = await scene.judge()
    assert scene.registry.asked() == ["HEAD /v2/ci/gpu/manifests/v3"]
    assert (again.evidence, again.checks, again.manifests) == (first.evidence, first.checks, first.manifests)
    scene.registry.seen.clear()
    scene.registry.down = True
    assert (await scene.judge(f"registry.test/ci/gpu@{digest}")).allowed
    assert (await scene.judge(f"registry.test/ci/gpu:whatever@{digest}")).reference == first.reference
    assert scene.registry.seen == []


async def test_what_is_known_is_known_for_its_time(scene: Scene) -> None:
    digest = scene.image(signed=True)
    await scene.judge()
    scene.clock.advance(timedelta(minutes=59))
    scene.registry.down = True
    assert (await scene.judge(f"registry.test/ci/gpu@{digest}")).allowed
    scene.clock.advance(timedelta(minutes=2))
    with pytest.raises(RegistryAway):
        await scene.judge(f"registry.test/ci/gpu@{digest}")


async def test_a_rule_knows_only_what_was_looked_at_for_it(scene: Scene) -> None:
    scene.image(signed=True)
    assert (await scene.judge()).allowed
    assert (await scene.refused(keys=(key("other.pub").public,)))[0] == Refusal.WRONG_KEY


async def test_revoking_takes_effect_at_once_and_so_does_taking_it_back(scene: Scene) -> None:
    digest = scene.image(signed=True)
    assert (await scene.judge()).allowed
    scene.registry.down = True
    pinned = f"registry.test/ci/gpu@{digest}"
    assert (await scene.refused(pinned, revoked=frozenset({digest})))[0] == Refusal.REVOKED
    assert (await scene.judge(pinned)).allowed


async def test_a_refusal_is_not_kept(scene: Scene) -> None:
    digest = scene.image()
    assert (await scene.refused())[0] == Refusal.UNSIGNED
    scene.sign(digest)
    assert (await scene.judge()).allowed


async def test_what_is_known_ends_when_the_signature_gets_too_old(scene: Scene) -> None:
    digest = scene.image()
    scene.sign(digest, optional={"timestamp": int((scene.clock.now() - timedelta(hours=23, minutes=50)).timestamp())})
    assert (await scene.judge(oldest=timedelta(days=1))).allowed
    scene.clock.advance(timedelta(minutes=11))
    assert (await scene.refused(oldest=timedelta(days=1)))[0] == Refusal.TOO_OLD


async def test_many_who_ask_at_once_look_once(scene: Scene) -> None:
    digest = scene.image(signed=True)
    pinned = f"registry.test/ci/gpu@{digest}"
    verdicts = await asyncio.gather(*(scene.judge(pinned) for _ in range(20)))
    assert all(verdict.allowed for verdict in verdicts)
    assert scene.registry.asked(".sig") == [f"GET /v2/ci/gpu/manifests/{digest.replace(':', '-')}.sig"]


async def test_one_that_stops_waiting_does_not_end_it_for_the_others(scene: Scene) -> None:
    digest = scene.image(signed=True)
    pinned = f"registry.test/ci/gpu@{digest}"
    first = asyncio.create_task(scene.judge(pinned))
    await asyncio.sleep(0)
    second = asyncio.create_task(scene.judge(pinned))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).allowed
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_all_who_wait_hear_that_the_registry_is_away(scene: Scene) -> None:
    digest = scene.image(signed=True)
    scene.registry.down = True
    pinned = f"registry.test/ci/gpu@{digest}"
    heard = await asyncio.gather(*(scene.judge(pinned) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in heard] == [RegistryAway] * 3
    scene.registry.down = False
    assert (await scene.judge(pinned)).allowed


async def test_closing_ends_what_is_under_way(scene: Scene) -> None:
    digest = scene.image(signed=True)
    waiting = asyncio.create_task(scene.judge(f"registry.test/ci/gpu@{digest}"))
    await asyncio.sleep(0)
    await scene.trust.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting
