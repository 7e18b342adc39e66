"""Copies of the database: taken while the service writes, put back whole, never over anything; PostgreSQL's own tools too."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import backup
from app.cli import main as sublet
from app.core.states import State
from app.kit.alone import alone
from app.store import jobs, lease_views
from app.store.db import Database, upgrade
from app.store.vault import Vault, credential_context
from tests.parts.postgres import new_database, plain, programs
from tests.store.nouns import NOW, a_job, led_to, queued, told

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def data(tmp_path: Path, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with an empty database."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copyfile(sqlite_template, folder / "sublet.db")
    return folder


@pytest.fixture
def run(data: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`python -m app.backup` in this process; what it said, and its exit code."""

    def called(*words: str) -> dict[str, Any]:
        code = backup.main([*words, "--data", str(data)])
        return json.loads(capsys.readouterr().out) | {"code": code}

    return called


def opened(folder: Path) -> Database:
    return Database(f"sqlite:///{folder / 'sublet.db'}")


def kept_apart(folder: Path) -> Path:
    apart = folder.parent / "apart"
    apart.mkdir(exist_ok=True)
    return apart / "vault.keys"


def test_a_copy_is_one_moment_of_a_database_that_is_written_to(data: Path, run: Run, tmp_path: Path) -> None:
    """Each delivery and its job are one transaction: a copy that has the one has the other."""
    db, over = opened(data), threading.Event()

    def deliver() -> None:
        number = 0
        while not over.is_set():
            number += 1
            jobs.record(db, [told(a_job(f"{number}"), f"guid-{number}")], NOW)

    writer = threading.Thread(target=deliver)
    writer.start()
    try:
        copies = [tmp_path / f"copy-{number}.db" for number in range(5)]
        for copy in copies:
            assert run("backup", str(copy))["code"] == 0
    finally:
        over.set()
        writer.join()
        db.close()
    for copy in copies:
        assert copy.stat().st_mode & 0o777 == 0o600
        conn = sqlite3.connect(copy)
        (deliveries,), (known,) = (conn.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("delivery", "job"))
        conn.close()
        assert deliveries == known
    assert {path.name for path in tmp_path.iterdir()} == {"data", *(copy.name for copy in copies)}


def test_a_copy_put_back_has_everything(data: Path, run: Run, tmp_path: Path) -> None:
    db, vault = opened(data), Vault(data / "vault.keys")
    sealed = vault.seal(b"the runner's credential", credential_context("0001beef"))
    lease = led_to(db, State.REGISTERING, credential=sealed)
    queued(db, "7")
    db.close()
    made = run("backup", str(tmp_path / "copy.db"), "--keys", str(kept_apart(data)))
    assert (made["live_leases"], made["open_jobs"], made["newest_at"]) == (1, 1, "2026-03-01T12:00:00Z")
    assert kept_apart(data).stat().st_mode & 0o777 == 0o600
    shutil.rmtree(data)
    back = run("restore", str(tmp_path / "copy.db"), "--keys", str(kept_apart(data)))
    assert (back["code"], back["replaced"], back["missing_keys"]) == (0, None, [])
    db = opened(data)
    found = lease_views.get(db, lease.id)
    job = jobs.get(db, "github-7")
    db.close()
    assert found is not None and found.state is State.REGISTERING and job is not None
    assert Vault(data / "vault.keys").open(sealed, credential_context("0001beef")) == b"the runner's credential"
    assert {path.stat().st_mode & 0o777 for path in data.iterdir()} == {0o600}


def test_nothing_is_ever_written_over(data: Path, run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    copy.write_text("somebody's own")
    refused = run("backup", str(copy))
    assert (refused["code"], copy.read_text()) == (1, "somebody's own")
    assert "is there already" in refused["error"]["message"]
    Vault(data / "vault.keys")
    kept_apart(data).write_text("older keys")
    assert "is there already" in run("backup", str(tmp_path / "b.db"), "--keys", str(kept_apart(data)))["error"]["message"]
    assert not (tmp_path / "b.db").exists()
    good = tmp_path / "good.db"
    assert run("backup", str(good))["code"] == 0
    assert "--replace" in run("restore", str(good))["error"]["message"]
    other = kept_apart(data)
    other.unlink()
    Vault(other)
    assert "is there already" in run("restore", str(good), "--replace", "--keys", str(other))["error"]["message"]


def test_what_a_restore_replaces_is_moved_aside_with_its_log(data: Path, run: Run, tmp_path: Path) -> None:
    """A write-ahead log that stayed would be written into the copy."""
    copy = tmp_path / "copy.db"
    run("backup", str(copy))
    db = opened(data)
    queued(db, "later")
    held = [path.name for path in data.iterdir()]
    assert "sublet.db-wal" in held
    back = run("restore", str(copy), "--replace")
    db.close()
    aside = Path(back["replaced"])
    assert aside.exists() and aside.parent == data
    assert not (data / "sublet.db-wal").exists()
    db = opened(data)
    assert jobs.get(db, "github-later") is None
    db.close()


def test_a_restore_waits_for_nobody_and_disturbs_nobody(data: Path, run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    run("backup", str(copy))
    before = (data / "sublet.db").read_bytes()
    with alone(data):
        refused = run("restore", str(copy), "--replace")
    assert refused["code"] == 1 and "works on this data folder" in refused["error"]["message"]
    assert (data / "sublet.db").read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "noise", "another", "newer", "missing"])
def test_a_copy_that_is_not_whole_or_not_ours_is_refused(data: Path, run: Run, tmp_path: Path, damage: str) -> None:
    copy, before = tmp_path / "copy.db", (data / "sublet.db").read_bytes()
    run("backup", str(copy))
    if damage == "cut":
        os.truncate(copy, copy.stat().st_size // 2)
    elif damage == "noise":
        copy.write_bytes(b"no database at all" * 1000)
    elif damage == "missing":
        copy.unlink()
    else:
        conn = sqlite3.connect(copy)
        conn.execute("DROP TABLE lease" if damage == "another" else "UPDATE alembic_version SET version_num = '9999'")
        conn.commit()
        conn.close()
    refused = run("restore", str(copy), "--replace")
    assert refused["code"] == 1 and str(copy) in refused["error"]["message"]
    assert (data / "sublet.db").read_bytes() == before
    assert sorted(path.name for path in data.iterdir()) == ["sublet.db"]


def test_the_keys_do_not_lie_beside_the_copy(data: Path, run: Run, tmp_path: Path) -> None:
    Vault(data / "vault.keys")
    refused = run("backup", str(tmp_path / "copy.db"), "--keys", str(tmp_path / "vault.keys"))
    assert refused["code"] == 1 and "another folder" in refused["error"]["message"]
    assert not (tmp_path / "copy.db").exists()


def test_keys_that_are_missing_are_told(data: Path, run: Run, tmp_path: Path) -> None:
    db, vault = opened(data), Vault(data / "vault.keys")
    led_to(db, State.REGISTERING, credential=vault.seal(b"x", credential_context("0001beef")))
    db.close()
    run("backup", str(tmp_path / "copy.db"))
    (data / "vault.keys").unlink()
    assert run("restore", str(tmp_path / "copy.db"), "--replace")["missing_keys"] == [vault.newest]


def test_the_commands_say_what_they_did_and_what_to_keep(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sublet(["backup", "copy.db", "--data", str(data)]) == 0
    told = capfd.readouterr()
    assert "copy.db: 0 live leases, 0 open jobs" in told.out and "vault.keys too, in another place" in told.err
    assert sublet(["restore", "copy.db", "--data", str(data)]) == 1
    assert "Say --replace" in capfd.readouterr().err
    assert sublet(["restore", "copy.db", "--data", str(data), "--replace", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["database"] == str(data / "sublet.db")


def test_postgresql_is_copied_by_its_own_tools_word_for_word(
    postgres_url: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `sublet backup` and `sublet restore` say to run is run here, as it stands."""
    found = programs()
    assert found is not None
    source, target = new_database(postgres_url), new_database(postgres_url)
    upgrade(source)
    db = Database(source)
    lease = led_to(db, State.BUSY, heartbeat_at=NOW)
    queued(db, "7")
    db.close()
    for what, url in (("backup", source), ("restore", target)):
        monkeypatch.setenv("ADDRESS", plain(url))
        monkeypatch.setenv("SUBLET_DATABASE__URL", "env:ADDRESS")
        said = run(what, str(tmp_path / "copy.dump"))
        assert said["code"] == 2
        program, *words = shlex.split(said["error"]["hint"].splitlines()[0])
        password = plain(url).partition("://")[2].partition("@")[0].partition(":")[2]
        assert password not in json.dumps(said)
        subprocess.run([found / program, *words], env={"PGPASSWORD": password}, check=True, timeout=60)
    upgrade(target)
    db = Database(target)
    assert lease_views.get(db, lease.id) == lease
    assert jobs.get(db, "github-7") is not None
    db.close()
