"""A world whose pool asks for an image that one key has signed, and the registry that it lies in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.core.images import Mode, TrustRule
from app.core.model import Pool
from app.store.db import Database
from providers.fake import FakeSettings
from tests.fakes.registry import FakeRegistry
from tests.fakes.signer import SigningKey
from tests.world import World, pool_of

LABELS = ["gpu", "rubin"]
KEY = SigningKey("cosign.pub")
REPOSITORY = "ci/gpu"
IMAGE = "registry.test/ci/gpu:v3"
AMD64, CONTAINERS = FakeSettings(architecture="amd64"), FakeSettings(architecture="amd64", boots_containers=True)


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
