"""What happens to an image after it was let in: revoked, checked by the node, pulled with a login, its pool changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from app.core.images import Mode
from app.core.model import Reason
from app.core.states import State
from app.demo.nouns import ApiFault
from app.store import audit, images
from app.store.db import Database
from app.store.rows import plain
from providers.fake_cloud import Trouble
from tests.engine.signed import (
    AMD64,
    CONTAINERS,
    LABELS,
    REPOSITORY,
    a_world,
    signed_pool,
    signed_registry,
)
from tests.fake_node import Manner
from tests.world import World, pool_of

MINUTE = timedelta(minutes=1)


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
