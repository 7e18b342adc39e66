"""On the host: the keeper of one instance. On while the start-up script runs; when that ends, all it started ends too.

A fork of the host's side of a create, so nothing of it is installed. It is the instance's "machine": the connection, the
service and its network may go and come back without the keeper noticing.

- Exactly one: it writes its own record under a name that only the first can take, before the script starts.
- Nothing escapes: as a subreaper it inherits what double-forks or starts its own session. Where the slot has a user of its
  own, every process of that user ends with it. If the keeper itself is killed, the kernel kills the script.
- Dead-man switch: at the hard end it ends everything and wipes it, whether or not a service is alive. The time counts on
  while the host sleeps.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import resource
import select
import signal
import stat
import sys
import time
from pathlib import Path
from typing import Any

from providers import ssh_host_processes as processes

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38  # <linux/prctl.h>
PATIENCE = 10.0  # seconds until a keeper has come up
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/cuda/bin"
SCRATCH = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  where everybody may leave files


def _libc() -> Any:
    import ctypes  # here, since only keepers and wipes need it

    return ctypes.CDLL(None)


def _prctl(option: int, value: int) -> None:
    _libc().prctl(option, value, 0, 0, 0)


def write(path: Path, text: str, *, only_first: bool = False) -> bool:
    """Write a whole file at once, or (only_first) not at all if the name is taken."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if not only_first:
        draft.replace(path)
        return True
    try:
        os.link(draft, path)  # unlike a rename, it never replaces
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def start(folder: Path, uid: int, groups: list[str], until: float, environment: dict[str, str]) -> bool:
    """Fork the keeper, and wait until the script runs. `until`: the hard end by CLOCK_BOOTTIME.

    False if none came up; one that finds another's record goes by itself."""
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            if os.fork() == 0:
                _keep(folder, uid, groups, until, environment, writer)
        finally:
            os._exit(0)  # so that init is the keeper's parent
    os.waitpid(middle, 0)
    os.close(writer)
    try:
        return bool(select.select([reader], [], [], PATIENCE)[0]) and os.read(reader, 2) == b"on"
    finally:
        os.close(reader)


def _keep(folder: Path, uid: int, groups: list[str], until: float, environment: dict[str, str], status: int) -> None:
    os.setsid()
    _let_go(folder, status)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # it ends by its script, by its time, or by SIGKILL
    me = processes.see(os.getpid())
    if me is None or not write(
        folder / "process.json",
        json.dumps({"pid": me.pid, "start": me.start, "boot": processes.boot()}),
        only_first=True,
    ):
        return
    keeper = processes.Keeper(me.pid, me.start, processes.boot())
    script = os.fork()
    if script == 0:
        try:
            _become_script(folder, uid, groups, environment, me.pid)
        finally:
            os._exit(127)
    with contextlib.suppress(OSError):  # nobody listens if the connection was lost meanwhile
        os.write(status, b"on")
    os.close(status)
    code = _watch(script, until)
    write(folder / "ended.json", json.dumps({"code": code}))
    left = processes.end(str(folder), keeper, uid, 60.0, but=os.getpid())
    if not left:
        wipe(folder, uid)


def _let_go(folder: Path, status: int) -> None:
    """Of the connection, of the lock and of whatever else is open: only the status pipe stays, and a console."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    console = os.open(folder / "console.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(nothing, 0)
    os.dup2(console, 1)
    os.dup2(console, 2)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  plain names are wanted
        if int(name) > 2 and int(name) != status:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _become_script(folder: Path, uid: int, groups: list[str], environment: dict[str, str], keeper: int) -> None:
    os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the job's secrets
    if uid:
        os.setgroups([number for number in (_group(name) for name in groups) if number])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if os.geteuid() != 0:
        _prctl(PR_SET_NO_NEW_PRIVS, 1)  # no sudo: what became another user could not be ended by us
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        return
    os.chdir(folder / "work")
    os.umask(0o022)
    os.execve("/bin/sh", ["sh", str(folder / "start.sh")], environment)  # noqa: S606  the script is never an argument


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return 0


def environment(folder: Path, python: str, extra: dict[str, str]) -> dict[str, str]:
    """A clean one: nothing of the login reaches an instance."""
    return {
        "PATH": f"{SEARCH}:{Path(python).parent}",
        "HOME": str(folder / "work" / "home"),
        "TMPDIR": str(folder / "work" / "tmp"),
        "LANG": "C.UTF-8",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **extra,
        processes.MARK: str(folder),
    }


def _watch(script: int, until: float) -> int | None:
    """Wait for the script's end, or for the hard end (None)."""
    bell, ringer = os.pipe()
    os.set_blocking(ringer, False)
    signal.set_wakeup_fd(ringer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # that it came is told through the wakeup descriptor
    while True:
        ended = processes.collect()
        if script in ended:
            return ended[script]
        left = until - time.clock_gettime(time.CLOCK_BOOTTIME)
        if left <= 0:
            return None
        if select.select([bell], [], [], min(left, 30.0))[0]:  # short, since `select` does not count while the host sleeps
            os.read(bell, 512)


def wipe(folder: Path, uid: int) -> None:
    """Remove the script and whatever the job left; only once none of its processes is alive. Raises OSError if some stays."""
    with contextlib.suppress(FileNotFoundError):
        (folder / "start.sh").unlink()
    remove(folder / "work")
    if not uid:
        return
    for place in SCRATCH:
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(place):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_uid == uid:
                        remove(Path(entry.path))
    libc = _libc()
    for kind, forget in (("shm", libc.shmctl), ("sem", libc.semctl), ("msg", libc.msgctl)):
        with contextlib.suppress(OSError):
            rows = [line.split() for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()]
            for row in rows[1:]:
                if int(row[rows[0].index("uid")]) == uid:
                    forget(int(row[1]), 0, 0)  # IPC_RMID is 0, and so is the number of a semaphore that is not looked at


def remove(path: Path) -> None:
    """With everything in it, also where a job took its own rights away. Links are not followed."""
    import shutil  # here, since it brings half of the standard library along

    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return
        for folder, _, _ in os.walk(path):
            with contextlib.suppress(OSError):
                Path(folder).chmod(0o700)
        shutil.rmtree(path)


if sys.platform != "linux":
    raise SystemExit("sublet: a host is a Linux machine")
