"""A process among others: it says that it lives, what is wrong with it, and leaves; and which roles and keys are refused."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from app import doorstep, main
from app.kit.bell import Bell
from app.kit.threads import InlineLane
from app.presence import Presence
from app.settings import Settings, load
from app.store import replicas, sweep
from app.store.db import Database
from app.store.replicas import Replica
from app.store.vault import Vault, VaultError
from app.web.auth import is_owners
from app.web.doctor import is_alive
from app.wiring import from_settings
from tests.world import NOON, ManualClock


class Patient(ManualClock):
    """Whoever sleeps moves the time, and lets others run."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        await asyncio.sleep(0)


def presence_of(database: Database, folder: Path, clock: ManualClock, bell: Bell, wall: ManualClock | None = None) -> Presence:
    keys = Vault(folder / "vault.keys")
    sweep.installation(database, NOON)
    return Presence(
        database, InlineLane(), clock, bell, keys, name="all-x", role="all", beat=lambda: NOON, wall=wall or clock
    )  # fmt: skip


@asynccontextmanager
async def running(presence: Presence) -> AsyncGenerator[None]:
    task = asyncio.create_task(presence.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_process_says_that_it_lives_and_leaves_without_a_trace(database: Database, tmp_path: Path) -> None:
    presence = presence_of(database, tmp_path, Patient(), Bell())
    async with running(presence):
        (row,) = replicas.listing(database)
        assert (row.name, row.role, row.started_at, row.beat_at) == ("all-x", "all", NOON, NOON)
    await presence.leave()
    assert replicas.listing(database) == []


async def test_a_clock_that_is_off_is_told_of(database: Database, tmp_path: Path) -> None:
    wall = ManualClock(NOON - timedelta(hours=2))
    presence = presence_of(database, tmp_path, Patient(), Bell(), wall)
    async with running(presence):
        (row,) = replicas.listing(database)
    assert "behind the" in row.note and "2 h" in row.note
    assert ("A restart takes it over." in row.note) is not database.postgresql


async def test_a_process_that_cannot_open_the_secrets_any_more_says_so(database: Database, tmp_path: Path) -> None:
    presence_of(database, tmp_path, Patient(), Bell())
    async with running(presence_of(database, tmp_path, Patient(), Bell())):
        assert "key file" not in replicas.listing(database)[0].note
    async with running(presence_of(database, tmp_path / "other", Patient(), Bell())):
        assert "Its key file opens none" in replicas.listing(database)[0].note


async def test_a_hint_of_another_process_rings_the_bell_here(postgresql_url: str, tmp_path: Path) -> None:
    database = Database(postgresql_url)
    here, there = Bell(), Bell()
    one = presence_of(database, tmp_path, Patient(), here)
    other = presence_of(database, tmp_path, Patient(), there)
    async with running(one), running(other):
        assert await here.wait(10) and await there.wait(10), "each new connection counts as a hint"
        one.pass_on()
        assert await there.wait(10)
    database.close()


def settings_of(folder: Path, url: str) -> Settings:
    (folder / "address").write_text(url)
    return load(None, {"data": str(folder), "database": {"url": f"file:{folder / 'address'}"}}).settings


def test_a_process_with_another_key_file_is_refused_and_leaves_none_behind(database_url: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    first = from_settings(settings_of(here, database_url), "http://127.0.0.1:1")
    first.db.close()
    with pytest.raises(VaultError, match="Every process needs the same one"):
        from_settings(settings_of(there, database_url), "http://127.0.0.1:1")
    assert not (there / "vault.keys").exists()
    (there / "vault.keys").write_bytes((here / "vault.keys").read_bytes())
    from_settings(settings_of(there, database_url), "http://127.0.0.1:1", role="web").db.close()
    (there / "vault.keys").unlink()
    from_settings(settings_of(there, database_url), "http://127.0.0.1:1", new_keys=True).db.close()
    with pytest.raises(VaultError, match="It is not the key file"):
        from_settings(settings_of(here, database_url), "http://127.0.0.1:1")


@pytest.mark.parametrize("role", ["web", "engine"])
def test_sqlite_is_served_by_one_process_that_does_everything(
    tmp_path: Path, role: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sublet.toml").write_text('[gitlab]\ntoken = "env:T"\nwebhook_token = "env:T"\n')
    assert main.main(["--role", role]) == 2
    assert f"--role {role} needs PostgreSQL" in capsys.readouterr().err
    assert main.main(["--role", role, "--demo"]) == 2
    assert "the demo is one process" in capsys.readouterr().err
    assert not (tmp_path / "sublet-data").exists()


def test_a_database_that_is_away_at_the_start_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("T", "a-token-of-the-tests")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    settings = tmp_path / "sublet.toml"
    settings.write_text(
        f'[gitlab]\ntoken = "env:T"\nwebhook_token = "env:T"\n[database]\nurl = "postgresql://127.0.0.1:{port}/none"\n'
    )
    assert main.main(["--config", str(settings), "--data", str(tmp_path), "--port", "0"]) == 1
    assert "Cannot start: the database does not answer" in capsys.readouterr().err


async def test_a_database_that_goes_just_after_the_start_ends_nobody(tmp_path: Path) -> None:
    answers = [OperationalError("SELECT 1", {}, Exception("gone")), OperationalError("SELECT 1", {}, Exception("gone"))]

    async def announce() -> Path:
        if answers:
            raise answers.pop()
        return tmp_path

    assert await main.insist(announce, asyncio.Event(), pause=0.0) == tmp_path
    stopping = asyncio.Event()
    stopping.set()
    assert await main.insist(announce, stopping) is None, "who is told to stop does not wait for it"


def test_webs_that_share_a_folder_share_the_token_of_the_command_line(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "cli-token"
    doorstep.leave_token(database, tmp_path, NOON, "a")
    first = path.read_text()
    doorstep.leave_token(database, tmp_path, NOON, "b")
    assert path.read_text() == first
    doorstep.leave_token(database, tmp_path / "other", NOON, "b")
    assert is_owners(database, first, NOON), "one on another machine ends nobody's"
    path.write_text("spoilt")
    doorstep.leave_token(database, tmp_path, NOON, "a")
    assert is_owners(database, path.read_text(), NOON) and not is_owners(database, first, NOON)


def test_what_a_killed_process_left_half_written_goes_with_the_next_start(tmp_path: Path) -> None:
    old, young = tmp_path / ".service.json.0011aabb", tmp_path / ".service.json.2233ccdd"
    for draft in (old, young):
        draft.write_text("{")
    os.utime(old, (1, 1))
    doorstep.leave_address(tmp_path, "web", "http://127.0.0.1:1", "web-a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "service.json"], "another one may be at work on it"


def test_whoever_leaves_takes_only_its_own_address_along(tmp_path: Path) -> None:
    path = doorstep.leave_address(tmp_path, "web", "http://127.0.0.1:1", "web-a")
    doorstep.leave_address(tmp_path, "web", "http://127.0.0.1:2", "web-b")
    assert doorstep.leave_address(tmp_path, "engine", "http://127.0.0.1:3", "engine-a").name == "engine.json"
    doorstep.take_away(path, "web-a")
    assert json.loads(path.read_text())["url"] == "http://127.0.0.1:2"
    doorstep.take_away(path, "web-b")
    doorstep.take_away(path, "web-b")
    assert not path.exists()


def test_a_silent_engine_is_told_from_one_at_work() -> None:
    engine = Replica("e", "engine", "1", NOON, NOON, NOON)
    web = Replica("w", "web", "1", NOON, NOON)
    assert is_alive(engine, NOON + timedelta(seconds=15), 2) and is_alive(web, NOON, 2)
    assert not is_alive(engine, NOON + timedelta(seconds=16), 2)
    still = Replica("e", "engine", "1", NOON, NOON + timedelta(seconds=90), NOON)
    assert not is_alive(still, NOON + timedelta(seconds=90), 2), "it says that it lives, and looks at no lease"
    assert not is_alive(Replica("e", "engine", "1", NOON, NOON), NOON, 2)
