"""A stranger's fifth forge: built, installed, found by its entry point, put through the kit, and asked as the service asks."""

from __future__ import annotations

import ast
import hashlib
import hmac
import importlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.core.model import JobState, Reason, Scope, ScopeKind
from app.core.states import State
from app.forges import registry
from app.forges.conformance import examine
from app.forges.contract import BadSignature, Forge, RunnerOrder, Surroundings
from app.kit.clock import Clock
from app.store.db import Database
from providers.contract import Secret
from providers.fit import Installed, Kind
from tests import world as world_module
from tests.conformance import STRANGER_FORGE, install
from tests.forge_programs import Work
from tests.world import World

HOOK = Secret("what the bell says")
PAGE = Path(__file__).parents[2] / "docs/how-to/write-a-forge.md"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package lies once pip has installed it."""
    place = tmp_path_factory.mktemp("installed-forge")
    install(STRANGER_FORGE, place)
    return place


@pytest.fixture
def corkboard(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kind]:
    """As the registry finds it; forgotten in the end."""
    monkeypatch.setattr(sys, "path", [str(shelf), *sys.path])
    importlib.invalidate_caches()
    found = registry.installed()
    assert "corkboard" not in found.broken, found.broken
    yield found.kinds["corkboard"]
    for name in [name for name in sys.modules if name.partition(".")[0] == "sublet_corkboard"]:
        del sys.modules[name]


def built(kind: Kind, file: Path, *, secret: Secret | None = HOOK, **more: object) -> Forge:
    """As the service builds it from a `[[forge]]` table."""
    around = Surroundings(lambda: datetime(2027, 3, 1, tzinfo=UTC), "https://sublet.example/hooks/hall", webhook_secret=secret)
    values = {"file": str(file), "key": Secret("under the mat"), **more}
    return registry.build("corkboard", "hall", values, around, Installed({"corkboard": kind}, {}))


def imported_by_the_package() -> set[str]:
    found: set[str] = set()
    for path in STRANGER_FORGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    return {name for name in found if name.partition(".")[0] in ("app", "providers", "tests")}


def test_it_knows_the_contract_and_little_else_of_ours() -> None:
    assert imported_by_the_package() == {
        "app.core.model",
        "app.forges.command",
        "app.forges.conformance",
        "app.forges.contract",
        "app.forges.payload",
        "providers.contract",
    }


def test_without_its_package_there_is_no_such_kind() -> None:
    assert "corkboard" not in registry.installed().kinds


def test_it_is_found_by_its_entry_point(corkboard: Kind) -> None:
    assert corkboard.package == "sublet-corkboard 0.2.0"
    assert corkboard.secrets == {"key"}


def test_its_settings_are_checked_like_ours(corkboard: Kind, tmp_path: Path) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"worker": " "}, "somebody has to do the work"),
        ({"colour": "red"}, "unknown setting 'colour'"),
        ({"key": "under the mat"}, "key is a secret: say env:NAME"),
    )
    for wrong, sentence in cases:
        with pytest.raises(registry.ForgeTrouble, match=sentence):
            built(corkboard, tmp_path / "board", **wrong)


def test_it_passes_the_kit(corkboard: Kind) -> None:
    bench: Any = importlib.import_module("sublet_corkboard.bench")
    result = examine(bench.bench)
    assert result.name == "corkboard" and result.stands_on
    assert [one for one in result.outcomes if one.word not in ("pass", "n/a")] == []
    assert sum(one.word == "pass" for one in result.outcomes) > 40


def test_a_slip_becomes_a_job_and_a_desk_its_runner(corkboard: Kind, tmp_path: Path) -> None:
    forge: Any = built(corkboard, tmp_path / "board", worker="/opt/worker")
    slip = forge.board.pin("acme/train", ["gpu"])
    ((_, body),) = forge.board.notes(0)
    told = forge.parse({"x-board-signature": signed(body)}, body.encode())
    assert (told.forge, told.guid, told.job.id, told.job.state) == ("hall", "slip-1-queued", f"hall-{slip}", JobState.QUEUED)
    order = RunnerOrder("sublet-1", Scope(ScopeKind.REPOSITORY, "acme/train"), ("gpu",))
    minted = forge.mint_runner(order)
    assert minted.credential.command == ("/opt/worker", "--board", str(tmp_path / "board"), "--once")
    taken = forge.board.work(minted.credential.environment["BOARD_TOKEN"].reveal())
    assert taken.id == slip
    assert forge.fetch_job(told.job).state is JobState.IN_PROGRESS


def test_with_polls_alone_no_delivery_is_believed(corkboard: Kind, tmp_path: Path) -> None:
    forge = built(corkboard, tmp_path / "board", secret=None)
    body = json.dumps({"slip": 1, "project": "acme/train", "run": 1, "labels": [], "state": "open"}).encode()
    for signature in ("", "0" * 64, hmac.new(b"", body, hashlib.sha256).hexdigest()):
        with pytest.raises(BadSignature, match="No webhook secret is set"):
            forge.parse({"x-board-signature": signature}, body)


class Worker:
    """Somebody who sits at a desk of the board, on a rented machine."""

    def __init__(self, board: Any, credential: Mapping[str, Any]) -> None:
        self._board, self._token = board, credential["environment"]["BOARD_TOKEN"]
        self.ended: int | None = None

    def take(self, now: datetime) -> Work | None:
        slip = self._board.work(self._token)
        return None if slip is None else Work(str(slip.id), {}, slip, (f"worker has taken slip {slip.id}",))

    def finish(self, work: Work, success: bool, now: datetime) -> None:
        self._board.done(self._token, "good" if success else "bad")
        self.ended = 0


class HallSide:
    """The hall, as one forge of the world."""

    name = "hall"

    def __init__(self, forge: Any) -> None:
        self.forge, self.board, self._heard = forge, forge.board, 0

    def deliveries(self) -> list[tuple[dict[str, str], bytes]]:
        notes = self.board.notes(self._heard)
        self._heard += len(notes)
        return [({"X-Board-Signature": signed(body)}, body.encode()) for _, body in notes]

    def program(self, credential: dict[str, Any]) -> Worker:
        return Worker(self.board, credential)

    def registered(self) -> list[str]:
        return [desk.name for desk in self.board.desks("acme/train")]

    def stop(self) -> None:
        """The board is a file."""


def signed(body: str) -> str:
    return hmac.new(HOOK.reveal().encode(), body.encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize("intake", ["both", "webhook", "poll"])
async def test_a_job_of_its_own_is_served_by_the_whole_service(
    corkboard: Kind, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, intake: str
) -> None:
    forge: Any = built(corkboard, tmp_path / "board", secret=None if intake == "poll" else HOOK)

    def hall(name: str, clock: Clock, *, hooked: bool) -> HallSide:
        return HallSide(forge)

    monkeypatch.setattr(world_module, "side_of", hall)
    async with World(database, tmp_path, forges=["hall"], intake={"hall": intake}) as world:
        slip = forge.board.pin("acme/train", ["gpu", "rubin"])
        await world.run_until(world.all_released)
        lease = world.lease()
        assert world.states(lease) == list(State)
        assert lease.reason is Reason.JOB_DONE
        assert forge.board.slip(slip).outcome == "good"
        assert not forge.board.desks("acme/train")
        assert set(world.answers) == (set() if intake == "poll" else {202})


def test_the_page_shows_what_is_there() -> None:
    """Every piece of the package that the page shows stands so in the package."""
    ours = {path.name: path.read_text("utf-8") for path in STRANGER_FORGE.rglob("*") if path.suffix in (".py", ".toml")}
    shown = re.findall(r"<!-- from (\S+) -->\n```\w+\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(shown) >= 3
    for name, text in shown:
        for piece in re.split(r"^\s*…\n", text, flags=re.MULTILINE):
            assert piece.strip("\n") in ours[name], f"{name} has no such piece:\n{piece}"
