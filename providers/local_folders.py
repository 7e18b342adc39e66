"""The folders and processes of `local` instances: what is ordered, started, looked at and ended. All of it blocks briefly.

How it stays true through a crash at any point:

- A folder appears under its final name by one rename, complete with its record and script: never half-written.
- The instance's own keeper (`local_keeper.py`) takes the process record's name before the script starts, which only
  the first can. So a doubled start, also by two services or after a kill between any two steps, runs one script.
- The folder goes, by one rename, only when no process of the instance is left.
"""

import contextlib
import fcntl
import json
import logging
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import psutil

from providers import local_keeper
from providers.contract import TAG, Instance, Phase, Throttled, Unclear
from providers.local_processes import MARK, Census, Keeper, alive, tell

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds until another one's work, or a keeper's start, must be over
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Record:
    """instance.json: what was ordered. Written before the folder gets its name, and never after."""

    tag: str
    key: str
    owner: str
    slot: int
    created_at: str  # RFC 3339
    ends_at: str


class Folders:
    """All instances under one root. The root belongs to one installation."""

    def __init__(self, root: Path, region: str) -> None:
        self.root = root.resolve()
        self._region = region

    def record(self, tag: str) -> Record | None:
        """What was ordered under this tag; None if nothing was, or if the record cannot be read."""
        content = _json(self.root / tag / "instance.json")
        try:
            return Record(**content) if content is not None else None
        except TypeError:
            return None

    def tags(self) -> list[str]:
        if not self.root.exists():
            return []
        return sorted(entry.name for entry in self.root.iterdir() if TAG.fullmatch(entry.name) and entry.is_dir())

    def taken(self) -> set[int]:
        """The slots that have an instance."""
        return {record.slot for tag in self.tags() if (record := self.record(tag)) is not None}

    def exists(self, tag: str) -> bool:
        return (self.root / tag).exists()

    def started(self, tag: str) -> bool:
        return (self.root / tag / "process.json").exists()

    def processes(self, tag: str) -> list[psutil.Process]:
        """The instance's living processes, its keeper last."""
        return Census().of(self.root / tag, self._keeper(tag))

    def place(self, record: Record, script: str) -> None:
        """Make the folder. Killed before the rename, there is nothing; after it, there is a whole order."""
        draft = self.root / f".new-{secrets.token_hex(8)}"
        draft.mkdir(mode=0o711)  # a runner that drops its rights may pass through to what it was given
        (draft / "home").mkdir(mode=0o700)
        (draft / "tmp").mkdir(mode=0o700)
        _write(draft / "instance.json", json.dumps(asdict(record)))
        _write(draft / "start.sh", script)
        draft.rename(self.root / record.tag)

    def start(self, tag: str, seconds: float, extra: Mapping[str, str]) -> None:
        """Start the keeper and wait until the script runs. A keeper that finds another one's record goes by itself.

        `seconds` are left until the hard end. Raises `Unclear` if no keeper came up.
        """
        folder = self.root / tag
        console = os.open(folder / "console.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        reader, writer = os.pipe()
        try:
            keeper = subprocess.Popen(  # noqa: S603  our own interpreter and file; the script is never an argument
                [sys.executable, "-I", local_keeper.__file__, str(writer), str(max(seconds, 0.0))],
                cwd=folder,
                env={**_environment(folder), **extra},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=[writer],
                start_new_session=True,
            )
            os.close(writer)
            writer = -1
            poll = select.poll()
            poll.register(reader, select.POLLIN)
            came_up = bool(poll.poll(PATIENCE * 1000)) and os.read(reader, 2) == b"on"
            keeper.wait(PATIENCE)  # it forks and leaves at once
        finally:
            for descriptor in (console, reader, writer):
                if descriptor >= 0:
                    os.close(descriptor)
        if not came_up and not self.started(tag):
            raise Unclear(f"the keeper of {tag} did not start; see console.log in its folder")

    def look(self, tag: str, census: Census | None = None) -> Instance | None:
        """The instance as its folder and its processes show it now; None when there is neither."""
        folder = self.root / tag
        if not folder.exists():
            left = (census or Census()).of(folder, None)
            return Instance(tag, tag, Phase.DESTROYING, None, self._region, _left(left)) if left else None
        record = self.record(tag)
        phase, detail = self._phase(tag, census)
        if record is not None:
            return Instance(tag, tag, phase, datetime.fromisoformat(record.created_at), self._region, detail, record.key)
        if not folder.exists():
            return self.look(tag)  # it went between two looks
        return Instance(tag, tag, Phase.FAILED, None, self._region, "its record cannot be read")

    def ask_to_end(self, tag: str) -> bool:
        """SIGTERM to all; whether there was anyone."""
        processes = self.processes(tag)
        tell(processes, signal.SIGTERM)
        return bool(processes)

    def end(self, tag: str) -> int:
        """SIGKILL to what is left, the keeper last; with none left the folder goes. How many were left."""
        with self.locked():
            left = self.processes(tag)
            if left:
                keeper = self._keeper(tag)
                tell([process for process in left if keeper is None or process.pid != keeper.pid] or left, signal.SIGKILL)
                return len(left)
            if again := self.processes(tag):  # one look may miss a child that was born during it
                return len(again)
            if self.exists(tag):
                (self.root / tag).rename(self.root / f".gone-{secrets.token_hex(8)}")
        self._sweep_gone()
        return 0

    def sweep(self) -> None:
        """Remove what a killed service left half-made. Only under the lock: whoever makes a draft holds it."""
        for draft in self.root.glob(".new-*"):
            shutil.rmtree(draft, ignore_errors=True)
        self._sweep_gone()

    @contextlib.contextmanager
    def locked(self, patience: float | None = None) -> Generator[None, None, None]:
        """One at a time in this root, across services; the system lets go of it when its holder dies. `patience` in seconds."""
        self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        end = time.monotonic() + (PATIENCE if patience is None else patience)
        try:
            while not _grabbed(descriptor):
                if time.monotonic() >= end:
                    raise Throttled("another create or destroy is at work", wait=timedelta(seconds=2))
                time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    def _phase(self, tag: str, census: Census | None) -> tuple[Phase, str]:
        keeper = self._keeper(tag)
        if keeper is None:
            if self._busy():
                return Phase.STARTING, "being started"
            return Phase.FAILED, "half-created: the service ended before the script was started"
        ended = _json(self.root / tag / "ended.json")
        if ended is None and alive(self.root / tag, keeper):
            return Phase.RUNNING, "the script runs"
        if ended is None:
            word = "ended from outside"
        elif ended.get("code") is None:
            word = "its hard end came"
        else:
            word = f"the script ended with {ended['code']}"
        left = (census or Census()).of(self.root / tag, keeper)
        return Phase.STOPPED, f"{word}; {_left(left)}" if left else word

    def _keeper(self, tag: str) -> Keeper | None:
        content = _json(self.root / tag / "process.json")
        try:
            return Keeper(int(content["pid"]), float(content["created"])) if content is not None else None
        except (KeyError, TypeError, ValueError):
            return None

    def _busy(self) -> bool:
        """Whether somebody is creating or ending an instance right now."""
        try:
            with self.locked(patience=0):
                return False
        except Throttled:
            return True

    def _sweep_gone(self) -> None:
        for rest in self.root.glob(".gone-*"):
            for folder, _, _ in os.walk(rest):
                with contextlib.suppress(OSError):
                    Path(folder).chmod(0o700)  # a job may have taken its own rights away
            shutil.rmtree(rest, ignore_errors=True)
            if rest.exists():
                log.warning("could not remove %s; the next create or destroy tries again", rest)


def _environment(folder: Path) -> dict[str, str]:
    """A clean one: nothing of the service's own reaches an instance."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{SYSTEM_PATH}",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "LANG": "C.UTF-8",
        MARK: str(folder),
    }


def _grabbed(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None if it is not there; an empty one if it is not JSON."""
    try:
        content: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _left(processes: list[psutil.Process]) -> str:
    return f"{len(processes)} of its processes are left"
