"""Runs every check on benches and prints what came of it."""

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from typing import Any, cast

from providers.conformance import life, trouble
from providers.conformance.bench import CHECKS, Bench, Missing

MODULES = (life, trouble)  # importing them is what registers their checks
Factory = Callable[[], AbstractAsyncContextManager[Bench]]
CELLS: Mapping[str, str] = {"pass": "ok", "FAIL": "NO", "skip": "??", "n/a": "-"}
MEANINGS = "ok: passed; NO: failed; ??: skipped, something is missing here; -: the bench cannot cause it"
LONGEST = 900.0  # seconds for one bench in a process of its own


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
    proven_against: str = ""  # what its traits say
    stands_on: str = ""  # what it stood on this time, where the bench says so


async def run(factory: Factory) -> tuple[str, list[Outcome]]:
    """Every check, each on a bench of its own. The bench's name, and an outcome per check."""
    result = await examine(factory)
    return result.name, list(result.outcomes)


async def examine(factory: Factory) -> Result:
    """Every check, each on a bench of its own."""
    name, proven, stands_on, outcomes = "", "", "", list[Outcome]()
    for one in CHECKS:
        try:
            async with factory() as bench:
                if not name:
                    name, stands_on = bench.name, str(getattr(bench, "stands_on", ""))
                    proven = (await bench.provider()).traits.profile.proven_against or ""
                if not one.applies_to(bench.faults):
                    needs = ", ".join(sorted(one.needs - bench.faults))
                    outcomes.append(Outcome(one.name, "n/a", f"the bench does not cause: {needs}"))
                    continue
                await one.run(bench)
            outcomes.append(Outcome(one.name, "pass"))
        except Missing as missing:
            outcomes.append(Outcome(one.name, "skip", str(missing)))
        except Exception as error:  # noqa: BLE001  a broken provider may raise anything; the table goes on
            outcomes.append(Outcome(one.name, "FAIL", f"{type(error).__name__}: {error}"))
    return Result(name, outcomes, proven, stands_on)


def table(results: Sequence[Result]) -> str:
    """Benches down, checks across by their number; below, what the numbers mean, and why something did not pass."""
    width = max(len(result.name) for result in results)
    lines = [" " * width + "".join(f" {number:>2}" for number in range(1, len(CHECKS) + 1)) + "  passed"]
    for result in results:
        words = {one.check: one.word for one in result.outcomes}
        cells = "".join(f" {CELLS[words.get(one.name, 'n/a')]:>2}" for one in CHECKS)
        due = sum(word != "n/a" for word in words.values())
        lines.append(f"{result.name:<{width}}{cells}  {list(words.values()).count('pass')} of {due}")
    lines += ["", MEANINGS, ""]
    lines += [f"{number:>2}  {one.title}" for number, one in enumerate(CHECKS, 1)]
    lines += ["", "Proven against:"]
    for result in results:
        here = f" (here: {result.stands_on})" if result.stands_on else ""
        lines.append(f"{result.name:<{width}}  {result.proven_against or 'it does not say'}{here}")
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
        "wrappers": len(results),
        "checks": sum(word in ("pass", "FAIL") for word in words),
        "failed": words.count("FAIL"),
        "skipped": words.count("skip"),
    }


async def _here(spec: str) -> Result:
    """Examine `[name=]module:function` in this process."""
    named, _, place = spec.rpartition("=")
    module, _, function = place.partition(":")
    try:
        factory: Factory = getattr(importlib.import_module(module), function)
    except Exception as error:  # noqa: BLE001  a bench that is missing or broken stops no other
        return _all_failed(named or function, f"there is no bench {place}: {type(error).__name__}: {error}")
    result = await examine(factory)
    return Result(named or result.name or function, result.outcomes, result.proven_against, result.stands_on)


def _all_failed(name: str, detail: str) -> Result:
    return Result(name, [Outcome(one.name, "FAIL", detail) for one in CHECKS])


async def _apart(spec: str, turn: asyncio.Semaphore) -> Result:
    """Examine it in a process of its own: what it leaves behind, or breaks, is nobody else's."""
    name = spec.rpartition("=")[0] or spec
    async with turn:
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "providers.conformance", "--raw", spec),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=1 << 24,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(LONGEST):
                lines = (await process.stdout.read()).decode("utf-8", "replace").splitlines()
                await process.wait()
            result = _told(json.loads(lines[-1]))
        except TimeoutError:
            result = _all_failed(name, f"it took longer than {LONGEST:.0f} s")
        except (IndexError, ValueError, KeyError, TypeError):
            result = _all_failed(name, f"its process ended with {process.returncode} and without a result")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        good = sum(one.word == "pass" for one in result.outcomes)
        sys.stderr.write(f"{result.name}: {good} passed ({time.monotonic() - began:.0f} s)\n")
        return result


def _told(content: Any) -> Result:
    values = cast("dict[str, Any]", content)
    outcomes = [Outcome(**one) for one in values.pop("outcomes")]
    return Result(outcomes=outcomes, **values)


async def _examined(specs: Sequence[str], jobs: int) -> list[Result]:
    if jobs < 1:
        return [await _here(spec) for spec in specs]
    turn = asyncio.Semaphore(jobs)
    return list(await asyncio.gather(*(_apart(spec, turn) for spec in specs)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if nothing failed, and with --all nothing was skipped."""
    parser = argparse.ArgumentParser(prog="python -m providers.conformance", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bench", nargs="+", help="[name=]module:function, for example tests.providers.benches:fake")
    parser.add_argument("--jobs", type=int, default=0, help="a process for each bench, so many at once; 0: all in this one")
    parser.add_argument("--all", action="store_true", help="a skipped check is a failure")
    parser.add_argument("--raw", action="store_true", help="only one JSON line with all there is to tell of one bench")
    given = parser.parse_args(arguments)
    results = asyncio.run(_examined(given.bench, given.jobs))
    if given.raw:
        sys.stdout.write(f"\n{json.dumps(asdict(results[0]))}\n")
        return 0
    counts = summary(results)
    sys.stdout.write(f"{table(results)}\n{json.dumps(counts)}\n")
    return 1 if counts["failed"] or (given.all and counts["skipped"]) else 0
