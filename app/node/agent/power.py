"""The end of the machine. On a machine of its own: power off. In a container or a process group: the agent's end is its end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import Callable, Sequence

OFF: tuple[tuple[str, ...], ...] = (("shutdown", "-h", "now"), ("systemctl", "poweroff", "--force"), ("poweroff", "-f"))
SYSRQ = Path("/proc/sysrq-trigger")
Start = Callable[[Sequence[str]], None]


def start(argv: Sequence[str]) -> None:
    """Starts a program and does not wait for it: an old `shutdown +10` waits in the foreground."""
    with contextlib.suppress(OSError):
        subprocess.Popen(list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def arm(kind: str, seconds: float, run: Start = start) -> None:
    """Asks the machine itself to power off a little after the hard end, so that even a dead agent does not keep it on."""
    if kind == "machine" and os.geteuid() == 0:
        run(("shutdown", "-h", f"+{max(1, int(seconds // 60) + 2)}"))


def off(kind: str, run: Start = start, rest: Callable[[float], None] = time.sleep, sysrq: Path = SYSRQ) -> None:
    """Returns at once for a container or a process; on a machine it tries one way after the other."""
    if kind != "machine":
        return
    with contextlib.suppress(OSError):
        os.sync()
    for argv in OFF:
        run(argv)
        rest(20)
    with contextlib.suppress(OSError):
        sysrq.write_text("o")
    rest(20)
