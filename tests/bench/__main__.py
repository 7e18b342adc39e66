"""`python -m tests.bench [--quick]`: every figure of docs/performance.md; the last line is one JSON object."""

from __future__ import annotations

import argparse
import json
import platform
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.bench import beats, fleet, intake, latency
from tests.bench.ground import ROOT
from tests.bench.page import KEYS, render

PAGE = ROOT / "docs" / "performance.md"


def main(quick: bool) -> dict[str, Any]:
    """All of it, one after the other. `quick` is a tenth, to see that it works: its figures say little."""
    figures: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory(prefix="sublet-bench-") as name:
        folder = Path(name)
        for part in ("beats", "intake", "latency"):
            (folder / part).mkdir()
        few, many = (200, 2_000) if quick else (1_000, 10_000)
        figures |= _told("beats", lambda: beats.measure(folder / "beats", few, many))
        figures |= _told("intake", lambda: intake.measure(folder / "intake", 1_000 if quick else 10_000))
        figures |= _told("latency", lambda: latency.measure(folder / "latency", 100 if quick else 1_000, 20 if quick else 200))
        size, seconds = (1_000, 5.0) if quick else (10_000, 20.0)
        figures |= _told("fleet", lambda: fleet.measure(folder / "fleet", size, seconds, 5.0 if quick else 50.0))
    figures["machine"] |= {"load_after": round(psutil.getloadavg()[0], 1)}
    ordered = {key: figures.pop(key) for key in KEYS}
    return {**ordered, **figures}


def machine() -> dict[str, Any]:
    """What it ran on."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpus": psutil.cpu_count(),
        "model": names[0] if names else platform.processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.release()}",
        "load_before": round(psutil.getloadavg()[0], 1),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _told(part: str, work: Any) -> dict[str, Any]:
    began = time.perf_counter()
    print(f"{part} ...", file=sys.stderr, flush=True)
    found: dict[str, Any] = work()
    print(f"{part}: {time.perf_counter() - began:.0f} s  {json.dumps(found)}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of it, in a minute; writes no page")
    given = parser.parse_args()
    figures = main(given.quick)
    if not given.quick:
        PAGE.write_text(render(figures))
    print(json.dumps(figures))
