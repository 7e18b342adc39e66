"""One real process of the service: started, watched, killed, paused, and started again as a supervisor would."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import app

TREE = Path(app.__file__).resolve().parents[1]
REST = 0.5
"""Seconds until one that ended by itself is started again."""
STOP_SECONDS = 30.0
LOOK_SECONDS = 0.3
DATA = "data"
"""The data folder that all processes of an installation on one machine share."""


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a process that nobody killed."""

    name: str
    code: int
    lived: float  # seconds
    served: bool  # whether it had been up


class Service:
    """`sublet up` of one role."""

    def __init__(self, name: str, role: str, folder: Path, config: Path) -> None:
        self.name, self.role, self._folder, self._config = name, role, folder, config
        self.log = folder / f"{name}.log"
        self.port: int | None = None  # where it listens, once it does
        self.up = False  # whether this life of it has answered
        self.exits: list[Exit] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._again: float | None = None  # when to start it again
        self._resume: float | None = None
        self._look = 0.0
        self._read = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def paused(self) -> bool:
        return self._resume is not None

    def start(self) -> None:
        """The system chooses its port. It dies with us, whatever becomes of us."""
        words = ["--config", str(self._config), "--data", str(self._folder / DATA), "--role", self.role]
        command = [sys.executable, "-P", "-m", "app.main", *words, "--port", "0", "--quiet"]
        guard = shutil.which("setpriv")
        if guard is not None:
            command = [guard, "--pdeathsig", "KILL", *command]
        temporary = self._folder / "tmp"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SUBLET_")}
        environment |= {"PYTHONPATH": str(TREE), "TMPDIR": str(temporary)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.port, self.up, self._again, self._began = None, False, None, time.monotonic()

    def tend(self, now: float) -> None:
        """What is due: continue one that was paused, start one again that has ended, learn where it listens."""
        if self._resume is not None and now >= self._resume:
            self.resume()
        process = self._process
        if process is None:
            if self._again is not None and now >= self._again:
                self.start()
            return
        code = process.poll()
        if code is not None:
            self.exits.append(Exit(self.name, code, now - self._began, self.up))
            self._gone(now + REST)
        elif self.port is None:
            self.port = _listens(process.pid)
        elif not self.up and not self.paused and now >= self._look:
            self._look = now + LOOK_SECONDS
            self.up = _answers(self.port)

    def kill(self, back_at: float) -> bool:
        """kill -9, now. False: it is down already."""
        process = self._process
        if process is None or process.poll() is not None:
            return False
        process.kill()
        process.wait(10)
        self._gone(back_at)
        return True

    def pause(self, until: float) -> bool:
        """SIGSTOP. False: it is not up, or paused already."""
        if self.pid is None or not self.up or self.paused:
            return False
        os.kill(self.pid, signal.SIGSTOP)
        self._resume = until
        return True

    def resume(self) -> None:
        if self._resume is not None and self.pid is not None:
            os.kill(self.pid, signal.SIGCONT)
        self._resume = None

    def stop(self) -> int | None:
        """SIGTERM and its exit code; None if it had to be killed. 0 for one that is not running."""
        self.resume()
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            return None

    def end(self) -> None:
        """Whatever it does, now."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        self._process = None

    def news(self) -> Iterator[dict[str, Any]]:
        """The whole lines that it logged since the last call."""
        if not self.log.exists():
            return
        with self.log.open("rb") as file:
            file.seek(self._read)
            fresh = file.read()
        whole, _, _ = fresh.rpartition(b"\n")
        self._read += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)

    def _gone(self, back_at: float) -> None:
        self._process, self.port, self.up, self._resume, self._again = None, None, False, None, back_at


def _listens(pid: int) -> int | None:
    with contextlib.suppress(psutil.Error):
        for one in psutil.Process(pid).net_connections(kind="tcp"):
            if one.status == psutil.CONN_LISTEN:
                return int(one.laddr.port)
    return None


def _answers(port: int) -> bool:
    """Whether the service has begun to serve there, well or not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=LOOK_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
