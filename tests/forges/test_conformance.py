"""Every forge passes every check of the conformance kit; its table, and what its command says."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping

import pytest

from app.forges.conformance import CHECKS, Bench, Check, Fault, Missing, examine, main
from app.forges.conformance.suite import Factory, judge
from tests.forges import benches, forgejo_bench, gitea_bench

FORGES: Mapping[str, Factory] = {name: getattr(benches, name) for name in benches.__all__}


@pytest.mark.parametrize("check", CHECKS, ids=[check.name for check in CHECKS])
@pytest.mark.parametrize("kind", FORGES)
def test_every_forge_passes(kind: str, check: Check) -> None:
    outcome, name, _ = judge(check, FORGES[kind])
    if outcome.word == "skip":
        pytest.skip(outcome.detail)
    assert outcome.word in ("pass", "n/a"), outcome.detail
    assert name == kind


@pytest.mark.parametrize("version", ["1.24.0", "1.27.0"])
def test_gitea_passes_in_its_oldest_and_its_newest_version(version: str) -> None:
    """Until 1.26 a job that is run again keeps its id, and `waiting` means what `pending` means later."""
    result = examine(lambda: gitea_bench.bench(version))
    assert [one for one in result.outcomes if one.word not in ("pass", "n/a", "skip")] == []


def test_forgejo_passes_as_released_too() -> None:
    """Its 15 sends no webhook that helps, and names a job's run nowhere."""
    result = examine(lambda: forgejo_bench.bench(forgejo_bench.OldForgejoBench))
    assert [one for one in result.outcomes if one.word not in ("pass", "n/a", "skip")] == []


def faults_of(factory: Factory) -> frozenset[Fault]:
    try:
        with factory() as bench:
            return bench.faults
    except Missing:
        return frozenset(Fault)


def test_no_check_applies_nowhere() -> None:
    able = {kind: faults_of(factory) for kind, factory in FORGES.items()}
    for one in CHECKS:
        count = sum(one.applies_to(faults) for faults in able.values())
        assert count >= (1 if one.needs & {Fault.OLD_SECRET, Fault.CONDITIONAL} else 2), one.name


# The table, and what the command says


@contextlib.contextmanager
def missing() -> Generator[Bench]:
    raise Missing("this machine lacks a forge")
    yield


def test_what_a_machine_lacks_is_skipped_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    here = f"nowhere={__name__}:missing"
    assert main([here]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == {"forges": 1, "checks": 0, "failed": 0, "skipped": len(CHECKS)}
    assert f"nowhere: all {len(CHECKS)} checks: skip: this machine lacks a forge" in lines
    assert main([here, "--all"]) == 1


def test_a_bench_that_is_not_there_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab=tests.forges.nothing_here:bench"]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["failed"] == len(CHECKS)
    assert any("there is no bench tests.forges.nothing_here:bench" in line for line in lines)


def test_a_process_of_its_own_tells_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"nowhere={__name__}:missing", "--jobs", "1"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["skipped"] == len(CHECKS)
