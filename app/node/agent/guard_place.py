"""A second look at each container: made by the runtime, with its mounts in place, and not started yet.

The engine follows a mount's path once more after the guard has judged it, and a job may have moved a link in between. So what
counts is what was mounted: every piece of the host that the new process could see, and the rights that it would start with.
Read from /proc (proc(5), `mountinfo`; capabilities(7)), after `runc create` and before `runc start`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterable, NamedTuple

DEFAULT_BOUNDS = 0xA80425FB
"""The capabilities that the engine gives to a container by itself (moby, oci/caps: DefaultCapabilities)."""
SPACES = ("mnt", "pid", "ipc", "uts", "net")
OF_ENGINE = re.compile(r"/containers/[0-9a-f]{64}/(mounts/shm|resolv\.conf|hostname|hosts)")
OF_VOLUMES = re.compile(r"/volumes/[a-zA-Z0-9][a-zA-Z0-9_.-]*/_data(/.*)?")
INIT = re.compile(r"/(usr/)?(local/)?(s?bin|libexec/docker)/(docker-init|tini-static|tini)")
DRIVER = re.compile(
    r"/(usr|lib|lib64|opt|etc)/(.*/)?[^/]*(nvidia|cuda|nvcuvid|nvoptix)[^/]*(/.*)?"
    r"|/dev/(nvidia[^/]*|dri)(/.*)?|/run/nvidia-[^/]*(/.*)?|/proc/driver/nvidia(/.*)?"
)
"""What the vendor's hook mounts: libraries, programs, device files, the driver's sockets."""


class Mount(NamedTuple):
    device: str  # major:minor
    root: str  # of what is mounted, inside its file system
    point: str
    options: frozenset[str]
    kind: str


class Place(NamedTuple):
    """What may be seen of the host."""

    data: str  # the engine's data
    state: str  # the engine's running state
    folders: tuple[str, ...]  # the job's
    read_only: tuple[str, ...]  # the hook's
    sockets: tuple[str, ...]  # the guarded one
    gpus: bool


def read(text: str) -> list[Mount]:
    """The lines of a mountinfo; spaces in paths are written as \\040."""
    found: list[Mount] = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        words = left.split(" ")
        if len(words) >= 6 and right:
            options = frozenset(words[5].split(","))
            found.append(Mount(words[2], _plain(words[3]), _plain(words[4]), options, right.split(" ")[0]))
    return found


def _plain(escaped: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), escaped)


def strange(inside: list[Mount], host: list[Mount], place: Place) -> str:
    """The first mount in a container that shows more of the host than it may; empty: none."""
    for one in inside:
        places = list(_on_host(one, host))
        if places and one.kind not in ("cgroup", "cgroup2") and not any(_fits(one, path, place) for path in places):
            return f"{one.point} is {places[0]} of the host"
    return ""


def _on_host(one: Mount, host: list[Mount]) -> Iterable[str]:
    """Where the host has the same content; nothing for a file system of the container's own."""
    for known in host:
        if known.device != one.device:
            continue
        if known.root == "/":
            yield (known.point.rstrip("/") + one.root).rstrip("/") or "/"
        elif one.root == known.root or one.root.startswith(known.root + "/"):
            yield known.point + one.root[len(known.root) :]
        elif known.root.startswith(one.root.rstrip("/") + "/"):
            yield known.point + " and what is around it"  # more than any folder of a job


def _fits(one: Mount, path: str, place: Place) -> bool:
    if one.point == "/":
        return path.startswith((place.data + "/", place.state + "/"))
    if path.startswith(place.data + "/"):
        inner = path[len(place.data) :]
        if OF_ENGINE.fullmatch(inner) or OF_VOLUMES.fullmatch(inner):
            return True
    if path in place.sockets or _within(path, place.folders):
        return True
    if INIT.fullmatch(path) or _within(path, place.read_only):
        return "ro" in one.options
    return place.gpus and DRIVER.fullmatch(path) is not None and ("ro" in one.options or path.startswith(("/dev/", "/run/")))


def _within(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def problem(pid: int, place: Place, bounds: int = DEFAULT_BOUNDS, proc: Path = Path("/proc")) -> str:
    """Why this process may not be started as a container; empty: it may. OSError if it cannot be looked at."""
    there = proc / str(pid)
    for space in SPACES:
        if (there / "ns" / space).stat().st_ino == (proc / "self" / "ns" / space).stat().st_ino:
            return f"it is in the host's own {space} namespace"
    status = dict(line.split(":\t", 1) for line in (there / "status").read_text().splitlines() if ":\t" in line)
    for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"):
        if int(status.get(name, "0"), 16) & ~bounds:
            return f"it has more capabilities than a container's own ({name} {status[name].strip()})"
    inside, host = read((there / "mountinfo").read_text()), read((proc / "self" / "mountinfo").read_text())
    if not inside or not host:
        return "its mounts cannot be read"
    return strange(inside, host, place)
