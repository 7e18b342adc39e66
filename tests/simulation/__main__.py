"""`python -m tests.simulation --seeds 0:1000 [--deaf] [--replay SEED] [--jobs N]`: plays seeds; the last line is JSON."""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator

from tests.simulation.campaign import Result, in_memory, open_stage, play_here, stage


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 if any seed broke an invariant."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Play whole services in worlds that fail.")
    parser.add_argument("--seeds", default="0:200", help="FROM:TO, TO excluded (default: 0:200)")
    parser.add_argument("--replay", type=int, help="one seed, with its whole trace")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--deaf", action="store_true", help="every webhook of every forge is lost")
    given = parser.parse_args(arguments)
    if given.replay is not None:
        return _replay(given.replay, given.deaf)
    first, _, last = given.seeds.partition(":")
    seeds = range(int(first), int(last or int(first) + 1))
    began, faults, hours, jobs, broken = time.monotonic(), Counter[str](), 0.0, 0, 0
    for done, result in enumerate(_results(seeds, given.jobs, given.deaf), 1):
        hours += result.hours
        jobs += result.jobs
        faults += result.faults
        if result.violations:
            broken += 1
            _show(result, given.deaf)
        if done % 100 == 0:
            rate = done / (time.monotonic() - began)
            print(f"{done} of {len(seeds)} seeds, {rate:.1f} a second, {broken} with violations", file=sys.stderr, flush=True)
    told = {"seeds": len(seeds), "hours": round(hours, 1), "jobs": jobs, "faults": dict(sorted(faults.items()))}
    print(json.dumps({**told, "violations": broken, **({"deaf": True} if given.deaf else {})}))
    return 1 if broken else 0


def _results(seeds: range, jobs: int, deaf: bool) -> Iterator[Result]:
    if jobs <= 1:
        with stage() as here:
            for seed in seeds:
                yield here.play(seed, deaf=deaf)
        return
    with in_memory() as folder, multiprocessing.get_context("spawn").Pool(jobs, open_stage, (folder,)) as pool:
        yield from pool.imap(functools.partial(play_here, deaf=deaf), seeds, chunksize=5)


def _replay(seed: int, deaf: bool) -> int:
    with stage() as here:
        result = here.play(seed, whole=True, deaf=deaf)
    print(*result.trace, sep="\n")
    print(result.picture)
    print(*result.violations, sep="\n")
    print(
        json.dumps({"seed": seed, "digest": result.digest, "faults": dict(result.faults), "violations": len(result.violations)})
    )
    return 1 if result.violations else 0


def _show(result: Result, deaf: bool) -> None:
    lines = [f"seed {result.seed}:", *(f"  {one}" for one in result.violations[:8]), result.picture, "  the end of it:"]
    lines += [f"    {line}" for line in result.trace[-25:]]
    again = f"  again: python -m tests.simulation{' --deaf' if deaf else ''} --replay {result.seed}"
    print(*lines, again, sep="\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
