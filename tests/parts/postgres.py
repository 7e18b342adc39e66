"""Real databases for tests: a PostgreSQL cluster of this worker's own, and a fresh migrated database for each test."""

from __future__ import annotations

import os
import pwd
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.store.db import Database, upgrade
from app.store.tables import metadata
from tests.parts import lacks
from tests.parts.reopened import reopened

REMEDY = "install postgresql (Debian: apt-get install postgresql), version 14 or later"
SETTINGS = {
    "fsync": "off",  # a test's cluster need not outlive the machine
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "autovacuum": "off",
    "jit": "off",
}
OTHERS_OUT = b"""SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()"""
START_SECONDS = 60.0
_numbers = count(1)


class NoPostgres(Exception):
    """This machine has no PostgreSQL that could be started; says what to do."""


@pytest.fixture(scope="session")
def postgres_url() -> Generator[str]:
    """The address of a cluster that only this worker uses. Its database is empty; tests make their own."""
    try:
        with cluster() as made:
            yield made.url
    except NoPostgres as lack:
        lacks("PostgreSQL", str(lack))


@pytest.fixture(scope="session")
def postgres_migrated(postgres_url: str) -> str:
    """The address of a migrated database in the cluster, which one test after the other uses."""
    url = new_database(postgres_url)
    upgrade(url)
    return url


@pytest.fixture(scope="session")
def postgres_sweeper(postgres_migrated: str) -> Iterator[psycopg.Connection[Any]]:
    """What empties that database after each test: one connection for all, as making one costs more than what it does."""
    with psycopg.connect(plain(postgres_migrated), autocommit=True) as conn:
        yield conn


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that new ones are copied from."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path) -> Iterator[str]:
    """A fresh migrated SQLite database of this test's own; in memory, where there is such a place: it syncs every commit."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="sublet-test-", dir=memory if memory.is_dir() else None) as folder:
        path = Path(folder) / "sublet.db"
        shutil.copyfile(sqlite_template, path)
        yield f"sqlite:///{path}"


@pytest.fixture
def postgresql_url(postgres_migrated: str, postgres_sweeper: psycopg.Connection[Any]) -> Iterator[str]:
    """A migrated PostgreSQL database without a row in it.

    Emptying one takes a millisecond; copying a whole database for each test took a third of a second."""
    yield postgres_migrated
    postgres_sweeper.execute(OTHERS_OUT)
    postgres_sweeper.execute(b";".join(b"DELETE FROM " + table.name.encode() for table in reversed(metadata.sorted_tables)))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh migrated database, once of each kind."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The store on a fresh migrated database, once of each kind."""
    with reopened(database_url) as opened:
        yield opened


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, the newest if there are several."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: (len(path.parent.name), path.parent.name))
    on_path = shutil.which("initdb")
    folders = [*reversed(installed), *([Path(on_path).resolve().parent] if on_path else [])]
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)


def _unprivileged() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


class Cluster:
    """A cluster in a folder of its own, on loopback. It keeps its port when it is stopped and started again."""

    def __init__(self, binaries: Path, folder: Path, user: pwd.struct_passwd, settings: Mapping[str, str]) -> None:
        """Not made yet. `folder` is the user's own; `user` is whom its processes run as where we are root."""
        self._binaries, self._folder, self._user, self._settings = binaries, folder, user, dict(settings)
        self._word = secrets.token_hex(16)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address, once it has been started."""
        return f"postgresql+psycopg://sublet:{self._word}@127.0.0.1:{self._port}/postgres"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def create(self) -> None:
        password = self._folder / "password"
        password.write_text(self._word)
        words = ("-U", "sublet", "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync", "-E", "UTF8", "--locale=C")
        self._run("initdb", *words)

    def start(self, tries: int = 4) -> None:
        """On its old port; the first time, on a free one. Returns once it takes connections.

        It is a child of ours that ends when we do, however that happens."""
        port = self._port or _free_port()
        own = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": str(self._folder)}
        words = [word for key, value in {**self._settings, **own}.items() for word in ("-c", f"{key}={value}")]
        command = [str(self._binaries / "postgres"), "-D", str(self._folder / "cluster"), *words]
        root, guard = os.geteuid() == 0, shutil.which("setpriv")
        if guard is not None:  # it sets its wish after the user, because a change of user ends it
            user = [f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"] if root else []
            command, root = [guard, *user, "--pdeathsig", "QUIT", *command], False
        with (self._folder / "output").open("a") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                user=self._user.pw_uid if root else None,
                group=self._user.pw_gid if root else None,
                extra_groups=[] if root else None,
                start_new_session=True,  # Ctrl-C is for us
            )
        old, self._port = self._port, port
        if not self._answers():
            self._port = old  # a port that was free a moment ago may be taken now
            if tries == 1:
                raise RuntimeError(f"PostgreSQL does not start: {(self._folder / 'output').read_text()[-2000:]}")
            self.start(tries - 1)

    def _answers(self) -> bool:
        """Once it takes connections; False if it ended, or START_SECONDS are over."""
        end = time.monotonic() + START_SECONDS
        while self.running and time.monotonic() < end:
            with suppress(psycopg.OperationalError), psycopg.connect(plain(self.url), connect_timeout=2):
                return True
            select.select([], [], [], 0.02)
        self.stop()
        return False

    def stop(self) -> None:
        """At once, without a word to its clients, as a crash would: the next start recovers from the log."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # an immediate shutdown, by PostgreSQL's own words
            self._process.wait(60)

    def _run(self, program: str, *arguments: str) -> None:
        root, output = os.geteuid() == 0, self._folder / "output"
        with output.open("a") as log:  # a file, because a pipe would stay open in the server
            done = subprocess.run(
                [str(self._binaries / program), "-D", str(self._folder / "cluster"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                user=self._user.pw_uid if root else None,
                group=self._user.pw_gid if root else None,
                extra_groups=[] if root else None,
                timeout=120,
            )
        if done.returncode != 0:
            raise RuntimeError(f"{program} ended with {done.returncode}: {output.read_text()[-2000:]}")


def remedy() -> str:
    """What to do so that this machine can have a cluster; empty: it can."""
    if programs() is None:
        return REMEDY
    return "" if _unprivileged() is not None else "run as an ordinary user, or add the user postgres: PostgreSQL refuses root"


@contextmanager
def cluster(settings: Mapping[str, str] = SETTINGS) -> Generator[Cluster]:
    """A started cluster of the caller's own. Raises NoPostgres where there can be none."""
    binaries, user = programs(), _unprivileged()
    if binaries is None or user is None:
        raise NoPostgres(remedy())
    folder = Path(tempfile.mkdtemp(prefix="sublet-pg-"))
    try:
        if os.geteuid() == 0:
            os.chown(folder, user.pw_uid, user.pw_gid)
        made = Cluster(binaries, folder, user, settings)
        made.create()
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def new_database(cluster: str) -> str:
    """The address of a new, empty database in the cluster."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(plain(cluster), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}".encode())  # a name cannot be bound; this one is our own word
    return f"{cluster.rpartition('/')[0]}/{name}"


def plain(url: str) -> str:
    """The address as psycopg itself reads it."""
    return url.replace("postgresql+psycopg://", "postgresql://")
