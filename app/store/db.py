"""The one doorway to the database: SQLite by default, PostgreSQL by URL; reads, writes and the migrations."""

from __future__ import annotations

import importlib.util
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event, exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import PoolProxiedConnection

from app.store.commits import SharedCommits

BUSY = 15.0  # seconds to wait for another process that writes to the same SQLite file
LONGEST_IDLE = 10  # seconds that a transaction may stand still on PostgreSQL; ours hold nothing but the store's own work
WRITES = "sublet writes"  # on a pooled connection of SQLite: its next transaction is one that writes
UPGRADE_LOCK = 7_283_001  # PostgreSQL advisory lock: two services that start at once migrate one after the other

UNREACHABLE = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)
"""What a transaction raises when the database does not answer: it may be tried again."""


class DatabaseRefused(ValueError):
    """The database URL is of a kind that Sublet does not keep its rows in."""


class Database:
    """Connections to one database. Safe to share between threads; one function of the store is one transaction."""

    def __init__(self, url: str) -> None:
        """`sqlite:///sublet-data/sublet.db` or `postgresql://user@host/name`. Raises DatabaseRefused."""
        parsed = _parse(url)
        self.dialect: str = parsed.get_backend_name()  # "sqlite" or "postgresql"
        self._engine = _sqlite(parsed) if self.dialect == "sqlite" else _postgresql(parsed)
        self._thread = threading.local()
        # Writers of this process queue here instead of spinning on SQLite's file, and share a commit where they can.
        self._begin = SharedCommits(self._writer).transaction if self.dialect == "sqlite" else self._engine.begin

    def __repr__(self) -> str:
        return f"Database({self._engine.url.render_as_string(hide_password=True)!r})"

    @property
    def postgresql(self) -> bool:
        return self.dialect == "postgresql"

    @contextmanager
    def read(self) -> Generator[sa.Connection]:
        """A transaction that changes nothing. On SQLite it sees one moment and never waits for a writer."""
        with self._engine.connect() as conn:
            yield conn

    @contextmanager
    def write(self) -> Generator[sa.Connection]:
        """A transaction that is committed, durably, when the block ends, and rolled back when it raises.

        Raises RuntimeError inside another one of the same thread: it would wait for itself."""
        if getattr(self._thread, "writes", False):
            raise RuntimeError("a function of the store is one transaction: it cannot be called inside another")
        self._thread.writes = True
        try:
            with self._begin() as conn:
                yield conn
        finally:
            self._thread.writes = False

    def _writer(self) -> sa.Connection:
        """A connection whose next transaction takes SQLite's lock."""
        conn = self._engine.connect()
        conn.info[WRITES] = True
        return conn

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that knows ON CONFLICT, in the words of this database."""
        return postgresql.insert(table) if self.postgresql else sqlite.insert(table)

    def ping(self) -> None:
        """Raises sqlalchemy.exc.SQLAlchemyError when the database does not answer."""
        with self.read() as conn:
            conn.execute(sa.select(1))

    def time(self) -> datetime:
        """What the database's own clock says, in UTC. Only PostgreSQL has one; SQLite's is this machine's."""
        with self.read() as conn:
            return conn.execute(sa.select(sa.func.clock_timestamp())).scalar_one().astimezone(UTC)

    def own_connection(self) -> psycopg.Connection[Any]:
        """A connection that is not one of the pool's, for LISTEN: it commits each statement by itself. PostgreSQL only."""
        pooled = self._engine.raw_connection()
        driver: Any = pooled.driver_connection
        pooled.detach()
        driver.rollback()
        driver.autocommit = True
        return driver

    def close(self) -> None:
        self._engine.dispose()


def upgrade(url: str) -> None:
    """Bring the schema to the newest revision. Repeatable; all in one transaction; services that start at once take turns."""
    database = Database(url)
    try:
        with database.write() as conn:
            if database.postgresql:
                conn.execute(sa.select(sa.func.pg_advisory_xact_lock(UPGRADE_LOCK)))
            config = Config()
            config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
            config.attributes["connection"] = conn
            command.upgrade(config, "head")
    finally:
        database.close()


def migrations() -> Path:
    """The folder of the migrations: in the tree, or beside `app` where the package is installed."""
    spec = importlib.util.find_spec("migrations")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package `migrations` is not installed beside `app`")
    return Path(spec.origin).parent


def _parse(url: str) -> sa.URL:
    parsed = sa.make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "postgresql+psycopg":
        return parsed
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise DatabaseRefused(f"Sublet keeps its rows in SQLite or PostgreSQL (psycopg), not in {parsed.drivername}")
    if parsed.database in (None, "", ":memory:") or "mode" in parsed.query:
        raise DatabaseRefused("an SQLite database needs a file: what must survive a crash does not live in memory")
    return parsed


def _sqlite(url: sa.URL) -> sa.Engine:
    if sqlite3.sqlite_version_info < (3, 35):
        raise DatabaseRefused(f"SQLite 3.35 or later is needed (for RETURNING); this Python has {sqlite3.sqlite_version}")
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, hide_parameters=True, pool_size=8, max_overflow=24, connect_args={"timeout": BUSY})

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself: `began` below does
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # a webhook that was answered survives a power cut
            f"busy_timeout={int(BUSY * 1000)}",
            "foreign_keys=ON",
            "journal_size_limit=67108864",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    def begin(pooled: PoolProxiedConnection) -> None:
        # A write takes the lock at once: a read that later turns into a write could not wait for it.
        raw: Any = pooled.dbapi_connection
        raw.execute("BEGIN IMMEDIATE" if pooled.info.pop(WRITES, False) else "BEGIN").close()

    event.listen(engine, "connect", connected)
    # Not a listener to "begin": an engine with one asks it, and every other event, again for each statement.
    setattr(engine.dialect, "do_begin", begin)  # noqa: B010  what the dialect is there for
    return engine


def _postgresql(url: sa.URL) -> sa.Engine:
    defaults: dict[str, Any] = {
        "application_name": "sublet",
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "tcp_user_timeout": 30_000,  # milliseconds: a dead network is noticed, so that no lane hangs for ever
        # A process that was paused or cut off inside a transaction gives back its locks, or all others would wait for it.
        "options": f"-c timezone=UTC -c idle_in_transaction_session_timeout={LONGEST_IDLE * 1000}",
    }
    own = {key: value for key, value in defaults.items() if key not in url.query}
    return sa.create_engine(
        url,
        hide_parameters=True,
        pool_size=8,
        max_overflow=24,
        pool_pre_ping=True,  # work goes on by itself when a database that was down is back
        isolation_level="READ COMMITTED",
        connect_args=own,
    )
