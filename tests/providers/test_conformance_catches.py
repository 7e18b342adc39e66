"""The conformance suite fails what breaks the contract, names it, and says what was not tested."""

import contextlib
import json
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

import pytest

from providers.conformance import CHECKS, Bench, Failed, Missing, main, run, table
from providers.conformance.suite import Factory, examine
from providers.contract import Instance, Need, Offer, Order, Phase, Provider, Unclear
from providers.fake import FakeProvider
from providers.fake_cloud import FakeCloud
from tests.providers import benches


class Forgetful(FakeProvider):
    """Lists only the newest one."""

    async def owned(self, owner: str) -> Sequence[Instance]:
        return list(await super().owned(owner))[-1:]


class Nosy(FakeProvider):
    """Lists everybody's."""

    async def owned(self, owner: str) -> Sequence[Instance]:
        owners = {machine.owner for machine in self.cloud.living()}
        return [instance for one in sorted(owners) for instance in await super(Nosy, self).owned(one)]


class Careless(FakeProvider):
    """Takes every failure for a lack of capacity that nobody sorted."""

    async def create(self, order: Order) -> Instance:
        try:
            return await super().create(order)
        except Unclear as error:
            raise RuntimeError(str(error)) from error


class Optimist(FakeProvider):
    """Believes that everything runs."""

    async def get(self, instance_id: str) -> Instance | None:
        found = await super().get(instance_id)
        return None if found is None else replace(found, phase=Phase.RUNNING)


class Immortal(FakeProvider):
    """Says yes to destroy, and does nothing."""

    async def destroy(self, instance_id: str) -> None:
        return None


class Blabber(FakeProvider):
    """Shows the start-up script."""

    async def create(self, order: Order) -> Instance:
        instance = await super().create(order)
        return replace(instance, detail=order.user_data)


class Shopkeeper(FakeProvider):
    """Has one name for all its offers."""

    async def offers(self, need: Need) -> Sequence[Offer]:
        return [*self.cloud.shelf, *self.cloud.shelf]


class Blunt(FakeProvider):
    """Passes everything on unseen, and never hears a no."""

    async def create(self, order: Order) -> Instance:
        machine = self.cloud.twin(order) or self.cloud.make(order)
        return Instance(machine.id, machine.tag, Phase.STARTING, machine.created_at, machine.region, "", machine.key)


class Doubling(FakeCloud):
    """Looks at neither keys nor names."""

    def twin(self, order: Order) -> None:
        return None


def double(bench: benches.FakeBench) -> None:
    bench.cloud.__class__ = Doubling


BROKEN: list[tuple[type[FakeProvider], set[str]]] = [
    (Forgetful, {"a_crowd_is_listed_whole"}),
    (Nosy, {"owned_shows_its_owner_only"}),
    (Careless, {"lost_reply_is_unclear_then_found", "server_errors_are_unclear"}),
    (Optimist, {"vendor_states_are_mapped"}),
    (Immortal, {"destroyed_is_gone", "destroy_repeats", "half_created_is_shown_and_ends"}),
    (Blabber, {"secrets_are_not_shown"}),
    (Shopkeeper, {"offers_are_priced_and_dated"}),
    (Blunt, {"too_long_a_script_is_refused", "bad_names_are_refused", "credentials_are_told"}),
]


class BrokenBench(benches.FakeBench):
    kind: type[FakeProvider] = FakeProvider

    async def provider(self) -> Provider:
        return self.kind("fake", self.settings, clock=self.clock, cloud=self.cloud)


def no_more(bench: benches.FakeBench) -> None:
    """Nothing else is wrong."""


def stand(kind: type[FakeProvider], spoil: Callable[[benches.FakeBench], None] = no_more) -> Factory:
    @contextlib.asynccontextmanager
    async def factory() -> AsyncGenerator[Bench, None]:
        bench = BrokenBench()
        bench.kind = kind
        spoil(bench)
        yield bench

    return factory


@pytest.mark.parametrize(("kind", "caught"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
async def test_the_suite_catches_a_provider_that(kind: type[FakeProvider], caught: set[str]) -> None:
    _, outcomes = await run(stand(kind))
    failed = {one.check for one in outcomes if one.word == "FAIL"}
    assert caught <= failed
    assert len(failed) < len(CHECKS) // 2, "and only where it is broken"


async def test_the_suite_catches_a_cloud_that_rents_twice() -> None:
    _, outcomes = await run(stand(FakeProvider, double))
    failed = {one.check for one in outcomes if one.word == "FAIL"}
    assert {"one_key_twice_is_one_instance", "lost_reply_is_unclear_then_found"} <= failed
    assert "another_key_under_one_tag_is_no_second_instance" in failed


async def test_the_table_tells_what_failed_and_what_does_not_apply() -> None:
    def calm(bench: benches.FakeBench) -> None:
        bench.faults = frozenset()

    result = await examine(stand(Nosy, calm))
    lines = table([result]).splitlines()
    assert {one.word for one in result.outcomes} == {"pass", "FAIL", "n/a"}
    assert lines[0].split() == [*(str(number) for number in range(1, len(CHECKS) + 1)), "passed"]
    cells = lines[1].split()
    assert cells[0] == "fake"
    numbers = {one.name: number for number, one in enumerate(CHECKS, 1)}
    assert cells[numbers["one_key_twice_is_one_instance"]] == "ok"
    assert cells[numbers["owned_shows_its_owner_only"]] == "NO"
    assert cells[numbers["no_capacity_is_told"]] == "-"
    assert f"{numbers['no_capacity_is_told']:>2}  No capacity is `NoCapacity`, and nothing stays" in lines
    assert any(line.startswith("fake: owned_shows_its_owner_only: FAIL: Failed: ") for line in lines)
    assert lines[lines.index("Proven against:") + 1].startswith("fake  ")


@contextlib.asynccontextmanager
async def nowhere() -> AsyncGenerator[Bench, None]:
    if benches.FakeBench.crowd:
        raise Missing("no such machine")
    yield benches.FakeBench()


@contextlib.asynccontextmanager
async def broken() -> AsyncGenerator[Bench, None]:
    if benches.FakeBench.crowd:
        raise Failed("it does not stand")
    yield benches.FakeBench()


def test_the_command_prints_a_table_and_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    here = __name__
    assert main(["tests.providers.benches:fake", f"{here}:nowhere"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == {"wrappers": 2, "checks": len(CHECKS), "failed": 0, "skipped": len(CHECKS)}
    assert f"nowhere: all {len(CHECKS)} checks: skip: no such machine" in lines
    assert main(["--all", f"{here}:nowhere"]) == 1, "what is skipped was not proven"
    capsys.readouterr()
    assert main([f"{here}:broken"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failed"] == len(CHECKS)


def test_a_bench_that_is_not_there_fails_and_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    """Each in a process of its own, two at once; one of them takes its process along."""
    specs = ["fake=tests.providers.benches:fake", "none=tests.providers.no_such_bench:bench", f"dead={__name__}:deadly"]
    assert main(["--jobs", "2", *specs]) == 1
    lines = capsys.readouterr().out.splitlines()
    count = len(CHECKS)
    assert json.loads(lines[-1]) == {"wrappers": 3, "checks": 3 * count, "failed": 2 * count, "skipped": 0}
    assert list(json.loads(lines[-1])) == ["wrappers", "checks", "failed", "skipped"]
    row = next(line for line in lines if line.startswith("fake ")).split()
    assert row[1:] == ["ok"] * count + [str(count), "of", str(count)]
    assert any(line.startswith(f"none: all {count} checks: FAIL: there is no bench") for line in lines)
    assert any(line.startswith(f"dead: all {count} checks: FAIL: its process ended with 7") for line in lines)


@contextlib.asynccontextmanager
async def deadly() -> AsyncGenerator[Bench, None]:
    os._exit(7)
    yield benches.FakeBench()
