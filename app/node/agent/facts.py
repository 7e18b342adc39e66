"""What this machine is: GPUs, processor, memory, disk, kernel. Measured, never trusted: the service compares and decides."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

from . import gpus

ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
MIB = 1 << 20


def collect(folder: Path, search: str | None = None) -> dict[str, Any]:
    """The facts in the shape the service asks for. Never raises; what cannot be known is 0 or empty."""
    found = gpus.find(search)
    machine = platform.machine().lower()
    return {
        "gpus": found.gpus,
        "driver": found.driver,
        "cuda": found.cuda,
        "architecture": ARCHITECTURES.get(machine, machine[:40]),
        "memory_mib": memory_mib(),
        "disk_free_mib": _disk_free_mib(folder),
        "kernel": f"{platform.system()} {platform.release()}"[:120],
        "cpus": _cpus(),
        "problem": found.problem[:300],
    }


def memory_mib(root: Path = Path("/")) -> int:
    """The machine's memory, or the container's limit where that is less (cgroup v2, then v1)."""
    limits: list[int] = []
    try:
        told = (root / "proc/meminfo").read_text("ascii", "replace")
        limits += [int(size) * 1024 for size in re.findall(r"^MemTotal:\s+([0-9]{1,15}) kB", told, re.MULTILINE)]
    except OSError:
        pass
    if not limits:
        try:
            limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        except (OSError, ValueError):
            return 0
    for place in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int((root / place).read_text("ascii", "replace").strip()))  # v2 writes "max" for none
        except (OSError, ValueError):
            continue
    return max(min(limits) // MIB, 0)


def _disk_free_mib(folder: Path) -> int:
    try:
        return shutil.disk_usage(str(folder)).free // MIB
    except OSError:
        return 0


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 0
