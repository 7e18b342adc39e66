"""What the start-up script tells the agent, by environment: read once, then taken out of the environment."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("machine", "container", "process")


class Unusable(Exception):
    """The agent cannot start with what it was given."""


@dataclass(frozen=True)
class Settings:
    url: str
    lease: str
    token: str = field(repr=False)
    folder: Path
    kind: str  # what powering off means here: one of KINDS
    ca: str | None  # path of a PEM file; None: the system's trust
    program: tuple[str, ...]  # how this agent is run again, for its launcher and its hook
    engine_flags: tuple[str, ...] | None = None  # more words for an engine of our own; None: only a whole machine gets one


def take(environ: MutableMapping[str, str], program: str) -> Settings:
    """Reads and removes every SUBLET_ variable. Raises `Unusable` with a sentence."""
    given = {name: environ.pop(name) for name in list(environ) if name.startswith("SUBLET_")}
    missing = [name for name in ("SUBLET_URL", "SUBLET_LEASE", "SUBLET_TOKEN", "SUBLET_FOLDER") if not given.get(name)]
    if missing:
        raise Unusable("the start-up script did not set " + ", ".join(missing))
    kind = given.get("SUBLET_POWER_OFF", "process")
    if kind not in KINDS:
        raise Unusable("SUBLET_POWER_OFF is none of " + ", ".join(KINDS))
    folder = Path(given["SUBLET_FOLDER"]).resolve()
    if not folder.is_dir():
        raise Unusable(f"the folder {folder} is not there")
    return Settings(
        url=given["SUBLET_URL"].rstrip("/"),
        lease=given["SUBLET_LEASE"],
        token=given["SUBLET_TOKEN"],
        folder=folder,
        kind=kind,
        ca=given.get("SUBLET_CA") or None,
        program=(sys.executable, "-I", str(Path(program).resolve())),
        engine_flags=tuple(given["SUBLET_ENGINE_FLAGS"].split()) if "SUBLET_ENGINE_FLAGS" in given else None,
    )
