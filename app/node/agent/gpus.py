"""The GPUs as `nvidia-smi` tells them. Its output is taken for data of a stranger: whatever it prints, nothing breaks.

Fields: `nvidia-smi --help-query-gpu` (name, memory.total, uuid, driver_version, mig.mode.current, compute_cap) and the XML
of `nvidia-smi -q -x` (cuda_version, product_architecture); MIG devices only appear in `nvidia-smi -L`.
"""

from __future__ import annotations

import csv
import re
import shutil
from typing import Any, NamedTuple

from . import command

PATIENCE = 30.0
"""Seconds for one call: without persistence mode the driver wakes every GPU anew."""
MOST_GPUS = 64
LONGEST = 120
FIELDS = ("name", "memory.total", "uuid", "driver_version", "mig.mode.current", "compute_cap")
PLACES = "/usr/bin:/usr/local/bin:/usr/local/nvidia/bin:/opt/nvidia/bin:/usr/lib/wsl/lib"


class Found(NamedTuple):
    gpus: list[dict[str, Any]]
    driver: str
    cuda: str
    problem: str  # why nothing could be read; empty: all well


def find(path: str | None = None, patience: float = PATIENCE) -> Found:
    """What is there. `path` is the search path for nvidia-smi; None: the process's own, then the usual places."""
    program = shutil.which("nvidia-smi", path=path) or (shutil.which("nvidia-smi", path=PLACES) if path is None else None)
    if program is None:
        return Found([], "", "", "nvidia-smi is not on this machine")
    rows, problem = _query(program, patience)
    if not rows:
        return Found([], "", "", problem or "nvidia-smi lists no GPU")
    driver = next((row["driver_version"] for row in rows if row["driver_version"]), "")
    gpus = [
        {
            "name": row["name"],
            "memory_mib": _number(row["memory.total"]),
            "architecture": "",
            "uuid": row["uuid"],
            "mig": row["mig.mode.current"].casefold() == "enabled",
            "compute_capability": row["compute_cap"],
        }
        for row in rows
    ]
    cuda = _describe(command.run([program, "-q", "-x"], patience).text, gpus)
    if any(gpu["mig"] for gpu in gpus):
        _slices(command.run([program, "-L"], patience).text, gpus)
    return Found(gpus, driver, cuda, "")


def _query(program: str, patience: float) -> tuple[list[dict[str, str]], str]:
    """Old drivers do not know the last fields and then print no table at all: ask again without them."""
    problem = ""
    for count in (len(FIELDS), len(FIELDS) - 1, len(FIELDS) - 2):
        fields = FIELDS[:count]
        told = command.run([program, "--query-gpu=" + ",".join(fields), "--format=csv,noheader,nounits"], patience)
        rows = _table(told.text, fields)
        if rows:
            return rows, ""
        problem = problem or told.problem
        if "gave no answer" in told.problem:
            break
    return [], f"nvidia-smi {problem}" if problem else "nvidia-smi lists no GPU that can be read"


def _table(text: str, fields: tuple[str, ...]) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    try:
        for cells in csv.reader(text.splitlines()[: MOST_GPUS * 4], skipinitialspace=True):
            if len(cells) != len(fields):
                continue
            row = {name: _word(cells[place]) if place < len(cells) else "" for place, name in enumerate(FIELDS)}
            if row["name"] and _number(row["memory.total"]) >= 0 and row["uuid"].startswith(("GPU-", "MIG-")):
                rows.append(row)
    except csv.Error:
        return rows[:MOST_GPUS]
    return rows[:MOST_GPUS]


def _describe(xml: str, gpus: list[dict[str, Any]]) -> str:
    """Adds each GPU's architecture, found by its UUID; returns the driver's CUDA version. Patterns, not an XML parser."""
    for block in xml.split("<gpu ")[1 : MOST_GPUS + 1]:
        uuid, architecture = _tag(block, "uuid"), _tag(block, "product_architecture")
        for gpu in gpus:
            if uuid and gpu["uuid"] == uuid:
                gpu["architecture"] = architecture
    return _tag(xml, "cuda_version")


def _slices(text: str, gpus: list[dict[str, Any]]) -> None:
    """Adds the MIG devices: `  MIG 1g.10gb      Device  0: (UUID: MIG-...)` under its `GPU 0:` line."""
    inside: dict[str, Any] | None = None
    for line in text.splitlines()[:1000]:
        whole = re.match(r"GPU \d{1,3}: .{0,200}\(UUID: (GPU-[0-9A-Za-z-]{1,60})\)", line)
        if whole is not None:
            inside = next((gpu for gpu in gpus if gpu["uuid"] == whole.group(1)), None)
        part = re.match(r"\s+MIG (\S{1,40})\s+Device\s+\d{1,3}: \(UUID: MIG-[0-9A-Za-z/-]{1,100}\)", line)
        if part is not None and inside is not None:
            inside["mig_devices"] = inside.get("mig_devices", 0) + 1
            inside["mig_profiles"] = f"{inside.get('mig_profiles', '')} {part.group(1)}".strip()[:LONGEST]


def _tag(text: str, name: str) -> str:
    found = re.search(rf"<{name}>([^<>]{{1,{LONGEST}}})</{name}>", text)
    return _word(found.group(1)) if found is not None else ""


def _word(text: str) -> str:
    """One printable line; the driver's ways of saying "not known" become nothing."""
    word = "".join(letter for letter in text if letter.isprintable()).strip()[:LONGEST]
    return "" if re.fullmatch(r"\[?(N/A|Not Supported|Not Available|Unknown.*|Insufficient Permissions)\]?", word) else word


def _number(text: str) -> int:
    """Whole MiB; -1 for what is no number, 0 for what the driver does not say."""
    if not text:
        return 0
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else -1
