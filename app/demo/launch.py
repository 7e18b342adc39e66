"""Starts the demo forge as a process of its own, finds it again, talks to it, and ends it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import app
from app.demo import keys

FOLDER = "demo"
ADDRESS = "forge.json"
LOCK = "forge.lock"
START_SECONDS = 30.0
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")


class DemoError(Exception):
    """The demo forge could not be started, or refused what was asked."""


@dataclass(frozen=True, slots=True)
class Running:
    """A living forge. Secrets are named by their files, mode 0600."""

    url: str  # "http://127.0.0.1:40123"
    pid: int
    folder: Path
    app_id: int

    @property
    def api_url(self) -> str:
        return f"{self.url}/api/v3"

    @property
    def webhook_secret_file(self) -> Path:
        return self.folder / keys.WEBHOOK_SECRET

    @property
    def token_file(self) -> Path:
        return self.folder / keys.TOKEN

    @property
    def private_key_file(self) -> Path:
        return self.folder / keys.APP_KEY

    def ask(self, verb: str, said: dict[str, Any] | None = None, *, seconds: float = 15.0) -> dict[str, Any]:
        """One call of the control API: "hook", "push", "jobs", "faults", "limits", "groups", "cancel", "rerun", "approve",
        "stop"; and "state" and "alive", which are asked for without a body. Raises DemoError."""
        method, body = ("GET", None) if verb in ("state", "alive") else ("POST", said or {})
        headers = {"Authorization": f"Bearer {self.token_file.read_text('utf-8').strip()}"}
        try:
            reply = httpx.request(
                method, f"{self.url}/_demo/{verb}", json=body, headers=headers, timeout=seconds, trust_env=False
            )
        except httpx.HTTPError as error:
            raise DemoError(f"the demo forge at {self.url} does not answer: {type(error).__name__}") from None
        if reply.status_code >= 300:
            raise DemoError(f"the demo forge refuses {verb}: {reply.text[:300]}")
        answer: dict[str, Any] = reply.json()
        return answer


def find(data: Path) -> Running | None:
    """The forge that lives on this folder, if one does."""
    folder = data / FOLDER
    if not _held(folder / LOCK):  # nobody lives there: whoever has the old port now must not be shown our token
        return None
    try:
        told: dict[str, Any] = json.loads((folder / ADDRESS).read_text("utf-8"))
        running = Running(str(told["url"]), int(told["pid"]), folder, int(told["app_id"]))
        alive = running.ask("alive", seconds=3.0)
    except (OSError, ValueError, KeyError, DemoError):
        return None
    return running if alive.get("pid") == running.pid else None


def _held(path: Path) -> bool:
    """Whether a process holds this lock."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def ensure(data: Path, *arguments: str) -> Running:
    """The forge of this folder: the living one, or a new process in its own session, so that what ends its parent does not
    end it. `arguments` are more of `python -m app.demo` (docs: `--help`). Raises DemoError when it does not come up."""
    found = find(data)
    if found is not None:
        return found
    folder = (data / FOLDER).resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment["PYTHONPATH"] = str(Path(app.__file__).resolve().parents[1])
    command = [sys.executable, "-m", "app.demo", "--data", str(data.resolve()), "--detach", *arguments]
    ends = time.monotonic() + START_SECONDS
    with (folder / "forge.log").open("ab") as log, contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(  # noqa: S603  our own interpreter and module
            command,
            cwd=folder,
            env=environment,
            timeout=START_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    while time.monotonic() < ends:
        found = find(data)
        if found is not None:
            return found
        if not _held(folder / LOCK):
            break
        time.sleep(0.05)  # another process was faster, and its forge is not up yet
    last = (folder / "forge.log").read_text("utf-8", "replace").strip().splitlines()[-1:]
    raise DemoError(f"the demo forge did not come up: {' '.join(last) or 'it says nothing'}; see {folder / 'forge.log'}")


def stop(data: Path, seconds: float = 10.0) -> bool:
    """Ends the forge of this folder; returns when its process has ended, because the kernel gives the lock back only then.
    True: there was one. Raises DemoError if it does not end."""
    lock, asked, ends = data / FOLDER / LOCK, False, time.monotonic() + seconds
    if not _held(lock):
        return False
    while _held(lock):
        if time.monotonic() > ends:
            raise DemoError(f"the demo forge in {data / FOLDER} does not end")
        found = None if asked else find(data)
        if found is not None:
            found.ask("stop")
            asked = True
        time.sleep(0.02)
    return True
