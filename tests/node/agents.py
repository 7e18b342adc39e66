"""Starts the real agent as a real process, and knows what a machine with this or that GPU answers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.node.package import agent
from tests import parts

TOKEN = "join-token-0123456789abcdefghijklmnopqrstuvw"
SYSTEM_PYTHON = "/usr/bin/python3"


@dataclass
class Agent:
    """A running agent. Its console is read when it has ended."""

    process: subprocess.Popen[str]
    folder: Path
    console: str = ""

    def end(self, patience: float = 20.0) -> int:
        """Wait until it has ended by itself; its exit code."""
        self.console = self.process.communicate(timeout=patience)[0]
        return self.process.returncode

    @property
    def socket(self) -> str:
        return str(self.folder / "hook" / "gate")


def pack(folder: Path) -> Path:
    """agent.pyz in this folder, readable for all."""
    place = folder / "agent.pyz"
    place.write_bytes(agent()[0])
    place.chmod(0o644)
    return place


@contextmanager
def running(
    url: str,
    folder: Path,
    *,
    python: str = sys.executable,
    path: str | None = None,
    user: int | None = None,
    lease: str = "0123456789abcdef",
    program: Path | None = None,
    kind: str = "process",
    around: Sequence[str] = (),
    **more: str,
) -> Generator[Agent]:
    """The agent as the start-up script starts it; killed at the end if the test failed before its own end.

    `around`: a command in front; `more`: variables besides the usual."""
    packed = pack(folder)
    given = {
        "PATH": os.environ["PATH"] if path is None else path,
        "SUBLET_URL": url,
        "SUBLET_LEASE": lease,
        "SUBLET_TOKEN": TOKEN,
        "SUBLET_FOLDER": str(folder),
        "SUBLET_POWER_OFF": kind,
        **more,
    }
    process = subprocess.Popen(
        [*around, python, "-I", str(program or packed), "run"],
        env=given,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    started = Agent(process, folder)
    try:
        yield started
    finally:
        with contextlib.suppress(OSError):
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise


def shell(script: str, *, ready: str = "", **more: Any) -> dict[str, Any]:
    """The credential of a runner that is a line of shell."""
    return {"command": ["/bin/sh", "-c", script], "environment": {}, "files": {}, "ready": ready, **more}


@contextmanager
def open_folder() -> Generator[Path]:
    """A folder that every user can reach, as /var/lib/sublet is; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="sublet-test-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def need_root() -> str:
    """Ends the test where rights cannot be given away; else a Python that any user can run."""
    if os.geteuid() != 0:
        parts.lacks("root", "run the tests as root to see a runner lose its rights")
    if not Path(SYSTEM_PYTHON).exists():
        parts.lacks("system Python", f"{SYSTEM_PYTHON} is a Python that every user may run")
    return SYSTEM_PYTHON


def tools(folder: Path, *names: str, **stubs: str) -> str:
    """A PATH with these programs of the machine, and with stubs that only write down how they were called."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    for name, says in stubs.items():
        stub = folder / name
        stub.write_text(f'#!/bin/sh\necho "{name} $*" >>{folder}/called\n{says}\n')
        stub.chmod(0o755)
    return str(folder)


def nvidia_smi(folder: Path, *, query: str = "", xml: str = "", listing: str = "", script: str | None = None) -> str:
    """A folder for PATH with an nvidia-smi that prints this; `script` replaces it whole."""
    folder.mkdir(exist_ok=True)
    for name, text in (("query", query), ("xml", xml), ("list", listing)):
        (folder / name).write_text(text)
    program = folder / "nvidia-smi"
    program.write_text(
        script
        or f"""#!/bin/sh
case "$1" in
  --query-gpu=*) cat {folder}/query ;;
  -q) cat {folder}/xml ;;
  -L) cat {folder}/list ;;
esac
"""
    )
    program.chmod(0o755)
    return str(folder)
