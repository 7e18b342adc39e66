"""Runs seeds: each on a database of its own in memory, copied from one that is migrated already."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from app import wiring
from app.store import sweep
from app.store.db import Database, upgrade
from app.store.vault import Vault
from tests.simulation.conditions import conditions
from tests.simulation.server import lean
from tests.simulation.watch import TRIGGERS
from tests.simulation.wire import wired
from tests.simulation.world import World

OWNER = "simulatedowner00"
HEARD: list[str] = []
"""Every line that the services of the present seed would have written."""


def _overhear(_: object, __: str, line: Any) -> Any:
    HEARD.append(repr(line))
    raise structlog.DropEvent


@dataclass(slots=True)
class Result:
    """What came of one seed."""

    seed: int
    hours: float
    jobs: int
    faults: Counter[str]
    digest: str
    violations: list[str] = field(default_factory=list[str])
    forges: frozenset[str] = frozenset()  # that had a job of it
    picture: str = ""
    trace: list[str] = field(default_factory=list[str])


class Stage:
    """Where worlds are put on, one after another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._template = folder / "template.db"
        url = f"sqlite:///{self._template}"
        upgrade(url)
        database = Database(url)
        sweep.installation(database, datetime(2026, 11, 21, tzinfo=UTC))
        database.close()
        rows = sqlite3.connect(self._template)
        rows.execute("UPDATE installation SET owner = ?", (OWNER,))
        rows.executescript(TRIGGERS)
        rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        rows.close()
        Vault(folder / "vault.keys")

    def play(self, seed: int, *, whole: bool = False, deaf: bool = False) -> Result:
        """The seed's story; with `whole`, its trace from the first line on; `deaf`: no webhook arrives in it."""
        database = self._folder / f"{seed}.db"
        shutil.copyfile(self._template, database)
        known = conditions(seed, deaf=deaf)
        HEARD.clear()
        world = World(known, database, self._folder / "vault.keys")
        world.keeps_all, world.heard = whole, HEARD
        try:
            world.run()
            picture = world.picture() if whole or world.violations else ""
            return Result(
                seed,
                world.loop.now / 3600,
                len(world.users.keys),
                world.counts,
                world.digest.hexdigest(),
                world.violations,
                frozenset(forge for forge, _ in world.users.keys),
                picture,
                world.lines if whole else world.lines[-120:] if world.violations else [],
            )
        finally:
            world.close()
            for path in self._folder.glob(f"{seed}.db*"):
                path.unlink()


@contextlib.contextmanager
def in_memory() -> Generator[Path]:
    """A folder that no disk is asked for, where the system has such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="sublet-simulation-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@contextlib.contextmanager
def stage(folder: Path | None = None) -> Generator[Stage]:
    """A folder in memory, unless one is given; requests that stay in this process, the lean web, and silence."""
    kept: Any = wiring.build_web
    before = structlog.get_config()
    with in_memory() as fresh, wired():
        setattr(wiring, "build_web", lean)  # noqa: B010  pages take a tenth of a second to build, and nobody reads them here
        structlog.configure(processors=[_overhear], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
        try:
            yield Stage(folder or fresh)
        finally:
            setattr(wiring, "build_web", kept)  # noqa: B010  as above
            structlog.configure(**before)


def play(seeds: Iterable[int], *, deaf: bool = False) -> list[Result]:
    """All of them, in order."""
    with stage() as here:
        return [here.play(seed, deaf=deaf) for seed in seeds]


# --- in processes of their own: what they call must be found in a module that they import, which `__main__` is not

_HERE: list[Stage] = []
_OPEN: list[contextlib.ExitStack] = []  # for as long as the process lives


def open_stage(folder: Path) -> None:
    """This process's own stage, in its own part of the folder."""
    own = folder / str(os.getpid())
    own.mkdir()
    opened = contextlib.ExitStack()
    _HERE.append(opened.enter_context(stage(own)))
    _OPEN.append(opened)


def play_here(seed: int, *, deaf: bool = False) -> Result:
    """On this process's stage."""
    return _HERE[0].play(seed, deaf=deaf)
