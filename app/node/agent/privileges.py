"""Giving rights away before the runner starts: another user, or the same one without any capability. Linux, by ctypes.

Numbers from linux/prctl.h, linux/capability.h, linux/securebits.h, linux/sched.h and linux/mount.h. Called only in the
launcher, a small process without threads; `quiet` is the one call that the agent makes for itself, `own_mounts` the guard's.
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import pwd
import resource
import sys
from pathlib import Path
from typing import Any, NamedTuple

PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522
CLONE_NEWNS = 0x20000
MS_REC, MS_SLAVE = 0x4000, 0x80000
NOROOT_LOCKED = 0b1111  # NOROOT and NO_SETUID_FIXUP, each with its lock
USERS = ("sublet-runner", "nobody")
"""The start-up script makes the first on real machines; the second is everywhere."""
POWERFUL = frozenset({"root", "sudo", "wheel", "adm", "docker", "lxd", "disk", "shadow"})
"""Groups that are as good as root; they are not handed on."""


class Account(NamedTuple):
    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


class NotDropped(Exception):
    """The rights could not be given away, so nothing may be started."""


def account() -> Account | None:
    """The unprivileged user for the runner; None if we are not root, or there is no such user."""
    if os.geteuid() != 0:
        return None
    for name in USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0 or entry.pw_gid == 0:
            continue
        groups = tuple(number for number in os.getgrouplist(name, entry.pw_gid) if not _powerful(number))
        return Account(name, entry.pw_uid, entry.pw_gid, groups)
    return None


def _powerful(gid: int) -> bool:
    try:
        return gid == 0 or grp.getgrgid(gid).gr_name in POWERFUL
    except KeyError:
        return False


def quiet() -> None:
    """For the agent itself: no other process of the same user may read its memory or environment, and orphans come to it."""
    with contextlib.suppress(OSError, NotDropped):
        _prctl(PR_SET_DUMPABLE, 0)
    with contextlib.suppress(OSError, NotDropped):
        _prctl(PR_SET_CHILD_SUBREAPER, 1)


def own_mounts() -> None:
    """For the guard: what its engine mounts is seen by nobody else, and goes with it."""
    if sys.platform == "linux" and _libc().unshare(CLONE_NEWNS) == 0:
        _libc().mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None)


def limit() -> None:
    """No core files, for they hold secrets; private files; and the first to go when memory runs out."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def become(user: Account) -> None:
    """The other user, for good. Raises `NotDropped`."""
    _close_bounds()
    try:
        os.setgroups(list(user.groups))
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        raise NotDropped(f"cannot become {user.name}: {error.strerror}") from None
    no_way_back()
    left = capabilities()
    if os.getresuid() != (user.uid,) * 3 or os.getresgid() != (user.gid,) * 3 or (left is not None and any(left)):
        raise NotDropped(f"did not become {user.name}")


def strip() -> None:
    """The same user, without any capability. Raises `NotDropped`."""
    if sys.platform != "linux":
        raise NotDropped("capabilities can be dropped on Linux only")
    with contextlib.suppress(NotDropped):  # needs CAP_SETPCAP; without it, the rest is still enough
        _prctl(PR_SET_SECUREBITS, NOROOT_LOCKED)
    _close_bounds()
    no_way_back()
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, twice
    if _libc().capset(header, nothing) != 0:
        raise NotDropped(f"capabilities stay: {os.strerror(ctypes.get_errno())}")
    left = capabilities()
    if left is None or any(left):
        raise NotDropped("capabilities are left over")


def _close_bounds() -> None:
    """Nothing below may ever hold a capability. Needs CAP_SETPCAP; without it, `no_way_back` is still enough."""
    if sys.platform != "linux":
        return
    for capability in range(64):
        with contextlib.suppress(NotDropped):  # EINVAL past the last one that this kernel knows
            _prctl(PR_CAPBSET_DROP, capability)
    with contextlib.suppress(NotDropped):
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def no_way_back() -> None:
    """From here on no program can gain rights by being started: no sudo, no setuid. Raises `NotDropped`."""
    if sys.platform == "linux":
        _prctl(PR_SET_NO_NEW_PRIVS, 1)


def capabilities() -> tuple[int, int, int] | None:
    """Permitted, effective and ambient sets of this process; None if the kernel does not tell."""
    try:
        lines = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
        return int(lines["CapPrm"], 16), int(lines["CapEff"], 16), int(lines.get("CapAmb", "0"), 16)
    except (OSError, KeyError, ValueError):
        return None


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, first: int) -> None:
    if sys.platform != "linux":
        raise NotDropped("prctl is Linux only")
    numbers = [ctypes.c_ulong(number) for number in (first, 0, 0, 0)]
    if _libc().prctl(ctypes.c_int(option), *numbers) != 0:
        raise NotDropped(f"prctl {option}: {os.strerror(ctypes.get_errno())}")
