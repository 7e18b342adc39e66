"""On the host: which processes belong to an instance, and their end. Python 3.8 or later, standard library, Linux's /proc.

Sent by `providers.ssh_wire` over standard input; never installed. Annotations are never evaluated here, so they may be newer
than the host's Python. A pid alone is never believed: the system reuses pids. Belonging is proven by the slot's own user
where it has one, by the mark in the environment (inherited by every child, also after `setsid` and a double fork), by the
keeper's session, or by descent from one that is proven.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

MARK = "SUBLET_SSH_INSTANCE"
"""The environment variable that every process of an instance inherits; its value is the instance's folder."""


class Keeper(NamedTuple):
    """The first process of an instance, as it wrote itself down: a pid means nothing without its start and the boot."""

    pid: int
    start: int  # clock ticks since the boot, as /proc tells it
    boot: str


class Seen(NamedTuple):
    pid: int
    parent: int
    session: int
    start: int

    @property
    def uids(self) -> frozenset[int]:
        """Real, effective and saved. The owner of /proc/PID tells nothing: it is root for a process that hides."""
        try:
            line = next(line for line in read(f"/proc/{self.pid}/status").splitlines() if line.startswith(b"Uid:"))
        except (OSError, StopIteration):
            return frozenset()
        return frozenset(int(uid) for uid in line.split()[1:])


def read(path: str) -> bytes:
    """A whole file of /proc. Plain calls: there are three for each process of the host."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        whole = b""
        while piece := os.read(descriptor, 65536):
            whole += piece
        return whole
    finally:
        os.close(descriptor)


def boot() -> str:
    """The name of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def see(pid: int) -> Seen | None:
    """One living process; None if it has ended or is a zombie."""
    try:
        fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        if fields[0] in (b"Z", b"X") and int(fields[17]) < 2:
            return None  # with more threads only its first one has ended, and the others work on
        return Seen(pid, int(fields[1]), int(fields[3]), int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None


def alive(keeper: Keeper | None) -> bool:
    """Whether the keeper itself runs: this pid, started at that moment of this boot."""
    if keeper is None or keeper.boot != boot():
        return False
    seen = see(keeper.pid)
    return seen is not None and seen.start == keeper.start


class Census:
    """One look at every process of the host; answers for many instances."""

    def __init__(self) -> None:
        pids = (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
        looked = (see(pid) for pid in pids)
        self.all: dict[int, Seen] = {seen.pid: seen for seen in looked if seen is not None}
        self._marks: dict[int, str] = {}

    def of(self, folder: str, keeper: Keeper | None, uid: int = 0) -> list[Seen]:
        """The living processes of the instance in `folder`, its keeper last. `uid`: the slot's own user, 0 if it has none."""
        ours = {pid for pid, seen in self.all.items() if (uid and uid in seen.uids) or self.mark(pid) == folder}
        if keeper is not None and keeper.boot == boot():
            head = self.all.get(keeper.pid)
            if head is None:  # Linux keeps a pid unused while it names a session; a stranger's would not work in our folder
                led = (seen.pid for seen in self.all.values() if seen.session == keeper.pid)
                ours |= {pid for pid in led if _touches(pid, folder)}
            elif head.start == keeper.start:
                ours |= {keeper.pid, *(seen.pid for seen in self.all.values() if seen.session == keeper.pid)}
        self._with_children(ours)
        last = keeper.pid if keeper is not None else 0
        return [self.all[pid] for pid in sorted(ours, key=lambda pid: (pid == last, pid))]

    def marked(self, root: str) -> dict[str, list[Seen]]:
        """The living processes of every instance that is or was under `root`, by the name of its folder."""
        found: dict[str, set[int]] = {}
        for pid in self.all:
            if self.mark(pid).startswith(root + "/"):
                found.setdefault(self.mark(pid).rpartition("/")[2], set()).add(pid)
        for ours in found.values():
            self._with_children(ours)
        return {name: [self.all[pid] for pid in sorted(ours)] for name, ours in found.items()}

    def mark(self, pid: int) -> str:
        """Empty for the processes of others, and of those that hide."""
        if pid not in self._marks:
            self._marks[pid] = ""
            try:
                held = read(f"/proc/{pid}/environ")
                if MARK.encode() in held:
                    found = [entry for entry in held.split(b"\0") if entry.startswith(MARK.encode() + b"=")]
                    self._marks[pid] = found[-1].partition(b"=")[2].decode(errors="replace") if found else ""
            except OSError:
                pass
        return self._marks[pid]

    def _with_children(self, ours: set[int]) -> None:
        while True:
            more = {pid for pid, seen in self.all.items() if seen.parent in ours} - ours
            if not more:
                return
            ours |= more


def _touches(pid: int, folder: str) -> bool:
    """Whether it works in the folder. One of our own user's that hides from us is not a stranger's."""
    try:
        return os.readlink(f"/proc/{pid}/cwd").startswith(folder)  # noqa: PTH115
    except PermissionError:
        seen = see(pid)
        return seen is not None and os.getuid() in seen.uids
    except OSError:
        return False


def tell(processes: list[Seen], number: int) -> None:
    """Send a signal to each that still is the process that was seen."""
    for process in processes:
        now = see(process.pid)
        if now is not None and now.start == process.start:
            try:
                os.kill(process.pid, number)
            except OSError:
                continue  # gone meanwhile, or not to be ended by us: the next look tells


def end_all_of(uid: int) -> None:
    """SIGKILL to every process of the slot's own user at one moment: no fork outruns it."""
    child = os.fork()
    if child == 0:
        try:
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)  # as this user it reaches this user's processes alone, and not itself
        except OSError:
            pass  # it had none
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def end(folder: str, keeper: Keeper | None, uid: int, seconds: float, but: int = 0) -> int:
    """SIGKILL until none is left, the keeper last, and how many are after `seconds`. `but` is spared: whoever asks."""
    until = time.monotonic() + seconds
    clean = 0
    while True:
        left = [process for process in Census().of(folder, keeper, uid) if process.pid != but]
        clean = 0 if left else clean + 1
        if clean == 2:  # one look may miss a child that was born during it
            return 0
        if left and time.monotonic() > until:
            return len(left)
        if uid:
            end_all_of(uid)
        others = [process for process in left if keeper is None or process.pid != keeper.pid]
        tell(others or left, signal.SIGKILL)
        collect()
        if left:
            time.sleep(0.005)


def collect() -> dict[int, int]:
    """The children of this process that have ended, and with what exit code."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
