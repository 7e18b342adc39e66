"""Runs every check on benches and prints what came of it."""

import argparse
import asyncio
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from providers.conformance import life, trouble
from providers.conformance.bench import CHECKS, Bench, Missing

MODULES = (life, trouble)  # importing them is what registers their checks
Factory = Callable[[], AbstractAsyncContextManager[Bench]]


@dataclass(frozen=True, slots=True)
class Outcome:
    check: str
    word: str  # "pass", "FAIL", "skip", "n/a"
    detail: str = ""


async def run(factory: Factory) -> tuple[str, list[Outcome]]:
    """Every check, each on a bench of its own. The bench's name, and an outcome per check."""
    name, outcomes = "", list[Outcome]()
    for one in CHECKS:
        try:
            async with factory() as bench:
                name = bench.name
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
    return name, outcomes


def table(results: Mapping[str, Sequence[Outcome]]) -> str:
    """Checks down, benches across, and below the reasons for what did not pass."""
    width = max(len(one.title) for one in CHECKS)
    lines = [" " * width + "".join(f"  {name:>8}" for name in results)]
    for number, one in enumerate(CHECKS):
        lines.append(one.title.ljust(width) + "".join(f"  {outcomes[number].word:>8}" for outcomes in results.values()))
    for name, outcomes in results.items():
        lines += [f"{name}: {one.check}: {one.detail}" for one in outcomes if one.word in ("FAIL", "skip")]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m providers.conformance", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bench", nargs="+", help="module:function, for example tests.providers.benches:fake")
    results: dict[str, list[Outcome]] = {}
    for spec in parser.parse_args(arguments).bench:
        module, _, function = spec.partition(":")
        name, outcomes = asyncio.run(run(getattr(importlib.import_module(module), function)))
        results[name or function] = outcomes
    words = [one.word for outcomes in results.values() for one in outcomes]
    summary = {
        "wrappers": len(results),
        "checks": sum(word in ("pass", "FAIL") for word in words),
        "failed": words.count("FAIL"),
        "skipped": words.count("skip"),
    }
    sys.stdout.write(f"{table(results)}\n{json.dumps(summary)}\n")
    return 1 if summary["failed"] else 0
