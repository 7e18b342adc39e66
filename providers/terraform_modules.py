"""The user's module, one copy per version: prepared once (`terraform init`), and kept as long as leases were made by it.

    modules/VERSION/        a copy of the module's files, our override of its backend, and .terraform with the plugins
    modules/VERSION/ready   what it was prepared with; without it, or with another program or place, it is prepared anew
    plugins/                the plugins themselves, shared by all versions (TF_PLUGIN_CACHE_DIR)

A version is a hash over the names and contents of the files. Changing the module makes a new version for new leases;
what older leases stand on is destroyed by the version that made it.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from providers.contract import Refused, Unclear
from providers.terraform_keeper import write
from providers.terraform_leases import locked
from providers.terraform_runs import read
from providers.terraform_words import errors, shown

log = logging.getLogger(__name__)

LARGEST = 32 * 1024**2  # bytes of a module
VERSION = re.compile(r"[0-9a-f]{20}")
UNUSED = 7 * 86400.0  # seconds
MOST = 2000  # files of a module
LEFT_OUT = re.compile(
    r"\.git|\.terraform|\.terraform\.tfstate\.lock\.info|.*\.tfstate(\..*)?|terraform\.tfstate\.d|crash.*\.log"
)
BLOCK = re.compile(r"^[ \t]*(variable|output)[ \t]+\"?([A-Za-z_][\w-]*)\"?[ \t]*\{", re.MULTILINE)
OVERRIDE = {"terraform": {"backend": {"local": {"workspace_dir": "../../leases"}}}}
"""A file named `*_override.tf.json` replaces the module's own backend. Relative: the data folder may move."""
REQUIRED_INPUTS = frozenset({"tag", "owner", "ends_at", "user_data"})
REQUIRED_OUTPUTS = frozenset({"id"})

_programs: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True, slots=True)
class Version:
    name: str
    folder: Path
    inputs: frozenset[str]  # the variables that the module declares
    outputs: frozenset[str]


class Modules:
    """All versions of one module."""

    def __init__(
        self, root: Path, source: Path, binary: str, environment: Mapping[str, str], *, seconds: float, secrets: Sequence[str]
    ) -> None:
        self._root, self._source, self._binary = root, source, binary
        self._environment, self._seconds, self._secrets = environment, seconds, secrets

    @property
    def binary(self) -> str:
        """The program's full path. Raises `Refused` if there is none."""
        found = shutil.which(self._binary)
        if found is None:
            raise Refused(f"the program {self._binary} is not installed on the service's machine")
        return found

    def program(self) -> str:
        """The program's name and version, as it tells them; asked once for one file."""
        binary = self.binary
        status = Path(binary).stat()
        asked = (binary, status.st_mtime_ns, status.st_size)
        if asked not in _programs:
            done = self._call(["version", "-json"], self._root, 30)
            try:
                _programs[asked] = f"{Path(binary).name} {json.loads(done.stdout)['terraform_version']}"
            except (ValueError, KeyError, TypeError):
                said = shown([done.stderr.decode("utf-8", "replace")], self._secrets)
                raise Refused(f"{self._binary} does not tell its version: {said}") from None
        return _programs[asked]

    def current(self) -> Version:
        """The module as it is now, prepared. Raises `Refused` if it is none, `Unclear` if it cannot be prepared now."""
        files = self._files()
        whole = hashlib.sha256()
        for name, path in files:
            whole.update(f"{len(name)} {name} {path.stat().st_size} ".encode())
            whole.update(path.read_bytes())
        name = whole.hexdigest()[:20]
        inputs, outputs = _declared(files)
        if lacking := sorted(REQUIRED_INPUTS - inputs):
            raise Refused(f"the module {self._source} declares no variable {', '.join(lacking)}")
        if lacking := sorted(REQUIRED_OUTPUTS - outputs):
            raise Refused(f"the module {self._source} has no output {', '.join(lacking)}")
        folder = self._root / "modules" / name
        if not folder.is_dir():
            self._copy(files, folder)
        return self._prepared(Version(name, folder, inputs, outputs))

    def of(self, name: str) -> Version:
        """The version that made a lease, prepared. Raises `Unclear` if it is lost."""
        folder = self._root / "modules" / name
        if not VERSION.fullmatch(name) or not folder.is_dir():
            raise Unclear(f"the module's version {name[:20]!r} is not under {self._root}/modules any more", maybe_created=False)
        return self._prepared(Version(name, folder, *_declared([(path.name, path) for path in folder.iterdir()])))

    def retire(self, used: frozenset[str]) -> None:
        """Remove the versions that no lease was made by and that nobody prepared lately."""
        for folder in (self._root / "modules").glob("*"):
            ready = folder / "ready"
            if not VERSION.fullmatch(folder.name) or folder.name in used or not ready.exists():
                continue
            if time.time() - ready.stat().st_mtime > UNUSED:  # noqa: TID251  against the file system's own clock
                shutil.rmtree(folder, ignore_errors=True)

    def _files(self) -> list[tuple[str, Path]]:
        found = sorted((str(path.relative_to(self._source)), path) for path in _walk(self._source))
        if not any(name.endswith((".tf", ".tf.json", ".tofu", ".tofu.json")) and "/" not in name for name, _ in found):
            raise Refused(f"there is no Terraform module in {self._source}")
        if len(found) > MOST or sum(path.stat().st_size for _, path in found) > LARGEST:
            raise Refused(f"the folder {self._source} holds more than a module: over {MOST} files or {LARGEST >> 20} MiB")
        return found

    def _copy(self, files: Sequence[tuple[str, Path]], folder: Path) -> None:
        with locked(self._root / "modules", self._seconds):
            if folder.is_dir():
                return
            draft = folder.with_name(f".new-{os.getpid()}-{folder.name}")
            shutil.rmtree(draft, ignore_errors=True)
            for name, path in files:
                (draft / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.copyfile(path, draft / name)
            write(str(draft / "sublet_override.tf.json"), OVERRIDE)
            draft.rename(folder)

    def _prepared(self, version: Version) -> Version:
        """`terraform init`, once for a version, a program and a place: the plugins are linked by their full path."""
        wanted = {"program": self.program(), "place": str(version.folder.resolve())}
        if read(version.folder / "ready") == wanted:
            return version
        with locked(self._root / "modules", self._seconds):
            if read(version.folder / "ready") == wanted:
                return version
            (self._root / "plugins").mkdir(mode=0o700, exist_ok=True)
            log.info("preparing version %s of the Terraform module %s", version.name, self._source)
            done = self._call(["init", "-input=false", "-no-color", "-json"], version.folder, self._seconds)
            if done.returncode != 0:
                said = shown(errors(done.stdout + b"\n" + done.stderr), self._secrets)
                raise Unclear(f"terraform init failed: {said}", maybe_created=False)
            write(str(version.folder / "ready"), wanted)
        return version

    def _call(self, words: Sequence[str], folder: Path, seconds: float) -> "subprocess.CompletedProcess[bytes]":
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        process = subprocess.Popen(  # noqa: S603  the program of the settings; nothing secret is an argument
            [self.binary, *words],
            cwd=folder,
            env=dict(self._environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        try:
            output, problems = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise Unclear(f"terraform {words[0]} took longer than {seconds:.0f} s", maybe_created=False) from None
        return subprocess.CompletedProcess([*words], process.returncode, tail_of(output), tail_of(problems))


def tail_of(output: bytes) -> bytes:
    return output[-(1 << 20) :]


def _walk(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if LEFT_OUT.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        elif path.is_file():
            yield path


def _declared(files: Sequence[tuple[str, Path]]) -> tuple[frozenset[str], frozenset[str]]:
    """The names of the root module's variables and outputs; Terraform itself judges the rest."""
    found: dict[str, set[str]] = {"variable": set(), "output": set()}
    for name, path in files:
        if "/" in name:
            continue
        if name.endswith((".tf", ".tofu")):
            for kind, label in BLOCK.findall(path.read_text("utf-8", "replace")):
                found[kind].add(label)
        elif name.endswith((".tf.json", ".tofu.json")):
            content = read(path)
            for kind, names in found.items():
                names.update(str(label) for label in content.get(kind) or ())
    return frozenset(found["variable"]), frozenset(found["output"])
