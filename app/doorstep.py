"""What a process leaves in its data folder for the command line beside it: where it listens, and a token."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from datetime import datetime
from pathlib import Path

from app.store.db import Database
from app.web.auth import is_owners, issue_cli_token

TOKEN = "cli-token"  # noqa: S105  a file's name
OLD = 60.0  # seconds; writing a draft takes milliseconds


def leave_address(data: Path, role: str, url: str, name: str) -> Path:
    """`service.json`, or `engine.json` for a process that people have nothing to ask of. Processes may share the folder:
    the one that came last is named."""
    path = data / ("engine.json" if role == "engine" else "service.json")
    write_private(path, json.dumps({"url": url, "pid": os.getpid(), "replica": name}))
    return path


def take_away(path: Path, name: str) -> None:
    """Remove the address, unless another process has put its own there."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if json.loads(path.read_text("utf-8")).get("replica") == name:
            path.unlink()


def leave_token(db: Database, data: Path, now: datetime, host: str) -> None:
    """The token of the command line. One that another process of this folder left, and that is good, is let be. Blocking."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (data / f"{TOKEN}.lock").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        path = data / TOKEN
        known = path.read_text("utf-8").strip() if path.exists() else ""
        if not is_owners(db, known, now):
            write_private(path, issue_cli_token(db, now, host).reveal())


def write_private(path: Path, text: str) -> None:
    """0600 from the first byte, and never half-written. Drafts that killed processes left are cleared away."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    for draft in path.parent.glob(f".{path.name}.*"):
        with contextlib.suppress(FileNotFoundError):
            if draft.stat().st_mtime < fresh.stat().st_mtime - OLD:
                draft.unlink()
    fresh.replace(path)
