"""Only a signed image: the proof comes before the money, only a digest travels on, and what is revoked stops at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.core.images import Mode, Provenance, TrustRule, verdict_of
from app.core.model import Pool, Reason
from app.core.states import State
from app.demo.nouns import ApiFault
from app.store import audit, images
from app.store.db import Database
from app.store.rows import plain
from providers.fake import FakeSettings
from providers.fake_cloud import Trouble
from tests.fake_node import Manner
from tests.fakes.registry import FakeRegistry
from tests.fakes.signer import SigningKey, dsse_bundle, slsa_1
from tests.world import World, pool_of

LABELS = ["gpu", "rubin"]
KEY = SigningKey("cosign.pub")
REPOSITORY = "ci/gpu"
IMAGE = "registry.test/ci/gpu:v3"
AMD64, CONTAINERS = FakeSettings(architecture="amd64"), FakeSettings(architecture="amd64", boots_containers=True)
MINUTE = timedelta(minutes=1)


def signed_pool(**values: Any) -> Pool:
    rule: dict[str, Any] = {"keys": (KEY.public,), **values.pop("rule", {})}
    return pool_of(**{"image": IMAGE, "mode": Mode.CONTAINED, "trust": TrustRule(**rule), **values})


def signed_registry(**how: Any) -> FakeRegistry:
    registry = FakeRegistry(**how)
    registry.sign(REPOSITORY, registry.image(REPOSITORY, "v3"), KEY)
    return registry


def a_world(
    database: Database, folder: Path, registry: FakeRegistry | None, cloud: FakeSettings = CONTAINERS, **pool: Any
) -> World:
    return World(database, folder, pools=[signed_pool(**pool)], clouds={"cloud": cloud}, images=registry)


def asked_of(world: World) -> set[str]:
    """What the cloud was asked, but for its list, which the sweep reads anyway."""
    return {call.verb for call in world.cloud.calls} - {"owned"}


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
        assert asked_of(world) == set(), "not even offers are asked for"
        lease = world.lease()
        assert (lease.state, lease.reason) == (State.RELEASED, Reason.IMAGE_REFUSED)
        assert lease.image_verdict is not None and verdict_of(lease.image_verdict).code == code
        wait = world.job(key).wait
        assert wait.startswith("The image may not run, so nothing is rented: ") and lease.reason_text in wait and words in wait
        assert len(world.leases()) == 3, "looked at again after 30 s and 60 s, not at each beat"
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
        assert asked_of(world) == set()
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
        assert [f"{one.method} {one.path}" for one in registry.seen[before:]] == [
            "HEAD /v2/ci/gpu/manifests/v3",
            f"HEAD /v2/ci/gpu/manifests/{world.lease().image_digest}",  # whether a login is needed to pull it
        ]


# --- revoked


@pytest.mark.parametrize("by", ["settings", "person"])
async def test_a_revoked_digest_is_refused_though_it_is_signed_and_was_looked_at(
    database: Database, tmp_path: Path, by: str
) -> None:
    registry = signed_registry()
    digest = registry.tags[REPOSITORY, "v3"]
    rule = {"revoked": frozenset({digest})} if by == "settings" else {}
    async with a_world(database, tmp_path, registry, rule=rule) as world:
        if by == "person":
            world.github.queue(LABELS)
            await world.run_until(world.all_released)
            images.revoke(database, digest, "CVE-2026-1234 in it", "ada", world.clock.now())
        machines = dict(world.cloud.machines)
        key = world.github.queue(LABELS)
        await world.run(timedelta(seconds=10))
        assert world.cloud.machines == machines
        why = "is revoked in the settings" if by == "settings" else "was revoked: CVE-2026-1234 in it"
        assert why in world.job(key).wait
        if by == "person":
            images.unrevoke(database, digest, "it was another one", "ada", world.clock.now())
            await world.run_until(lambda: bool(world.github.conclusion(key)) and world.all_released())


@pytest.mark.parametrize(
    ("moment", "rented"), [(State.LAUNCHING, False), (State.BOOTING, True), (State.PROVING, True), (State.REGISTERING, True)]
)
async def test_what_is_revoked_meanwhile_goes_no_further_and_gets_no_credential(
    database: Database, tmp_path: Path, moment: State, rented: bool
) -> None:
    registry = signed_registry()
    async with a_world(database, tmp_path, registry) as world:
        world.cloud.faults.script("create", Trouble.THROTTLED, wait=timedelta(seconds=6))
        world.github.state.book.faults.api.append(ApiFault("generate-jitconfig", 502, times=2))
        world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.lease().state is moment, stride=1)
        images.revoke(database, world.lease().image_digest, "it leaks", "ada", world.clock.now())
        first = world.lease()
        await world.run_until(lambda: world.leases()[0].state is State.RELEASED, stride=1)
        ended = world.leases()[0]
        assert ended.reason is Reason.IMAGE_REFUSED and "was revoked: it leaks" in ended.reason_text
        assert bool(world.cloud.machines) is rented
        assert world.github.registered() == []
        assert all(host.node.credential is None for host in world.hosts.values())
        assert first.id == ended.id


async def test_a_credential_that_was_minted_is_not_handed_over_for_an_image_revoked_since(
    database: Database, tmp_path: Path
) -> None:
    async with a_world(database, tmp_path, signed_registry()) as world:
        world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.lease().credential_ready, stride=1)
        images.revoke(database, world.lease().image_digest, "it leaks", "ada", world.clock.now())
        await world.run_until(lambda: world.leases()[0].state is State.RELEASED, stride=1)
        assert world.leases()[0].reason is Reason.IMAGE_REFUSED
        assert all(host.node.credential is None for host in world.hosts.values())
        await world.run(timedelta(seconds=20))
        assert world.github.registered() == []


async def test_a_running_job_is_not_killed_for_a_revocation(database: Database, tmp_path: Path) -> None:
    async with a_world(database, tmp_path, signed_registry()) as world:
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.lease().state is State.BUSY)
        images.revoke(database, world.lease().image_digest, "it leaks", "ada", world.clock.now())
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"


# --- the node's own look


@pytest.mark.parametrize(
    ("manner", "said"),
    [
        (Manner.NO_OPENSSL, "image signature: asked checked by the machine's own openssl, seen openssl is not on this machine"),
        (Manner.OTHER_IMAGE, "seen sha256:000000000000…"),
        (Manner.OLD_AGENT, "seen not reported"),
    ],
)
async def test_a_node_that_did_not_check_its_image_gets_no_credential(
    database: Database, tmp_path: Path, manner: Manner, said: str
) -> None:
    async with a_world(database, tmp_path, signed_registry()) as world:
        world.manners = [manner]
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.github.conclusion(key)) and world.all_released(), within=timedelta(hours=1))
        bad = world.leases()[0]
        assert bad.reason is Reason.BAD_NODE and said in bad.reason_text
        assert (bad.runner_name, world.github.conclusion(key)) == ("", "success")
        world.assert_clean()


# --- where it may run


async def test_a_machine_of_another_architecture_than_the_image_is_not_rented(database: Database, tmp_path: Path) -> None:
    arm = replace(CONTAINERS, architecture="arm64")
    async with a_world(database, tmp_path, signed_registry(), arm) as world:
        key = world.github.queue(LABELS)
        await world.run(timedelta(seconds=20))
        assert "No offer passes (1 image)" in world.job(key).wait and world.cloud.machines == {}


async def test_a_guarded_pool_is_not_put_into_a_container(database: Database, tmp_path: Path) -> None:
    async with a_world(database, tmp_path, signed_registry(), mode=Mode.GUARDED) as world:
        key = world.github.queue(LABELS)
        await world.run(timedelta(seconds=20))
        assert "No offer passes (1 mode)" in world.job(key).wait


@pytest.mark.parametrize("auth", ["bearer", "basic"])
async def test_a_private_image_is_pulled_with_a_login_that_is_written_down_nowhere(
    database: Database, tmp_path: Path, auth: str
) -> None:
    registry = signed_registry(auth=auth)
    async with a_world(database, tmp_path, registry) as world:
        world.github.queue(LABELS)
        await world.run_until(world.all_released)
        (machine,) = world.cloud.machines.values()
        assert machine.login is not None and machine.login.registry == "registry.test"
        secret = machine.login.password.reveal()
        assert secret == registry.password if auth == "basic" else secret in registry.tokens
        assert secret not in repr(machine.login)
        told = repr([plain(entry.detail) for entry in audit.listing(database)]) + repr(world.lease()) + world.picture()
        assert secret not in told and secret not in machine.user_data
        assert registry.password not in told + machine.user_data
        node = next(iter(world.hosts.values())).node
        assert node.image is not None and node.image["access"] is None, "its provider has pulled it"


async def test_a_node_that_pulls_by_itself_is_lent_a_login(database: Database, tmp_path: Path) -> None:
    registry = signed_registry(auth="bearer")
    async with a_world(database, tmp_path, registry, AMD64) as world:
        world.github.queue(LABELS)
        await world.run_until(world.all_released)
        node = next(iter(world.hosts.values())).node
        assert node.image is not None
        access = node.image["access"]
        assert access["username"] == "" and registry.tokens[access["password"]] == "repository:ci/gpu:pull"


async def test_a_registry_that_is_away_when_the_node_joins_makes_it_ask_again(database: Database, tmp_path: Path) -> None:
    registry = signed_registry(auth="bearer")
    async with a_world(database, tmp_path, registry, AMD64) as world:
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.living()))
        registry.down = True
        host_told = world.lease()
        await world.run_until(lambda: world.lease().joined_at is not None)
        assert world.lease().facts is None and host_told.id == world.lease().id
        registry.down = False
        await world.run_until(world.all_released)
        assert world.github.conclusion(key) == "success"


# --- pools that change


async def test_a_lease_of_before_the_pool_asked_for_a_signature_gets_no_credential(database: Database, tmp_path: Path) -> None:
    """The settings name a signed image now, and the service starts again: what was rented bare goes no further."""
    async with World(database, tmp_path, clouds={"cloud": CONTAINERS}, pools=[pool_of(machine_image="old")]) as world:
        world.images = signed_registry()
        key = world.github.queue(LABELS)
        await world.run_until(lambda: bool(world.leases()) and world.lease().state is State.BOOTING)
        world.pools = {"gpu": signed_pool()}
        await world.restart()
        await world.run_until(lambda: bool(world.github.conclusion(key)) and world.all_released())
        first, second = world.leases()
        assert first.reason is Reason.IMAGE_REFUSED and "before the pool gpu asked for a signed image" in first.reason_text
        assert second.signed and world.github.conclusion(key) == "success"


async def test_a_planned_lease_whose_pool_left_the_settings_rents_nothing(database: Database, tmp_path: Path) -> None:
    """Without the pool nobody can say whose signature counts; a bare machine in its place would be worse than none."""
    registry = signed_registry()
    registry.down = True
    async with a_world(database, tmp_path, registry) as world:
        world.github.queue(LABELS)
        await world.run(timedelta(seconds=4))
        assert world.lease().state is State.PLANNED
        registry.down = False
        world.pools = {"other": signed_pool(name="other", labels=frozenset({"other"}))}
        await world.restart()
        await world.run_until(world.all_released, within=timedelta(minutes=5))
        assert world.lease().reason in (Reason.IMAGE_REFUSED, Reason.JOB_GONE) and world.cloud.machines == {}
