"""Runs of Terraform on one lease: started with a keeper, looked at, told to stop. What is known of them lies on disk.

A run is a folder: steps.json (what it is to do), lock (held by its keeper and by all that the keeper started),
result.json (how far it came) and what each step printed. So a service that comes later, or another one beside this
one, sees the same as the service that started it.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import psutil

from providers import terraform_keeper
from providers.contract import Unclear
from providers.terraform_keeper import write

KEPT = 4  # runs of a lease besides its creates whose output stays for people to read
FOLDER = re.compile(r"\d{6}-(create|refresh|destroy)")
READ_LIMIT = 32 * 1024**2  # bytes of one file of Terraform's that are read


class Verb(StrEnum):
    CREATE = "create"
    REFRESH = "refresh"
    DESTROY = "destroy"


@dataclass(frozen=True, slots=True)
class Step:
    """One call of Terraform, as the keeper reads it."""

    name: str
    command: Sequence[str]
    seconds: float
    when: str = "ok"  # "ok": nothing failed yet; "failed": `of` failed; "always": `of` was begun
    of: str = ""
    mark: str = ""  # a file that is on disk before the step begins
    keep: tuple[str, str] | None = None  # a file, and where it goes once the step is done well


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it shows itself now."""

    folder: Path
    verb: Verb
    busy: bool  # something of it lives
    ended: bool  # its keeper wrote the end
    word: str = ""  # "finished", "late", "stopped"; empty: not begun
    begun: Sequence[str] = ()
    codes: Mapping[str, int] = field(default_factory=dict[str, int])
    keeper: int = 0

    def done(self, step: str) -> bool:
        return self.codes.get(step) == 0

    @property
    def cut_off(self) -> bool:
        """It ended without its keeper's word: killed."""
        return not self.busy and not self.ended

    def said(self, step: str) -> bytes:
        """What the step wrote to its standard output, then its errors; the end of it if it is long."""
        return tail(self.folder / f"{step}.out") + b"\n" + tail(self.folder / f"{step}.err")


def tail(path: Path, limit: int = READ_LIMIT) -> bytes:
    """The last bytes of a file; none if it is not there."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            return file.read(limit)
    except FileNotFoundError:
        return b""


def last(lease: Path, verb: Verb | None = None) -> Run | None:
    """The newest run of a lease, or the newest of that verb."""
    folders = [folder for folder in _folders(lease) if verb is None or _verb(folder) is verb]
    return _look(folders[-1], _verb(folders[-1])) if folders else None


def every(lease: Path, verb: Verb) -> list[Run]:
    """All runs of that verb that are still told of, the oldest first."""
    return [_look(folder, verb) for folder in _folders(lease) if _verb(folder) is verb]


def next_folder(lease: Path, verb: Verb) -> Path:
    """A new run's folder. Only under the lock of the leases."""
    folders = _folders(lease)
    for old in [folder for folder in folders if _verb(folder) is not Verb.CREATE][:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    number = int(folders[-1].name.partition("-")[0]) + 1 if folders else 1
    folder = lease / "runs" / f"{number:06}-{verb}"
    folder.mkdir(mode=0o700, parents=True)
    return folder


def start(folder: Path, steps: Sequence[Step], environment: Mapping[str, str], *, module: Path, grace: float) -> None:
    """Begin the run in this new folder. It lives on without us. Raises `Unclear` if no keeper could be started."""
    write(str(folder / "steps.json"), {"grace": grace, "steps": [asdict(step) for step in steps]})
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        keeper = subprocess.Popen(  # noqa: S603  our own interpreter and file; nothing secret is an argument
            [sys.executable, "-I", "-S", terraform_keeper.__file__, str(folder), str(lock)],
            cwd=module,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[lock],
            start_new_session=True,
        )
        if keeper.wait(30) != 0:  # it forks and leaves at once
            raise Unclear("the keeper of a Terraform run did not start", maybe_created=False)
    finally:
        os.close(lock)


def stop(run: Run) -> None:
    """Ask its keeper to end it: Terraform finishes the call that it is in, and writes its state."""
    with contextlib.suppress(psutil.Error):
        keeper = psutil.Process(run.keeper)
        if str(run.folder) in keeper.cmdline():  # the system reuses numbers
            keeper.send_signal(signal.SIGTERM)


def _folders(lease: Path) -> list[Path]:
    try:
        return sorted(entry for entry in (lease / "runs").iterdir() if FOLDER.fullmatch(entry.name))
    except FileNotFoundError:
        return []


def _verb(folder: Path) -> Verb:
    return Verb(folder.name.partition("-")[2])


def _look(folder: Path, verb: Verb) -> Run:
    held = _held(folder / "lock")  # before the result: what ends between the two looks has written its end
    result = read(folder / "result.json")
    begun, codes = result.get("begun"), result.get("codes")
    ended = result.get("ended") is True
    return Run(
        folder=folder,
        verb=verb,
        busy=held and not ended,
        ended=ended,
        word=str(result.get("word", "")),
        begun=[str(name) for name in cast("list[object]", begun)] if isinstance(begun, list) else [],
        codes=_numbers(cast("dict[object, object]", codes)) if isinstance(codes, dict) else {},
        keeper=int(result.get("keeper", 0)),
    )


def _numbers(found: Mapping[object, object]) -> dict[str, int]:
    return {str(name): code for name, code in found.items() if isinstance(code, int)}


def _held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is none, or none that can be read."""
    try:
        content: Any = json.loads(tail(path))
    except ValueError:
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}
