"""What was answered survives; writers queue; and nothing secret shows in an error."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app.store import jobs
from app.store.db import Database, DatabaseRefused, upgrade
from app.store.jobs import Recorded
from tests.store.nouns import NOW, a_job, told
from tests.store.test_leases import together

RECORDER = """
import sys
from app.store.db import Database
from app.store import jobs
from tests.store.nouns import NOW, a_job, told
db = Database(sys.argv[1])
for number in range(100_000):
    jobs.record(db, [told(a_job(str(number)), f"guid-{number}")], NOW)
    print(number, flush=True)
"""


def test_a_delivery_that_was_answered_survives_kill_9(sqlite_url: str) -> None:
    """The recorder says each number only after its commit; whatever it said before it was killed is there."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", RECORDER, sqlite_url]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    ) as recorder:
        assert recorder.stdout is not None
        answered = [int(recorder.stdout.readline()) for _ in range(100)]
        recorder.kill()
        answered += [int(line) for line in recorder.stdout if line.endswith("\n")]
    database = Database(sqlite_url)
    again = [told(a_job(str(number)), f"guid-{number}") for number in answered]
    assert set(jobs.record(database, again, NOW)) == {Recorded.DUPLICATE}
    assert len(jobs.many(database, (record.job.id for record in again if record.job))) == len(answered)
    with database.read() as conn:
        assert conn.execute(sa.text("PRAGMA integrity_check")).scalar() == "ok"
        assert conn.execute(sa.text("PRAGMA foreign_key_check")).all() == []
    database.close()


def test_sqlite_keeps_what_it_promises(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.write() as conn:
        asked = [conn.execute(sa.text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous", "foreign_keys")]
    database.close()
    assert asked == ["wal", 2, 1]


def test_a_block_that_raises_writes_nothing(database: Database) -> None:
    class Stopped(Exception):
        """The block was left."""

    with pytest.raises(Stopped), database.write() as conn:
        conn.execute(sa.text("INSERT INTO person (name, role, created_at) VALUES ('ada', 'admin', '2026-01-01')"))
        raise Stopped
    with database.read() as conn:
        assert conn.execute(sa.text("SELECT name FROM person")).all() == []


def test_a_transaction_inside_another_is_an_error_and_not_a_wait_for_ever(database: Database) -> None:
    with pytest.raises(RuntimeError, match="inside another"), database.write():
        jobs.record(database, [told(a_job())], NOW)
    assert jobs.record(database, [told(a_job())], NOW) == [Recorded.RECORDED]


def test_a_reader_neither_waits_for_a_writer_nor_sees_half_of_it(database: Database) -> None:
    with database.write() as conn:
        conn.execute(sa.text("INSERT INTO person (name, role, created_at) VALUES ('ada', 'admin', '2026-01-01')"))
        with database.read() as other:
            assert other.execute(sa.text("SELECT name FROM person")).all() == []


def test_writers_of_one_process_queue(database: Database) -> None:
    """Each reads the count and writes one more: none is lost, none finds the database locked."""
    with database.write() as conn:
        conn.execute(sa.text("INSERT INTO person (name, role, created_at) VALUES ('n', '0', '2026-01-01')"))
    lock = "" if database.dialect == "sqlite" else " FOR UPDATE"

    def work(_: int) -> None:
        for _ in range(20):
            with database.write() as conn:
                count = int(conn.execute(sa.text(f"SELECT role FROM person WHERE name = 'n'{lock}")).scalar_one())
                conn.execute(sa.text("UPDATE person SET role = :count"), {"count": str(count + 1)})

    together(6, work)
    with database.read() as conn:
        assert conn.execute(sa.text("SELECT role FROM person")).scalar() == "120"


def test_two_processes_on_one_sqlite_file_take_turns(sqlite_url: str, tmp_path: Path) -> None:
    database = Database(sqlite_url)
    other = sqlite3.connect(tmp_path / "sublet.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, other.execute, ["ROLLBACK"])
    release.start()
    assert jobs.record(database, [told(a_job())], NOW) == [Recorded.RECORDED]
    release.join()
    other.close()
    database.close()


@pytest.mark.parametrize(
    "url", ["mysql://x/y", "sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true", "oracle://x"]
)
def test_a_database_that_cannot_keep_the_promise_is_refused(url: str) -> None:
    with pytest.raises(DatabaseRefused):
        Database(url)


def test_a_plain_postgresql_address_means_psycopg() -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        database = Database(f"{scheme}://ada:word@127.0.0.1:1/x")
        assert database.dialect == "postgresql"
        assert repr(database) == "Database('postgresql+psycopg://ada:***@127.0.0.1:1/x')"


def test_a_database_that_is_down_says_so_and_is_used_again_when_it_is_back(database: Database) -> None:
    database.ping()
    down = Database("postgresql://ada:word@127.0.0.1:1/x")
    with pytest.raises(OperationalError) as caught:
        down.ping()
    assert "word" not in str(caught.value)
    if database.postgresql:
        with pytest.raises(OperationalError), database.write() as conn:
            conn.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
        database.ping()


def test_no_value_shows_in_an_error(database: Database) -> None:
    with pytest.raises(SQLAlchemyError) as caught, database.write() as conn:
        conn.execute(sa.text("INSERT INTO nowhere VALUES (:word)"), {"word": "the-word"})
    assert "the-word" not in str(caught.value)


def test_a_database_in_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a/b/sublet.db"
    upgrade(url)
    database = Database(url)
    database.ping()
    database.close()
