"""What goes into the demo's container image, gathered from this machine: Python, openssl, a shell and more, act, the runner.

Nothing is downloaded. The same machine gives the same bytes, so the image is known by the hash of what is in it.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from app.demo import machine

PYTHON = PurePosixPath("opt/python")
NOT_TAKEN = frozenset(
    {
        *("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data"),
        *("site-packages", "dist-packages", "__pycache__"),
    }
)
PROGRAMS = (
    *("basename", "cat", "chmod", "chown", "cp", "cut", "date", "dirname", "df", "du", "echo", "env", "expr", "false", "find"),
    *("free", "getent", "grep", "gzip", "head", "hostname", "id", "kill", "ln", "ls", "mkdir", "mktemp", "mv", "nproc"),
    *("printf", "ps", "pwd", "readlink", "rm", "rmdir", "sed", "seq", "setsid", "sleep", "sort", "stat", "tail", "tar", "tee"),
    *("test", "touch", "tr", "true", "tty", "uname", "uniq", "wc", "which", "xargs"),
)
"""Taken one by one where there is no busybox."""
RESOLVERS = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1")  # glibc loads these when it needs them
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
    "sublet-runner:x:1001:1001::/home/sublet-runner:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n",
    "etc/group": "root:x:0:\nsublet-runner:x:1001:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/os-release": 'NAME="Sublet demo"\nID=sublet-demo\n',
}
FOLDERS = {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700, "run": 0o755, "proc": 0o755, "sys": 0o755, "dev": 0o755}
RUNNER_HOME, RUNNER_ID = "home/sublet-runner", 1001


class NoImage(Exception):
    """The demo image cannot be built on this machine."""


@dataclass
class Tree:
    """A root file system in the making: files by their place, taken from this machine or written here."""

    files: dict[str, Path | bytes] = field(default_factory=dict[str, Path | bytes])
    links: dict[str, str] = field(default_factory=dict[str, str])
    programs: set[str] = field(default_factory=set[str])

    def add(self, place: PurePosixPath | str, content: Path | bytes, *, program: bool = False) -> None:
        self.files[str(place)] = content
        if program:
            self.programs.add(str(place))

    def fingerprint(self) -> str:
        """SHA-256 over every place, kind and content."""
        total = hashlib.sha256()
        for place, content in sorted(self.files.items()):
            raw = content if isinstance(content, bytes) else content.read_bytes()
            total.update(f"{place}\0{place in self.programs}\0{hashlib.sha256(raw).hexdigest()}\n".encode())
        for place, target in sorted(self.links.items()):
            total.update(f"{place}\0-> {target}\n".encode())
        total.update(repr((sorted(FOLDERS.items()), RUNNER_HOME, RUNNER_ID)).encode())
        return total.hexdigest()

    def write(self, file: IO[bytes]) -> None:
        """As a tar: sorted, without times or owners of this machine."""
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            parents = {str(above) for place in (*self.files, *self.links) for above in PurePosixPath(place).parents}
            for place in sorted((parents | set(FOLDERS) | {RUNNER_HOME}) - {"."}):
                entry = tarfile.TarInfo(place)
                entry.type, entry.mode = tarfile.DIRTYPE, FOLDERS.get(place, 0o755)
                entry.uid = entry.gid = RUNNER_ID if place == RUNNER_HOME else 0
                tar.addfile(entry)
            for place, content in sorted(self.files.items()):
                raw = content if isinstance(content, bytes) else content.read_bytes()
                entry = tarfile.TarInfo(place)
                entry.size, entry.mode = len(raw), 0o755 if place in self.programs else 0o644
                tar.addfile(entry, io.BytesIO(raw))
            for place, target in sorted(self.links.items()):
                entry = tarfile.TarInfo(place)
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                tar.addfile(entry)


def gather() -> Tree:
    """Raises NoImage where this machine's parts cannot serve in a Linux container, NoAct without `act`."""
    if sys.platform != "linux":
        raise NoImage("the demo image is made of this machine's own programs, so it needs Linux")
    tree = Tree({place: text.encode() for place, text in FILES.items()})
    binaries = [*_python(tree), *_programs(tree)]
    tree.add(machine.IMAGE_ACT.lstrip("/"), machine.act(), program=True)
    tree.add(machine.IMAGE_RUNNER.lstrip("/"), machine.RUNNER)
    _libraries(tree, [*binaries, machine.act()])
    roots = ssl.get_default_verify_paths().cafile
    if roots and Path(roots).is_file():
        tree.add("etc/ssl/certs/ca-certificates.crt", Path(roots).resolve())
    return tree


def _python(tree: Tree) -> list[Path]:
    """The interpreter and its standard library, moved to /opt/python, where it finds itself. Returns what needs libraries."""
    interpreter, base = Path(sys.executable).resolve(), Path(sys.base_prefix).resolve()
    library = Path(sysconfig.get_path("stdlib")).resolve()
    extensions = Path(sysconfig.get_config_var("DESTSHARED") or library / "lib-dynload").resolve()
    place = PYTHON / "bin" / interpreter.name
    tree.add(place, interpreter, program=True)
    tree.links[machine.IMAGE_PYTHON.lstrip("/")] = f"/{place}"
    binaries = [interpreter]
    for folder in [library, *([extensions] if extensions.is_dir() and library not in extensions.parents else [])]:
        if not folder.is_relative_to(base):
            raise NoImage(f"{folder} is not below {base}: this Python's library is not where it says")
        for path in _modules(folder):
            tree.add(PYTHON / folder.relative_to(base).as_posix() / path.relative_to(folder).as_posix(), path.resolve())
            binaries += [path.resolve()] if path.suffix == ".so" else []
    return binaries


def _modules(folder: Path) -> Iterable[Path]:
    """The files of a library that a program can need, without the folders that none here does."""
    for place, inside, names in os.walk(folder):
        inside[:] = sorted(name for name in inside if name not in NOT_TAKEN and not name.startswith("config-"))
        yield from (Path(place, name) for name in sorted(names) if name.endswith((".py", ".so", ".json", ".toml")))


def _programs(tree: Tree) -> list[Path]:
    """A shell and the usual programs: busybox with all its names, or this machine's own, one by one."""
    binaries: list[Path] = []
    busybox = shutil.which("busybox")
    if busybox:
        source = Path(busybox).resolve()
        tree.add("bin/busybox", source, program=True)
        binaries.append(source)
        names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()  # noqa: S603
        tree.links |= {f"bin/{name}": "busybox" for name in names if re.fullmatch(r"[\w.\[-]+", name) and name != "busybox"}
    own = ("openssl", "sh", "bash", *PROGRAMS) if not busybox else ("openssl", "bash")
    for name in own:
        found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
        if found:
            source = Path(found).resolve()
            tree.links.pop(f"bin/{name}", None)
            tree.add(f"bin/{name}", source, program=True)
            binaries.append(source)
    if "bin/sh" not in tree.files and "bin/sh" not in tree.links:
        raise NoImage("there is no /bin/sh to put into the image")
    if "bin/openssl" not in tree.files:
        raise NoImage("there is no openssl on this machine, and with it the agent checks the image's signature")
    tree.links |= {"usr/bin/env": "/bin/env"}
    return binaries


def _libraries(tree: Tree, binaries: Iterable[Path]) -> None:
    """The shared libraries of all of them: beside the C library, where its loader looks first, and the loader itself."""
    found, loader = _linked(binaries)
    if loader is None:
        return  # all of it static
    tree.add(loader.as_posix().lstrip("/"), loader.resolve(), program=True)
    libc = next((path for name, path in found.items() if name.startswith(("libc.so", "libc.musl"))), loader)
    for name in RESOLVERS:
        if (libc.parent / name).is_file():
            found.setdefault(name, libc.parent / name)
    for name, path in found.items():
        tree.add(f"{libc.parent.as_posix().lstrip('/')}/{name}", path.resolve(), program=True)


def _linked(binaries: Iterable[Path]) -> tuple[dict[str, Path], Path | None]:
    """What `ldd` says: library name -> file, and the loader."""
    ldd = shutil.which("ldd", path="/usr/bin:/bin:/usr/sbin:/sbin")
    if ldd is None:
        raise NoImage("`ldd` is needed to find the interpreter's shared libraries")
    found: dict[str, Path] = {}
    loader: Path | None = None
    told = subprocess.run([ldd, *map(str, binaries)], capture_output=True, text=True, check=False).stdout  # noqa: S603
    for line in told.splitlines():
        library = re.match(r"\s+(\S+) => (/\S+) \(0x", line)
        alone = re.match(r"\s+(/\S*ld[-.]\S+) \(0x", line)
        missing = re.match(r"\s+(\S+) => not found", line)
        if missing:
            raise NoImage(f"a shared library is missing on this machine: {missing[1]}")
        if library and re.search(r"/ld[-.]", library[2]) is None:
            found.setdefault(library[1], Path(library[2]))
        elif alone or library:
            loader = loader or Path(alone[1] if alone else library[2] if library else "")
    return found, loader
