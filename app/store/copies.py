"""Whole copies of an SQLite database: taken while the service runs, checked, and put in place never half-written."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from app.store.db import BUSY, migrations
from app.store.vault import VaultError, key_of

KNOWS: Mapping[str, str] = {
    "revision": "SELECT version_num FROM alembic_version",
    "audited": "SELECT max(at) FROM audit",
    "delivered": "SELECT max(received_at) FROM delivery",
    "live": "SELECT count(*) FROM lease WHERE state <> 'released'",
    "jobs": "SELECT count(*) FROM job WHERE state <> 'completed'",
}
"""Asked with columns that every revision has: a copy of an older one is looked at before it is migrated."""
SEALED = """SELECT join_sealed FROM lease WHERE join_sealed IS NOT NULL
 UNION ALL SELECT credential FROM lease WHERE credential IS NOT NULL
 UNION ALL SELECT credential FROM beacon WHERE credential IS NOT NULL"""


class CopyRefused(Exception):
    """The copy was not made or not taken; the message says why, and nothing was changed."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a database knows, in a few numbers."""

    revision: str
    newest: datetime | None  # the latest thing written down; None: nothing ever was
    live: int  # leases that are not released
    jobs: int  # jobs that have not ended
    keys: frozenset[str]  # ids of the vault's keys that its secrets are sealed with


def place(url: str) -> Path | None:
    """The file of an SQLite database; None for PostgreSQL, which copies itself."""
    parsed = sa.make_url(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None


def without_password(url: str) -> str:
    """A PostgreSQL address as `pg_dump` reads it, fit for an argument: `PGPASSWORD` or `~/.pgpass` holds the rest."""
    parsed = sa.make_url(url)
    bare = sa.URL.create("postgresql", parsed.username, None, parsed.host, parsed.port, parsed.database)
    return bare.render_as_string()


def copy(source: Path, target: Path) -> None:
    """Copy one moment of the database to a new file, 0600; writers of the source go on meanwhile.

    Raises CopyRefused: there is no such database, it is damaged, the target is there already, or cannot be written."""
    with fresh(target) as unfinished:
        fill(source, unfinished)


def fill(source: Path, empty: Path) -> None:
    """`copy` into an empty file that is there. Raises CopyRefused."""
    if not source.is_file():
        raise CopyRefused(f"There is no database {source}.")
    try:
        with closing(_reader(source)) as old, closing(sqlite3.connect(empty, isolation_level=None)) as new:
            old.backup(new)  # in one step, so in one moment; with a WAL no writer waits for it
            new.execute("PRAGMA journal_mode=DELETE")  # one file, whole by itself
            _check(new, source)
    except sqlite3.Error as error:
        raise CopyRefused(f"{source} cannot be copied: {error}.") from None


@contextmanager
def fresh(target: Path) -> Generator[Path]:
    """A new file beside the target, 0600, which takes its name when the block ends well and is gone when it does not.

    The name is taken only if nobody has it: of two at once, one is refused. Raises CopyRefused."""
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield unfinished
        _flush(unfinished)
        target.hardlink_to(unfinished)
        _flush(target.parent)
    except FileExistsError:
        raise CopyRefused(f"{target} is there already, and nothing is ever written over.") from None
    except OSError as error:
        raise CopyRefused(f"{target} cannot be written: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def inspect(path: Path) -> Contents:
    """What the database knows, after all of it was read and found whole. Raises CopyRefused if it is not one of ours."""
    if not path.is_file():
        raise CopyRefused(f"There is no file {path}.")
    try:
        with closing(_reader(path)) as conn:
            _check(conn, path)
            told: dict[str, Any] = {name: (conn.execute(ask).fetchone() or [None])[0] for name, ask in KNOWS.items()}
            keys = frozenset(key_of(bytes(sealed)) for (sealed,) in conn.execute(SEALED))
    except (sqlite3.Error, VaultError) as error:
        raise CopyRefused(f"{path} is no database of Sublet: {error}.") from None
    revision = str(told["revision"] or "none")
    if revision not in _revisions():
        raise CopyRefused(f"{path} is of revision {revision}, which this version of Sublet does not know. Use a newer one.")
    times = [datetime.fromisoformat(told[name]).replace(tzinfo=UTC) for name in ("audited", "delivered") if told[name]]
    return Contents(revision, max(times, default=None), int(told["live"]), int(told["jobs"]), keys)


def _reader(path: Path) -> sqlite3.Connection:
    """Opened for reading; the file is never made, and a WAL beside it is read too."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=BUSY)


def _check(conn: sqlite3.Connection, path: Path) -> None:
    (found,) = conn.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise CopyRefused(f"{path} is damaged: {found}.")


def _revisions() -> set[str]:
    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}


def _flush(path: Path) -> None:
    """Onto the disk: a copy that a power cut takes back is none."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
