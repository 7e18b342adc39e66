"""Only a signed image: the proof comes before the money, and only a digest travels on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from app.core.images import Provenance, verdict_of
from app.core.model import Reason
from app.core.states import State
from app.store.db import Database
from providers.fake_cloud import Trouble
from tests.engine.signed import (
    AMD64,
    IMAGE,
    KEY,
    LABELS,
    REPOSITORY,
    a_world,
    asked_of,
    signed_registry,
)
from tests.fakes.registry import FakeRegistry
from tests.fakes.signer import SigningKey, dsse_bundle, slsa_1
from tests.world import World

MINUTE = timedelta(minutes=1)


async def test_a_signed_image_runs_by_its_digest_and_the_lease_shows_who_signed_it(database: Database, tmp_path: Path) -> None:
    registry = signed_registry()
    digest = registry.tags[REPOSITORY, "v3"]
    async with a_world(database, tmp_path, registry) as world:
        key = world.github.queue(LABELS)
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"
        (machine,) = world.cloud.machines.values()
        assert machine.image == f"registry.test/ci/gpu@{digest}", "never by the tag"
        lease = world.lease()
        assert (lease.mode, lease.signed, lease.image_digest) == ("contained", True, digest)
        assert lease.image_verdict is not None
        verdict = verdict_of(lease.image_verdict)
        assert verdict.allowed and verdict.asked == IMAGE and verdict.evidence[0].signer.startswith("cosign.pub (SHA256:")
        assert lease.facts is not None and lease.facts.image is not None and lease.facts.image.checked
        assert len(registry.asked("/manifests/v3")) == 1, "the tag is looked up once for a lease"
        world.assert_clean()


async def test_a_provider_of_machines_boots_its_own_image_and_the_node_is_told_what_to_run(
    database: Database, tmp_path: Path
) -> None:
    async with a_world(database, tmp_path, signed_registry(), AMD64, machine_image="ubuntu-24.04") as world:
        world.github.queue(LABELS)
        await world.run_until(world.all_released)
        (machine,), (host,) = world.cloud.machines.values(), world.hosts.values()
        assert machine.image == "ubuntu-24.04"
        told = host.node.image
        assert told is not None and told["reference"] == f"registry.test/ci/gpu@{world.lease().image_digest}"
        assert (told["mode"], told["signed"], told["allow_build"], told["access"]) == ("contained", True, False, None)
        assert [one["kind"] for one in told["signatures"]] == ["cosign tag"]
        assert told["signatures"][0]["key"] == KEY.public.pem


async def test_a_bare_pool_asks_nobody_and_its_lease_wears_the_red_mark(database: Database, tmp_path: Path) -> None:
    async with World(database, tmp_path) as world:
        world.github.queue(LABELS)
        await world.run_until(world.all_released)
        lease = world.lease()
        assert (lease.mode, lease.signed, lease.image, lease.image_verdict) == ("bare", False, None, None)
        assert next(iter(world.hosts.values())).node.image is None


async def test_an_image_that_needs_no_signature_is_pinned_to_its_digest(database: Database, tmp_path: Path) -> None:
    registry = FakeRegistry()
    digest = registry.image(REPOSITORY, "v3")
    async with a_world(database, tmp_path, registry, rule={"signed": False, "keys": ()}) as world:
        key = world.github.queue(LABELS)
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"
        assert [machine.image for machine in world.cloud.machines.values()] == [f"registry.test/ci/gpu@{digest}"]
        assert (world.lease().signed, world.lease().mode) == (False, "contained")


# --- what is refused


def unsigned(registry: FakeRegistry) -> None:
    registry.image(REPOSITORY, "v3")


def wrong_key(registry: FakeRegistry) -> None:
    registry.sign(REPOSITORY, registry.image(REPOSITORY, "v3"), SigningKey("stranger.pub"))


def tampered_manifest(registry: FakeRegistry) -> None:
    registry.sign(REPOSITORY, registry.image(REPOSITORY, "v3"), KEY)
    registry.fault("/manifests/sha256:", method="GET", tamper=True)


def signature_of_another(registry: FakeRegistry) -> None:
    other = registry.image(REPOSITORY, seed="other")
    registry.sign(REPOSITORY, registry.image(REPOSITORY, "v3"), KEY, says=other)


def one_platform_unsigned(registry: FakeRegistry) -> None:
    index = registry.index(REPOSITORY, "v3")
    registry.sign(REPOSITORY, registry.platforms(REPOSITORY, index)[0], KEY)


def no_such_tag(registry: FakeRegistry) -> None:
    registry.image(REPOSITORY, "v4")


REFUSED: tuple[tuple[Callable[[FakeRegistry], None], str, str], ...] = (
    (unsigned, "unsigned", "is not signed"),
    (wrong_key, "wrong_key", "does not count"),
    (tampered_manifest, "tampered", ""),
    (signature_of_another, "wrong_digest", "does not count"),
    (one_platform_unsigned, "platform_unsigned", "its platform arm64"),
    (no_such_tag, "not_found", "has no tag 'v3'"),
)


@pytest.mark.parametrize(("trouble", "code", "words"), REFUSED, ids=[code for _, code, _ in REFUSED])
async def test_an_image_that_fails_is_never_rented_for_and_the_job_says_which_check(
    database: Database, tmp_path: Path, trouble: Callable[[FakeRegistry], None], code: str, words: str
) -> None:
    registry = FakeRegistry()
    trouble(registry)
    async with a_world(database, tmp_path, registry) as world:
        key = world.github.queue(LABELS)
        await world.run(2 * MINUTE)
        assert asked_of(world) <= {"offers"}, "the market is looked at, and nothing is asked for"
        lease = world.lease()
        assert (lease.state, lease.reason) == (State.RELEASED, Reason.IMAGE_REFUSED)
        assert lease.image_verdict is not None and verdict_of(lease.image_verdict).code == code
        wait = world.job(key).wait
        assert wait.startswith("The image may not run, so nothing is rented: ") and lease.reason_text in wait and words in wait
        assert len(world.leases()) == 3, "looked at again after 30 s and 60 s, not at each beat"
        metrics = world.service.telemetry.exposition()[0].decode()
        assert f'sublet_image_verifications_total{{result="{code}"}} 3.0' in metrics
        assert world.ledger() == 0


async def test_signing_it_meanwhile_lets_the_job_go_on(database: Database, tmp_path: Path) -> None:
    registry = FakeRegistry()
    digest = registry.image(REPOSITORY, "v3")
    async with a_world(database, tmp_path, registry) as world:
        key = world.github.queue(LABELS)
        await world.run(timedelta(seconds=20))
        registry.sign(REPOSITORY, digest, KEY)
        await world.run_until(lambda: bool(world.github.conclusion(key)) and world.all_released())
        assert world.github.conclusion(key) == "success" and len(world.leases()) == 2
        world.assert_clean()


async def test_provenance_that_the_pool_asks_for_must_be_there(database: Database, tmp_path: Path) -> None:
    registry = signed_registry()
    digest = registry.tags[REPOSITORY, "v3"]
    rule = {"provenance": Provenance(source="https://github.com/acme/*")}
    async with a_world(database, tmp_path, registry, rule=rule) as world:
        key = world.github.queue(LABELS)
        await world.run(timedelta(seconds=20))
        assert "has no provenance" in world.job(key).wait and world.cloud.machines == {}
        stated = slsa_1(digest, builder="https://github.com/actions/runner", source="https://github.com/acme/train")
        registry.attach(REPOSITORY, digest, dsse_bundle(KEY, stated))
        await world.run_until(lambda: bool(world.github.conclusion(key)) and world.all_released())
        told = verdict_of(world.lease().image_verdict or {})
        assert "provenance" in {one.kind for one in told.evidence if one.good}


async def test_a_registry_that_is_away_means_wait_and_never_yes(database: Database, tmp_path: Path) -> None:
    registry = signed_registry()
    registry.down = True
    async with a_world(database, tmp_path, registry) as world:
        key = world.github.queue(LABELS)
        await world.run(2 * MINUTE)
        assert asked_of(world) <= {"offers"}
        assert world.lease().state is State.PLANNED and len(world.leases()) == 1
        assert f"Its image {IMAGE} cannot be verified now: " in world.job(key).wait
        registry.down = False
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"
        world.assert_clean()


async def test_a_registry_that_throttles_is_left_alone_for_as_long_as_it_says(database: Database, tmp_path: Path) -> None:
    registry = signed_registry()
    registry.fault("/manifests/v3", status=429, headers={"retry-after": "90"}, times=1)
    async with a_world(database, tmp_path, registry) as world:
        world.github.queue(LABELS)
        await world.run(MINUTE)
        assert len(registry.seen) == 1
        await world.run_until(world.all_released)


async def test_a_tag_that_moves_after_the_look_changes_nothing_for_this_lease(database: Database, tmp_path: Path) -> None:
    """No offer at first: by the second look the tag means another, unsigned image. The lease stays with what it verified."""
    registry = signed_registry()
    digest = registry.tags[REPOSITORY, "v3"]
    async with a_world(database, tmp_path, registry) as world:
        world.cloud.faults.script("offers", Trouble.BROKEN_OFF, times=3)
        key = world.github.queue(LABELS)
        await world.run(timedelta(seconds=4))
        assert world.lease().image_digest == digest and world.lease().state is State.PLANNED
        registry.image(REPOSITORY, "v3", seed="moved")
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"
        assert [machine.image for machine in world.cloud.machines.values()] == [f"registry.test/ci/gpu@{digest}"]


async def test_a_digest_that_was_looked_at_costs_the_registry_one_question_about_the_tag(
    database: Database, tmp_path: Path
) -> None:
    registry = signed_registry()
    async with a_world(database, tmp_path, registry) as world:
        world.github.queue(LABELS)
        await world.run_until(world.all_released)
        before = len(registry.seen)
        world.github.queue(LABELS)
        await world.run_until(lambda: len(world.leases()) == 2 and world.all_released())
        assert [f"{one.method} {one.path}" for one in registry.seen[before:]] == ["HEAD /v2/ci/gpu/manifests/v3"]
