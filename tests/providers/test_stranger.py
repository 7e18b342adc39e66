"""A stranger's package: built, installed, found by its entry point, put through the suite, and used by a lease."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.core.model import Reason
from app.core.states import State
from app.kit.clock import Clock
from app.store.db import Database
from app.wiring import Service
from providers import registry
from providers.conformance.suite import examine
from providers.contract import Phase, Refused, Secret, Why
from tests.conformance import STRANGER, install
from tests.world import World, pool_of

LABELS = ["gpu", "rubin"]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package lies once pip has installed it."""
    place = tmp_path_factory.mktemp("installed")
    install(STRANGER, place)
    return place


@pytest.fixture
def attic(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[registry.Kind]:
    """As the registry finds it; forgotten in the end."""
    monkeypatch.setattr(sys, "path", [str(shelf), *sys.path])
    importlib.invalidate_caches()
    found = registry.installed()
    assert "attic" not in found.broken, found.broken
    yield found.kinds["attic"]
    for name in [name for name in sys.modules if name.partition(".")[0] == "sublet_attic"]:
        del sys.modules[name]


def built(attic: registry.Kind, book: Path, **more: object) -> Any:
    """As the service builds it from a `[[provider]]` table."""
    known = registry.Installed({"attic": attic}, {})
    return registry.build("attic", "upstairs", {"book": str(book), "key": Secret("under the mat"), **more}, known)


def test_it_knows_the_contract_and_nothing_else_of_ours() -> None:
    imported: set[str] = set()
    for path in STRANGER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
    ours = {name for name in imported if name.partition(".")[0] in ("app", "providers", "tests")}
    assert ours == {"providers.contract", "providers.conformance"}


def test_without_its_package_there_is_no_such_kind() -> None:
    assert "attic" not in registry.installed().kinds


def test_it_is_found_by_its_entry_point_beside_the_built_in_ones(attic: registry.Kind) -> None:
    assert attic.package == "sublet-attic 0.3.0"
    assert attic.secrets == {"key"}
    assert {"fake", "local", "docker"} <= registry.installed().kinds.keys()


def test_its_settings_are_checked_like_ours(attic: registry.Kind, tmp_path: Path) -> None:
    for wrong, sentence in (
        ({"machines": 0}, "the attic has at least one machine"),
        ({"machines": "many"}, "machines is a whole number"),
        ({"colour": "red"}, "unknown setting 'colour'"),
    ):
        with pytest.raises(registry.ProviderTrouble, match=sentence):
            built(attic, tmp_path / "book", **wrong)


async def test_it_passes_the_conformance_suite(attic: registry.Kind) -> None:
    bench: Any = importlib.import_module("sublet_attic.bench")
    result = await examine(bench.bench)
    assert result.name == "attic" and result.proven_against
    assert [one for one in result.outcomes if one.word not in ("pass", "n/a")] == []
    assert sum(one.word == "pass" for one in result.outcomes) > 20


async def test_its_desk_knows_one_key(attic: registry.Kind, tmp_path: Path) -> None:
    assert (await built(attic, tmp_path / "book").check()).ok
    stranger = built(attic, tmp_path / "book", key=Secret("another"))
    with pytest.raises(Refused) as refused:
        await stranger.owned("ours")
    assert refused.value.why is Why.CREDENTIALS


@dataclass
class Machine:
    """A machine of the attic, as the world looks at its machines."""

    id: str
    user_data: str
    state: str

    def phase(self, now: datetime) -> Phase:
        return Phase.RUNNING if self.state == "on" else Phase.STOPPED


@dataclass
class Bill:
    exact: Decimal


class Attic:
    """The house itself: what goes on upstairs, and what it will cost."""

    def __init__(self, provider: Any, clock: Clock) -> None:
        self._provider, self._clock = provider, clock

    def living(self) -> list[Machine]:
        rows = [row for row in self._provider.desk.everything() if row.ended_at is None]
        return [Machine(row.id, row.script, row.state) for row in rows]

    def stop(self, number: str) -> None:
        self._provider.desk.switch(number, "off")

    def invoice(self) -> Bill:
        """Every second from the booking to the giving back."""
        hour = timedelta(hours=1)
        spans = [(row.ended_at or self._clock.now()) - row.made_at for row in self._provider.desk.everything()]
        price = self._provider.settings.price_per_hour
        return Bill(sum((price * Decimal(span / hour) for span in spans), Decimal(0)))


class AtticWorld(World):
    """The usual world, but that all there is to rent is the stranger's."""

    def __init__(self, stranger: Any, *arguments: Any, **more: Any) -> None:
        self._stranger = stranger
        super().__init__(*arguments, **more)

    def _assemble(self, clock: Clock | None = None) -> Service:
        self._stranger.now = self.clock.now
        self._stranger.cloud = Attic(self._stranger, self.clock)
        self.providers = {"upstairs": self._stranger}
        return super()._assemble(clock)


async def test_a_job_runs_on_it_and_the_books_are_right(attic: registry.Kind, database: Database, tmp_path: Path) -> None:
    pool = pool_of(providers=("upstairs",))
    provider = built(attic, tmp_path / "book", gpu="rubin")
    async with AtticWorld(provider, database, tmp_path, pools=[pool]) as world:
        key = world.github.queue(LABELS, "acme/train")
        await world.run_until(world.all_released)
        lease = world.lease()
        assert world.states(lease) == list(State)
        assert (lease.reason, lease.provider, lease.region) == (Reason.JOB_DONE, "upstairs", "home")
        assert lease.price_per_hour == Decimal("1.20")
        assert world.github.conclusion(key) == "success"
        world.assert_clean()
        assert world.invoiced() > 0
        (row,) = provider.desk.everything()
        assert (row.tag, row.owner) == (lease.tag, world.service.deps.owner)
        assert row.ended_at is not None


async def test_more_jobs_than_it_has_machines_wait_their_turn(attic: registry.Kind, database: Database, tmp_path: Path) -> None:
    provider = built(attic, tmp_path / "book", gpu="rubin", machines=2)
    async with AtticWorld(provider, database, tmp_path) as world:
        keys = [world.github.queue(LABELS, "acme/train") for _ in range(4)]
        most = 0

        def done() -> bool:
            nonlocal most
            most = max(most, len(world.living()))
            return all(world.github.conclusion(key) for key in keys) and world.all_released()

        await world.run_until(done, within=timedelta(hours=2), stride=5)
        assert most == 2
        world.assert_clean()
