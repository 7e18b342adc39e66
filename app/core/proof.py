"""What the node measured against what the pool asked for: the proof that comes before any runner credential."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.model import NodeFacts, NodeImage
from app.core.verdicts import Wanted, short
from providers.contract import Need

MEMORY_SLACK = 0.9
"""A GPU sold with 80 GiB shows a few percent less, because ECC and the driver keep some (NVML's `memory.total`)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the proof."""

    what: str
    asked: str
    seen: str
    passed: bool


def prove(need: Need, facts: NodeFacts, image: Wanted | None = None) -> tuple[Check, ...]:
    """Every check of the need and the image against the facts, in the order a person would read them. All must pass."""
    checks: list[Check] = [] if image is None else _image_checks(image, facts.image or NodeImage(problem="not reported"))
    count = max(need.gpus, 1) if need.gpu is not None else need.gpus
    if need.architecture is not None:
        checks.append(
            Check(
                "CPU architecture", need.architecture, facts.architecture or "unknown", need.architecture == facts.architecture
            )
        )
    if need.memory_gib:
        checks.append(
            Check("memory", f"{need.memory_gib} GiB", _gib(facts.memory_mib), _enough(facts.memory_mib, need.memory_gib))
        )
    if need.disk_gib:
        checks.append(
            Check("free disk", f"{need.disk_gib} GiB", _gib(facts.disk_free_mib), _enough(facts.disk_free_mib, need.disk_gib))
        )
    if count == 0 and need.gpu is None:
        return tuple(checks)
    seen = len(facts.gpus)
    shown = f"{seen}" if seen or not facts.problem else f"0 ({facts.problem})"
    checks.append(Check("GPU count", f"{count}", shown, seen >= count))
    for place, gpu in enumerate(facts.gpus[:count]):
        checks.extend(_gpu_checks(f"GPU {place}", need, gpu))
    if need.min_driver is not None:
        checks.append(
            Check("driver", f"{need.min_driver} or later", facts.driver or "unknown", at_least(facts.driver, need.min_driver))
        )
    if need.min_cuda is not None:
        checks.append(Check("CUDA", f"{need.min_cuda} or later", facts.cuda or "unknown", at_least(facts.cuda, need.min_cuda)))
    return tuple(checks)


def _image_checks(wanted: Wanted, found: NodeImage) -> list[Check]:
    """What runs there, and whether the machine itself has checked who signed it."""
    same, seen = found.digest in wanted.digests, short(found.digest) or found.problem or "not reported"
    checks = [Check("image", short(wanted.digest), seen, same)]
    if found.mode != wanted.mode:
        checks.append(Check("mode", wanted.mode, found.mode or "not reported", False))
    if not wanted.signed:
        return checks
    good = found.checked and same and not found.problem
    by = ", ".join(found.keys[:3]) or "an unnamed key"
    seen = f"{found.openssl or 'openssl'}: {by}" if found.checked else found.problem or "not checked"
    if found.checked and found.problem:
        seen = found.problem
    checks.append(Check("image signature", "checked by the machine's own openssl", seen, good))
    return checks


def _gpu_checks(label: str, need: Need, gpu: Mapping[str, Any]) -> list[Check]:
    name, architecture = str(gpu.get("name", "")), str(gpu.get("architecture", ""))
    checks: list[Check] = []
    if need.gpu_architecture is not None:
        same = architecture.casefold() == need.gpu_architecture.casefold()
        checks.append(Check(f"{label} architecture", need.gpu_architecture, architecture or "unknown", same))
    elif need.gpu is not None:
        words = set(re.split(r"[^a-z0-9]+", f"{name} {architecture}".casefold()))
        checks.append(
            Check(f"{label} model", need.gpu, name or "unknown", set(re.split(r"[^a-z0-9]+", need.gpu.casefold())) <= words)
        )
    if need.gpu_memory_gib:
        memory = gpu.get("memory_mib")
        memory = int(memory) if isinstance(memory, int | float) else 0
        checks.append(
            Check(f"{label} memory", f"{need.gpu_memory_gib} GiB", _gib(memory), _enough(memory, need.gpu_memory_gib))
        )
    if gpu.get("mig") is True:
        checks.append(Check(f"{label} whole", "no MIG slice", "MIG is on", False))
    return checks


def failed(checks: tuple[Check, ...]) -> str:
    """A sentence for people with every check that failed; empty if all passed."""
    return "; ".join(f"{check.what}: asked {check.asked}, seen {check.seen}" for check in checks if not check.passed)


def at_least(seen: str, wanted: str) -> bool:
    """Compare dotted version numbers; anything unreadable is too old."""
    return bool(_numbers(seen)) and _numbers(seen) >= _numbers(wanted)


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version.strip())
    return tuple(int(part[:9]) for part in found.group(0).split(".")) if found else ()


def _enough(mib: int, gib: int) -> bool:
    return mib >= gib * 1024 * MEMORY_SLACK


def _gib(mib: int) -> str:
    return f"{mib / 1024:.0f} GiB"
