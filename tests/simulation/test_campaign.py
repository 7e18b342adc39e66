"""Two hundred seeds with every test run, in pieces that the workers share; ten thousand by `make simulate`."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation import campaign
from tests.simulation.conditions import conditions

SEEDS = 200
PIECE = 10
DEAF = 3
FORGES = ("github", "gitlab", "gitea", "forgejo")
TREE = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("first", range(0, SEEDS, PIECE))
def test_no_seed_breaks_an_invariant(first: int) -> None:
    for result in campaign.play(range(first, first + PIECE)):
        again = f"python -m tests.simulation --replay {result.seed}"
        assert not result.violations, "\n".join([*result.violations, result.picture, *result.trace[-30:], again])


def _with(forge: str) -> Iterator[int]:
    """Seeds with jobs enough that this forge probably has one: it is the only one beside GitHub, or GitHub is alone."""
    for seed in itertools.count():
        known = conditions(seed)
        if set(known.forges) == {"github", forge} and known.jobs > 1 and known.hours < 0.5:
            yield seed


@pytest.mark.parametrize("forge", FORGES)
def test_no_job_is_lost_where_every_webhook_is(forge: str) -> None:
    seeds = _with(forge)
    played = list(campaign.play(itertools.islice(seeds, DEAF), deaf=True))
    while len(played) < 4 * DEAF and not any(forge in result.forges for result in played):  # all jobs may be GitHub's
        played += campaign.play(itertools.islice(seeds, 1), deaf=True)
    for result in played:
        again = f"python -m tests.simulation --deaf --replay {result.seed}"
        assert not result.violations, "\n".join([*result.violations, result.picture, *result.trace[-30:], again])
    assert forge in frozenset[str]().union(*(result.forges for result in played))
    assert sum(result.faults["webhook_lost"] for result in played), "where is a webhook to be lost?"


def test_a_seed_is_the_same_story_every_time() -> None:
    """In this process, in another one, and under another hash seed: to the last line of its trace. Each forge has a part."""
    seeds = [next(_with(forge)) for forge in FORGES[1:]]  # GitHub is in each
    here = {str(result.seed): result.digest for result in campaign.play(seeds)}
    told = "import json, sys; from tests.simulation import campaign"
    told += "; print(json.dumps({one.seed: one.digest for one in campaign.play(json.loads(sys.argv[1]))}))"
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    there = subprocess.run(
        [sys.executable, "-c", told, json.dumps(seeds)], cwd=TREE, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(there.stdout) == here
