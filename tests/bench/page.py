"""docs/performance.md, from the figures of one run and the words in performance.md beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEYS = (
    "intake_per_s",
    "intake_vs_commit_limit",
    "intake_vs_no_store",
    "queued_to_create_p50_ms",
    "queued_to_create_p99_ms",
    "end_to_destroy_p50_ms",
    "end_to_destroy_p99_ms",
    "live_leases_cpu_share",
    "live_leases_rss_mb",
    "claim_p99_ms",
    "forge_calls_per_job",
)
GOALS: Mapping[str, tuple[str, float]] = {
    "intake_per_s": ("at least", 3_000),
    "queued_to_create_p50_ms": ("below", 25),
    "queued_to_create_p99_ms": ("below", 250),
    "end_to_destroy_p50_ms": ("below", 25),
    "end_to_destroy_p99_ms": ("below", 250),
    "live_leases_rss_mb": ("below", 500),
    "forge_calls_per_job": ("at most", 2),
    "beat_cost_ratio": ("at most", 1.5),
}

TEMPLATE = Path(__file__).with_name("performance.md")


def render(figures: Mapping[str, Any]) -> str:
    """The whole page."""
    machine = figures["machine"]
    about = (
        f"Machine: {machine['cpus']} x {machine['model']}, {machine['memory_gib']} GiB, {machine['system']}, Python "
        f"{machine['python']}, SQLite {machine['sqlite']}. Load average before and after: {machine['load_before']} and "
        f"{machine['load_after']}; what else ran is in the figures.\n"
    )
    lines = ["| figure | value | goal | |", "|---|---:|---:|---|"]
    for key in (*KEYS, "beat_cost_ratio"):
        word, goal = GOALS.get(key, ("", 0.0))
        lines.append(f"| `{key}` | {figures[key]:,} | {f'{word} {goal:,}' if word else ''} | {_verdict(key, figures[key])} |")
    rest = {key: value for key, value in figures.items() if key not in (*KEYS, "machine", "beat_cost_ratio")}
    more = ["| figure | value |", "|---|---|"]
    more += [f"| `{key}` | {_shown(value)} |" for key, value in rest.items()]
    parts = {"@MACHINE@": about, "@FIGURES@": "\n".join(lines), "@MORE@": "\n".join(more)}
    page = TEMPLATE.read_text()
    for mark, text in parts.items():
        page = page.replace(mark, text)
    return page


def _verdict(key: str, value: float) -> str:
    if key not in GOALS:
        return ""
    word, goal = GOALS[key]
    return "reached" if (value >= goal if word == "at least" else value <= goal) else "not reached"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number:,}" for name, number in value.items())  # pyright: ignore[reportUnknownVariableType]
    return f"{value:,}"
