"""Runs one short command of the machine, bounded in time and in output, and never raises."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from typing import NamedTuple

LARGEST_OUTPUT = 2 << 20


class Outcome(NamedTuple):
    text: str
    problem: str  # a few words; empty: it ended with 0


def run(argv: list[str], patience: float) -> Outcome:
    """What the command wrote on stdout. After `patience` seconds its whole group is killed."""
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH")}
    environment["LC_ALL"] = "C"
    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Outcome("", f"cannot be started: {error}")
    return result(child, patience)


def result(child: subprocess.Popen[bytes], patience: float, largest: int = LARGEST_OUTPUT) -> Outcome:
    """Waits for a command that leads a group of its own, and whose stdout is a pipe; the group is killed at the end."""
    pieces: list[bytes] = []

    def collect() -> None:
        room = largest
        with contextlib.suppress(OSError, ValueError):
            while child.stdout is not None:
                piece = os.read(child.stdout.fileno(), 65536)
                if not piece:
                    return
                pieces.append(piece[:room])
                room -= len(pieces[-1])  # what is over is read and thrown away, so that the command can end

    reader = threading.Thread(target=collect, daemon=True)
    reader.start()
    problem = ""
    try:
        code = child.wait(patience)
        problem = f"ended with {code}" if code else ""
    except subprocess.TimeoutExpired:
        problem = f"gave no answer in {patience:g} s"
    with contextlib.suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)
    if problem.startswith("gave no"):
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(2)  # a process stuck in the driver does not die: then it is left behind
    reader.join(2)
    if child.stdout is not None and not reader.is_alive():
        child.stdout.close()
    return Outcome(b"".join(pieces).decode("utf-8", "replace"), problem)
