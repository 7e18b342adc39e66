"""Which processes belong to a `local` instance: its keeper, its session, its descendants, and whoever bears its mark.

A pid alone is never believed: the system reuses pids, and a stranger must not be ended in our name.
Belonging is proven by the mark in the environment (inherited by every child, also after `setsid` and a
double fork), by the session or process group that the keeper leads, or by descent from one that is proven.
Linux keeps a pid unused while it still names a session or a group, so a group under the keeper's number
is the keeper's unless somebody else is alive under that number.
"""

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "SUBLET_LOCAL_INSTANCE"
"""The environment variable that every process of an instance inherits; its value is the instance's folder."""
SAME_START = 2.0
"""Seconds: the clock may be set between two readings of one process's start, but nobody reuses a pid that fast."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """The first process of an instance, as it wrote itself down."""

    pid: int
    created: float  # seconds since 1970, as psutil tells it


@dataclass(frozen=True, slots=True)
class _Seen:
    process: psutil.Process
    parent: int
    session: int
    group: int
    created: float
    mark: str


def _see(pid: int) -> _Seen | None:
    """One living process, or None if it has ended, is a zombie, or cannot be looked at (then it is not ours)."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) and process.num_threads() < 2:
                return None  # with more threads only its first one has ended, and the others work on
            parent, created = process.ppid(), process.create_time()
        try:
            mark = process.environ().get(MARK, "")
        except (psutil.AccessDenied, psutil.ZombieProcess, OSError):
            mark = ""
        return _Seen(process, parent, os.getsid(pid), os.getpgid(pid), created, mark)
    except (psutil.Error, OSError):
        return None


def _is_keeper(seen: _Seen, folder: Path, keeper: Keeper) -> bool:
    return abs(seen.created - keeper.created) < SAME_START or seen.mark == str(folder)


def alive(folder: Path, keeper: Keeper) -> bool:
    """Whether the keeper itself runs: this pid, started at that time."""
    seen = _see(keeper.pid)
    return seen is not None and _is_keeper(seen, folder, keeper)


class Census:
    """One look at every process of the machine; answers for many instances."""

    def __init__(self) -> None:
        looked = (_see(pid) for pid in psutil.pids() if pid != os.getpid())
        self._all = {seen.process.pid: seen for seen in looked if seen is not None}

    def of(self, folder: Path, keeper: Keeper | None) -> list[psutil.Process]:
        """The living processes of the instance in `folder`, the keeper last."""
        ours = {pid for pid, seen in self._all.items() if seen.mark == str(folder)}
        if keeper is not None:
            head = self._all.get(keeper.pid)
            if head is None:
                ours |= {seen.process.pid for seen in self._led_by(keeper) if _touches(seen.process, folder)}
            elif _is_keeper(head, folder, keeper):
                ours |= {keeper.pid, *(seen.process.pid for seen in self._led_by(keeper))}
        while more := {pid for pid, seen in self._all.items() if seen.parent in ours} - ours:
            ours |= more
        return [self._all[pid].process for pid in sorted(ours, key=lambda pid: (bool(keeper and pid == keeper.pid), pid))]

    def _led_by(self, keeper: Keeper) -> Iterable[_Seen]:
        return [seen for seen in self._all.values() if keeper.pid in (seen.session, seen.group)]


def _touches(process: psutil.Process, folder: Path) -> bool:
    """Whether it works in the folder: asked only of a session whose keeper is gone, to tell it from a stranger's.

    One of our own user's that hides from us (as the node's agent does) is not a stranger's.
    """
    try:
        paths = [process.cwd(), *(file.path for file in process.open_files())]
    except psutil.AccessDenied:
        with contextlib.suppress(psutil.Error):
            return process.uids().real == os.getuid()
        return False
    except (psutil.Error, OSError):
        return False
    return any(Path(path).is_relative_to(folder) for path in paths)


def tell(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal; psutil itself makes sure that each pid still is the process that was seen."""
    for process in processes:
        try:
            process.send_signal(number)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or not to be ended by us: the next look tells
