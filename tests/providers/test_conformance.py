"""Every built-in provider passes every check of the conformance suite that its bench can stand up."""

from collections.abc import Iterator

import pytest

from providers.conformance import CHECKS, Check
from tests.providers import benches


def applicable(faults: frozenset[str]) -> list[Check]:
    return [check for check in CHECKS if check.needs <= faults]


def named(check: Check) -> str:
    return check.name


@pytest.fixture
def engine(docker_host: str, docker_image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(benches, "shared_engine", docker_host)
    yield docker_image


@pytest.mark.parametrize("check", applicable(benches.FakeBench.faults), ids=named)
async def test_fake(check: Check) -> None:
    async with benches.fake() as bench:
        await check.run(bench)


@pytest.mark.parametrize("check", [check for check in applicable(frozenset()) if "destroy" in named(check)], ids=named)
async def test_fake_that_keeps_records_of_ended_machines(check: Check) -> None:
    async with benches.fake() as bench:
        bench.cloud.keeps_records = True
        await check.run(bench)


@pytest.mark.parametrize("check", applicable(benches.LocalBench.faults), ids=named)
async def test_local(check: Check) -> None:
    async with benches.local() as bench:
        await check.run(bench)


@pytest.mark.parametrize("check", applicable(benches.DockerBench.faults), ids=named)
async def test_docker(check: Check, engine: str) -> None:
    async with benches.docker() as bench:
        await check.run(bench)
