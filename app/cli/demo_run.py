"""One demo from start to end: a service of its own in a temporary folder, one job followed through, nothing left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from app.cli.client import Client, Json, find
from app.cli.exits import Exit, Failure
from app.cli.output import hint
from app.cli.up import service_command, service_environment

LOOK_SECONDS = 0.2
STOP_SECONDS = 30.0
"""How long the service may take to end after an interrupt, before it is ended."""
BOOKS_SECONDS = 5.0
"""How long to wait for the books of a lease that is gone already."""


def living(data: Path) -> bool:
    """Whether the service that wrote `service.json` in this folder still runs."""
    try:
        pid = int(json.loads((data / "service.json").read_text(encoding="utf-8"))["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return psutil.pid_exists(pid)


def working_in(folder: Path) -> list[psutil.Process]:
    """Processes that work in a folder, whoever their parent is now: instances outlive the service by design."""
    place = str(folder)
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and (
                any(place in word for word in process.cmdline()) or process.cwd().startswith(place)
            ):
                found.append(process)
    return found


class Demo:
    """A service that plays one job. On the way out it is stopped, and what it may have left is looked for."""

    def __init__(self, provider: str, timeout: float, keep: bool) -> None:
        """`timeout` in seconds, from now to the proven end of the lease."""
        self._provider, self._keep = provider, keep
        self._began = time.monotonic()
        self._end = self._began + timeout
        self.seconds = 0.0
        self.left: list[str] = []

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="sublet-demo-"))
        self._log = self.folder / "service.log"
        words = ["--demo", "--demo-provider", self._provider, "--data", str(self.folder), "--port", "0", "--quiet"]
        self._before = signal.signal(signal.SIGTERM, _as_interrupt)
        with self._log.open("wb") as log:
            self._service = subprocess.Popen(  # noqa: S603  our own program, no shell
                service_command(words),
                env=_plain_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we pass it on once
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()
        signal.signal(signal.SIGTERM, self._before)
        if isinstance(error, Failure) or self._service.returncode not in (0, -signal.SIGINT, 128 + signal.SIGINT):
            self._show_log()
        if self._keep:
            hint(f"Kept: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def through(self, say: Callable[[str], None]) -> Json:
        """The demo job's lease once it is released and proven gone. Raises Failure."""
        while not (self.folder / "service.json").exists():
            self._rest("The service did not start")
        shown: set[str] = set()
        with Client(find(None, None, self.folder)) as api:
            while True:
                for lease in reversed(api.get("leases", which="all")["leases"]):
                    for phase in lease["phases"]:
                        line = f"{lease['name']}: {phase['phase']}"
                        if line not in shown and phase["phase"] != "queued":  # the forge's own wait, told afterwards
                            shown.add(line)
                            say(line)
                    if lease["state"] == "released" and lease["gone"] and lease["job"] and lease["job"]["conclusion"]:
                        return self._booked(api, lease)
                self._rest("The job did not come to its end")

    def _booked(self, api: Client, lease: Json) -> Json:
        """The same lease with its final cost, if the books close soon."""
        end = time.monotonic() + BOOKS_SECONDS
        while lease["cost"].get("estimate") and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
            lease = api.get(f"leases/{lease['id']}")
        self.seconds = time.monotonic() - self._began
        return lease

    def _rest(self, what: str) -> None:
        """Wait a moment, unless the time is over or the service has ended. Raises Failure."""
        if self._service.poll() is not None:
            raise Failure(Exit.FAILED, f"The service ended by itself, with {self._service.returncode}.")
        if time.monotonic() > self._end:
            raise Failure(Exit.TIMED_OUT, f"{what} within {self._end - self._began:.0f} s.")
        time.sleep(LOOK_SECONDS)

    def _stop(self) -> None:
        """Interrupt the service as Ctrl-C would, and wait for its end; then look for what it left."""
        family = self._family()
        for number, patience in ((signal.SIGINT, STOP_SECONDS), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            if self._service.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    self._service.send_signal(number)
            try:
                self._service.wait(patience)
                break
            except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C: be quicker
                self.left.append(f"the service, after signal {number}")
        _, alive = psutil.wait_procs(family, timeout=2.0)
        strays = {*alive, *working_in(self.folder)}
        for process in strays:
            with contextlib.suppress(psutil.Error):
                self.left.append(f"{process.pid} ({process.name()})")
                process.kill()
        psutil.wait_procs(strays, timeout=5.0)

    def _family(self) -> list[psutil.Process]:
        """The service's children, and theirs."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self._service.pid).children(recursive=True)
        return []

    def _show_log(self) -> None:
        with contextlib.suppress(OSError):
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
            hint("\n".join(["The service's last lines:", *(f"  {line}" for line in lines[-40:])]))


def _plain_environment() -> dict[str, str]:
    """Settings of another installation in the environment do not reach the demo."""
    return {name: value for name, value in service_environment().items() if not name.startswith("SUBLET_")}


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
