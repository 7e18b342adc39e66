"""Every built-in provider passes every check of the conformance suite that its bench can stand up."""

from collections.abc import Iterator

import pytest

from providers.conformance import Check
from tests.providers import benches
from tests.providers.suite import suite


@pytest.fixture
def engine(docker_host: str, docker_image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(benches, "shared_engine", docker_host)
    yield docker_image


@suite(benches.FakeBench.faults)
async def test_fake(check: Check) -> None:
    async with benches.fake() as bench:
        await check.run(bench)


@suite(frozenset(), "destroy")
async def test_fake_that_keeps_records_of_ended_machines(check: Check) -> None:
    async with benches.fake() as bench:
        bench.cloud.keeps_records = True
        await check.run(bench)


@suite(benches.LocalBench.faults)
async def test_local(check: Check) -> None:
    async with benches.local() as bench:
        await check.run(bench)


@suite(benches.DockerBench.faults)
async def test_docker(check: Check, engine: str) -> None:
    async with benches.docker() as bench:
        await check.run(bench)
