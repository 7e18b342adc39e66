"""Runs every check on benches and prints what came of it."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, cast

from app.forges.conformance import deliveries, hostile, life, orders, queue, runners, trouble
from app.forges.conformance.bench import CHECKS, Bench, Check, Missing

MODULES = (deliveries, hostile, life, queue, runners, orders, trouble)  # importing them is what registers their checks
Factory = Callable[[], AbstractContextManager[Bench]]
CELLS: Mapping[str, str] = {"pass": "ok", "FAIL": "NO", "skip": "??", "n/a": "-"}
MEANINGS = "ok: passed; NO: failed; ??: skipped, something is missing here; -: the bench cannot cause it"
LONGEST = 300.0  # seconds for one bench in a process of its own


@dataclass(frozen=True, slots=True)
class Outcome:
    check: str
    word: str  # "pass", "FAIL", "skip", "n/a"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one bench."""

    name: str
    outcomes: Sequence[Outcome]
    stands_on: str = ""


def judge(one: Check, factory: Factory) -> tuple[Outcome, str, str]:
    """One check on a bench of its own: what came of it, the bench's name, and what it stands on."""
    name = stands_on = ""
    try:
        with factory() as bench:
            name, stands_on = bench.name, bench.stands_on
            if not one.applies_to(bench.faults):
                needs = ", ".join(sorted(one.needs - bench.faults))
                return Outcome(one.name, "n/a", f"the bench does not cause: {needs}"), name, stands_on
            one.run(bench)
        return Outcome(one.name, "pass"), name, stands_on
    except Missing as missing:
        return Outcome(one.name, "skip", str(missing)), name, stands_on
    except Exception as error:  # noqa: BLE001  a broken adapter may raise anything; the table goes on
        return Outcome(one.name, "FAIL", f"{type(error).__name__}: {error}"[:600]), name, stands_on


def examine(factory: Factory, checks: Sequence[Check] | None = None) -> Result:
    """Every check, each on a bench of its own."""
    told = [judge(one, factory) for one in (CHECKS if checks is None else checks)]
    named = next(((name, stands_on) for _, name, stands_on in told if name), ("", ""))
    return Result(named[0], [outcome for outcome, _, _ in told], named[1])


def table(results: Sequence[Result]) -> str:
    """Checks down, benches across; below, what each stands on, and why something did not pass."""
    widths = [max(len(result.name), 2) for result in results]
    titles = max(len(one.title) for one in CHECKS)
    lines = [" " * titles + "".join(f"  {result.name:>{width}}" for result, width in zip(results, widths, strict=True))]
    words = [{one.check: one.word for one in result.outcomes} for result in results]
    for one in CHECKS:
        cells = [CELLS[told.get(one.name, "n/a")] for told in words]
        lines.append(
            f"{one.title:<{titles}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        )
    lines += ["", MEANINGS, "", "Stands on:"]
    lines += [f"{result.name}: {result.stands_on or 'it does not say'}" for result in results]
    return "\n".join([*lines, *_troubles(results)])


def _troubles(results: Sequence[Result]) -> list[str]:
    """One line for each check that did not pass, or for all of a bench that failed in the same way."""
    lines: list[str] = []
    for result in results:
        bad = [one for one in result.outcomes if one.word in ("FAIL", "skip")]
        if len(bad) == len(CHECKS) and len({one.detail for one in bad}) == 1:
            lines.append(f"{result.name}: all {len(bad)} checks: {bad[0].word}: {bad[0].detail}")
        else:
            lines += [f"{result.name}: {one.check}: {one.word}: {one.detail}" for one in bad]
    return ["", *lines] if lines else []


def summary(results: Sequence[Result]) -> dict[str, int]:
    words = [one.word for result in results for one in result.outcomes]
    return {
        "forges": len(results),
        "checks": sum(word in ("pass", "FAIL") for word in words),
        "failed": words.count("FAIL"),
        "skipped": words.count("skip"),
    }


def _here(spec: str) -> Result:
    """Examine `[name=]module:function` in this process."""
    named, _, place = spec.rpartition("=")
    module, _, function = place.partition(":")
    try:
        factory: Factory = getattr(importlib.import_module(module), function)
    except Exception as error:  # noqa: BLE001  a bench that is missing or broken stops no other
        return _all_failed(named or function, f"there is no bench {place}: {type(error).__name__}: {error}")
    result = examine(factory)
    return Result(named or result.name or function, result.outcomes, result.stands_on)


def _all_failed(name: str, detail: str) -> Result:
    return Result(name, [Outcome(one.name, "FAIL", detail) for one in CHECKS])


def _apart(spec: str) -> Result:
    """Examine it in a process of its own: what it leaves behind, or breaks, is nobody else's."""
    name, began = spec.rpartition("=")[0] or spec, time.monotonic()
    command = [sys.executable, "-m", "app.forges.conformance", "--raw", spec]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=LONGEST, check=False)  # noqa: S603
        try:
            result = _told(json.loads(done.stdout.decode("utf-8", "replace").splitlines()[-1]))
        except (IndexError, ValueError, KeyError, TypeError):
            result = _all_failed(name, f"its process ended with {done.returncode} and without a result")
    except subprocess.TimeoutExpired:
        result = _all_failed(name, f"it took longer than {LONGEST:.0f} s")
    good = sum(one.word == "pass" for one in result.outcomes)
    sys.stderr.write(f"{result.name}: {good} passed ({time.monotonic() - began:.0f} s)\n")
    return result


def _told(content: Any) -> Result:
    values = cast("dict[str, Any]", content)
    outcomes = [Outcome(**one) for one in values.pop("outcomes")]
    return Result(outcomes=outcomes, **values)


def _examined(specs: Sequence[str], jobs: int) -> list[Result]:
    if jobs < 1:
        return [_here(spec) for spec in specs]
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(_apart, specs))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if nothing failed, and with --all nothing was skipped."""
    parser = argparse.ArgumentParser(prog="python -m app.forges.conformance", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bench", nargs="+", help="[name=]module:function, for example tests.forges.benches:gitlab")
    parser.add_argument("--jobs", type=int, default=0, help="a process for each bench, so many at once; 0: all in this one")
    parser.add_argument("--all", action="store_true", help="a skipped check is a failure")
    parser.add_argument("--raw", action="store_true", help="only one JSON line with all there is to tell of one bench")
    given = parser.parse_args(arguments)
    results = _examined(given.bench, given.jobs)
    if given.raw:
        sys.stdout.write(f"\n{json.dumps(asdict(results[0]))}\n")
        return 0
    counts = summary(results)
    sys.stdout.write(f"{table(results)}\n{json.dumps(counts)}\n")
    return 1 if counts["failed"] or (given.all and counts["skipped"]) else 0
