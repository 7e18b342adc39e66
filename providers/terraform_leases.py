"""The folders of leases: what was ordered, Terraform's state, and what it last showed. All of it blocks briefly.

    leases/TAG/order.json          what was ordered, written before the folder gets its name, and never after
    leases/TAG/order.tfvars.json   the module's inputs
    leases/TAG/terraform.tfstate   Terraform's own: the workspace of this name; with its lock and its backup beside it
    leases/TAG/lease.plan          the plan, until it was applied
    leases/TAG/apply.begun         on disk before the first apply
    leases/TAG/destroy.asked       on disk before the first destroy
    leases/TAG/shown.json          `terraform show -json` after the last run that changed or read something
    leases/TAG/runs/               the last runs, see terraform_runs.py

A folder appears by one rename, whole; and goes by one rename, only when no apply ever began, when Terraform failed and
shows no resource, or when `terraform destroy` succeeded and Terraform then shows no resource.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from providers import terraform_runs
from providers.contract import TAG, Throttled
from providers.terraform_keeper import write
from providers.terraform_runs import Run, Verb, read

PATIENCE = 10.0  # seconds until another one's short work must be over


@dataclass(frozen=True, slots=True)
class Record:
    """order.json."""

    tag: str
    key: str
    owner: str
    offer: str
    region: str
    module: str  # the version that made it; the same one destroys it
    created_at: str  # RFC 3339
    ends_at: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What `terraform show -json` says of a state."""

    resources: int  # managed ones; data that was only read does not count
    outputs: Mapping[str, Any]  # those that are not sensitive


@dataclass(frozen=True, slots=True)
class Look:
    """A lease's folder now."""

    record: Record | None  # None: it cannot be read
    run: Run | None  # the newest
    created: Run | None  # the newest that was to create
    applied: bool  # an apply began, ever
    ending: bool  # its end was asked for
    shown: Shown | None

    @property
    def busy(self) -> bool:
        return self.run is not None and self.run.busy


class Leases:
    """All leases under one root. The root belongs to one provider of one installation."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "leases"

    def tags(self) -> list[str]:
        if not self.folder.exists():
            return []
        return sorted(entry.name for entry in self.folder.iterdir() if TAG.fullmatch(entry.name) and entry.is_dir())

    def exists(self, tag: str) -> bool:
        return (self.folder / tag).is_dir()

    def record(self, tag: str) -> Record | None:
        content = read(self.folder / tag / "order.json")
        try:
            return Record(**{key: str(value) for key, value in content.items()})
        except TypeError:
            return None

    def place(self, record: Record, inputs: Mapping[str, object]) -> None:
        """Make the folder. Killed before the rename, there is nothing; after it, there is a whole order."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self.folder / f".new-{secrets.token_hex(8)}"
        draft.mkdir(mode=0o700)
        (draft / "runs").mkdir(mode=0o700)
        write(str(draft / "order.json"), asdict(record))
        write(str(draft / "order.tfvars.json"), inputs)
        draft.rename(self.folder / record.tag)
        _sync(self.folder)

    def ask_to_end(self, tag: str) -> None:
        mark = self.folder / tag / "destroy.asked"
        if not mark.exists():
            write(str(mark), {})

    def look(self, tag: str) -> Look | None:
        folder = self.folder / tag
        if not folder.is_dir():
            return None
        return Look(
            record=self.record(tag),
            run=terraform_runs.last(folder),
            created=terraform_runs.last(folder, Verb.CREATE),
            applied=(folder / "apply.begun").exists(),
            ending=(folder / "destroy.asked").exists(),
            shown=_shown(folder / "shown.json"),
        )

    def busy(self) -> int:
        """How many leases have a run at work."""
        looks = (terraform_runs.last(self.folder / tag) for tag in self.tags())
        return sum(run is not None and run.busy for run in looks)

    def remove(self, tag: str) -> None:
        """Take the folder away. Only under the lock, and only for the reasons that the module names."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / tag).rename(self.folder / f".gone-{secrets.token_hex(8)}")
            _sync(self.folder)
        for rest in self.folder.glob(".gone-*"):
            shutil.rmtree(rest, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a killed service left half-made. Only under the lock: whoever makes a draft holds it."""
        for pattern in (".new-*", ".gone-*"):
            for rest in self.folder.glob(pattern):
                shutil.rmtree(rest, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Generator[None, None, None]:
        """One at a time, across services; the system lets go of it when its holder dies."""
        with locked(self.folder.parent, PATIENCE):
            yield


@contextlib.contextmanager
def locked(folder: Path, patience: float) -> Generator[None, None, None]:
    """Alone in this folder. Raises `Throttled` after `patience` seconds."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise Throttled("another call is at work") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _shown(path: Path) -> Shown | None:
    try:
        content: Any = json.loads(path.read_bytes())
        values: Any = content.get("values") or {}
        outputs: Any = values.get("outputs") or {}
        told = {str(name): each["value"] for name, each in cast("dict[Any, Any]", outputs).items() if not each.get("sensitive")}
        return Shown(_managed(values.get("root_module") or {}), told)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # it proves nothing: neither that there is something, nor that there is nothing


def _managed(module: Any) -> int:
    here = sum(resource.get("mode") != "data" for resource in module.get("resources", ()))
    return here + sum(_managed(child) for child in module.get("child_modules", ()))
