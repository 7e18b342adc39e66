"""Terraform, its keeper and the service are killed and stopped in the middle: the state stays, and the next one goes on."""

import asyncio
import contextlib
import fcntl
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from providers import terraform_runs
from providers.conformance.bench import refusal
from providers.contract import Order, Phase, ProviderError, Unclear
from providers.terraform_runs import Verb
from tests.providers.patience import eventually
from tests.providers.terraform_bench import REAL, STAND_IN, TerraformBench, stood_up

TREE = Path(__file__).parents[2]


both = pytest.mark.parametrize("program", [STAND_IN, *filter(None, [REAL])], ids=["stand-in", "real"][: 1 + bool(REAL)])
"""For stories that the stand-in is to tell as the real program does."""


@pytest.fixture
def program() -> str:
    return REAL or STAND_IN


@pytest.fixture
async def bench(program: str) -> AsyncIterator[TerraformBench]:
    async with stood_up(program) as one:
        yield one
        (one.yard / "go").touch()
        for folder in (one.settings.root / "leases").glob("sublet-*"):
            await eventually(lambda folder=folder: not busy(folder), "nothing at work")


def busy(lease: Path) -> bool:
    run = terraform_runs.last(lease)
    return run is not None and run.busy


async def begun(bench: TerraformBench, order: Order) -> psutil.Process:
    """A create that has reached the vendor, and goes no further. Its keeper."""
    bench.strike("slow")
    first = await bench.another(wait=timedelta(milliseconds=1)).create(order)
    assert first.phase is Phase.STARTING
    await eventually(lambda: (bench.yard / "slow").exists(), "the vendor asked")
    run = terraform_runs.last(bench.lease(order.tag))
    assert run is not None and run.begun[-1] == "apply"
    return psutil.Process(run.keeper)


async def killed(bench: TerraformBench, order: Order) -> None:
    """Killed with SIGKILL, all of it, in the middle of an apply. The vendor never made the machine."""
    keeper = await begun(bench, order)
    below = keeper.children(recursive=True)
    for process in (keeper, *below):
        with contextlib.suppress(psutil.Error):
            process.kill()
    await eventually(lambda: not busy(bench.lease(order.tag)), "nothing at work")
    (bench.yard / "go").touch()


async def test_a_create_that_lasts_longer_than_it_is_waited_for_comes_to_run(bench: TerraformBench) -> None:
    order = bench.order()
    await begun(bench, order)
    provider = await bench.provider()
    assert [(one.tag, one.phase) for one in await provider.owned(order.owner)] == [(order.tag, Phase.STARTING)]
    (bench.yard / "go").touch()
    assert (await provider.create(order)).phase is Phase.RUNNING
    assert len(bench.calls("apply")) == 1


@both
async def test_killed_in_an_apply_state_and_intent_stay_and_the_same_create_completes_it(bench: TerraformBench) -> None:
    order = bench.order()
    await killed(bench, order)
    folder = bench.lease(order.tag)
    assert (folder / "terraform.tfstate").stat().st_size > 0
    assert (folder / "apply.begun").exists() and (folder / ".terraform.tfstate.lock.info").exists()
    provider = await bench.provider()
    half = await provider.get(order.tag)
    assert half is not None and (half.phase, half.detail) == (Phase.FAILED, "Terraform was killed in the create")
    assert (await provider.create(order)).phase is Phase.RUNNING
    assert bench.machines == [order.tag]
    assert len(bench.calls("plan")) == 2, "the plan of the killed apply fits no state any more"
    await provider.destroy(order.tag)
    assert await provider.get(order.tag) is None
    assert bench.machines == []


async def test_killed_in_an_apply_a_destroy_cleans_up_and_says_what_it_cannot_know(
    bench: TerraformBench, caplog: pytest.LogCaptureFixture
) -> None:
    order = bench.order()
    await killed(bench, order)
    provider = await bench.provider()
    await provider.destroy(order.tag)
    assert await provider.get(order.tag) is None
    assert not bench.lease(order.tag).exists()
    assert "look for a machine of that name at the vendor's" in caplog.text
    assert (await provider.check()).facts["cut off"] == order.tag


async def test_a_destroy_in_the_middle_of_an_apply_lets_terraform_write_its_state_first(bench: TerraformBench) -> None:
    order = bench.order()
    await begun(bench, order)
    provider = await bench.provider()
    ending = asyncio.create_task(provider.destroy(order.tag))
    result = bench.lease(order.tag) / "runs" / "000001-create" / "result.json"
    await asyncio.sleep(0.05)
    (bench.yard / "go").touch()
    await ending
    assert await provider.get(order.tag) is None
    assert bench.machines == [] and not result.exists()


async def test_a_create_that_was_stopped_is_not_taken_for_done(bench: TerraformBench) -> None:
    order = bench.order()
    keeper = await begun(bench, order)
    keeper.send_signal(signal.SIGTERM)
    (bench.yard / "go").touch()
    await eventually(lambda: bool((run := terraform_runs.last(bench.lease(order.tag))) and run.ended), "the run ended")
    run = terraform_runs.last(bench.lease(order.tag))
    assert run is not None and run.word == "stopped" and "show" in run.begun
    assert (await (await bench.provider()).create(order)).phase is Phase.RUNNING
    assert bench.machines == [order.tag]


async def test_an_apply_that_is_late_is_asked_to_stop_then_killed(bench: TerraformBench) -> None:
    order = bench.order()
    bench.strike("slow")
    hasty = bench.another(apply_timeout=timedelta(seconds=0.5), grace=timedelta(milliseconds=200))
    error = await refusal(hasty.create(order))
    assert isinstance(error, Unclear) and error.maybe_created and "late" in str(error)
    assert [one.phase for one in await hasty.owned(order.owner)] == [Phase.FAILED]
    (bench.yard / "go").touch()
    await hasty.destroy(order.tag)
    assert await hasty.get(order.tag) is None


async def test_a_service_that_is_killed_takes_no_apply_along(bench: TerraformBench) -> None:
    order = bench.order()
    bench.strike("slow")
    settings = bench.settings
    words = [str(part) for part in (settings.root, settings.module, settings.binary, bench.yard)]
    service = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.providers.terraform_crash", *words, order.tag, order.key, order.owner),
        stdin=asyncio.subprocess.PIPE,
        cwd=TREE,
    )
    assert service.stdin is not None
    service.stdin.write(order.user_data.encode())
    service.stdin.close()
    for _ in range(1200):
        if (bench.yard / "slow").exists():
            break
        await asyncio.sleep(0.05)
    service.kill()
    await service.wait()
    (bench.yard / "go").touch()
    provider = await bench.provider()
    assert (await provider.create(order)).phase is Phase.RUNNING, "the apply went on alone"
    assert len(bench.calls("apply")) == 1
    assert bench.machines == [order.tag]


async def test_killed_between_the_order_and_the_run_the_same_create_starts_it(bench: TerraformBench) -> None:
    order, provider = bench.order(), await bench.provider()
    await provider.create(bench.order())
    real, terraform_runs.start = terraform_runs.start, die
    try:
        with pytest.raises(Unclear):
            await provider.create(order)
    finally:
        terraform_runs.start = real
    half = await provider.get(order.tag)
    assert half is not None and half.phase is Phase.FAILED and not bench.lease(order.tag).joinpath("apply.begun").exists()
    assert (await provider.create(order)).phase is Phase.RUNNING


def die(*arguments: object, **rest: object) -> None:
    raise OSError("the service died here")


async def test_an_order_that_never_reached_an_apply_is_taken_away_without_terraform(bench: TerraformBench) -> None:
    order, provider = bench.order(), await bench.provider()
    real, terraform_runs.start = terraform_runs.start, die
    try:
        with pytest.raises(ProviderError):
            await provider.create(order)
    finally:
        terraform_runs.start = real
    await provider.destroy(order.tag)
    assert await provider.get(order.tag) is None
    assert not (bench.yard / "calls").exists() or not bench.calls("destroy")


async def test_a_plan_that_was_never_applied_is_applied_by_the_next_run(bench: TerraformBench) -> None:
    order = bench.order()
    await killed(bench, order)
    folder = bench.lease(order.tag)
    for path in (folder / "apply.begun", *folder.glob("terraform.tfstate*")):
        path.unlink()  # as if it had been killed a moment earlier
    assert (await (await bench.provider()).create(order)).phase is Phase.RUNNING
    assert len(bench.calls("plan")) == 1 and len(bench.calls("apply")) == 2
    again = terraform_runs.last(folder, Verb.CREATE)
    assert again is not None and "plan" not in again.begun


async def test_a_state_that_is_locked_by_somebody_else_is_left_alone(bench: TerraformBench) -> None:
    order, provider = bench.order(), await bench.provider()
    await provider.create(order)
    with (bench.lease(order.tag) / "terraform.tfstate").open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        impatient = bench.another(apply_timeout=timedelta(seconds=0.5), grace=timedelta(milliseconds=100))
        with pytest.raises(Unclear):
            await impatient.destroy(order.tag)
        assert bench.machines == [order.tag]
    await provider.destroy(order.tag)
    assert await provider.get(order.tag) is None


async def test_two_attempts_under_one_name_are_kept_apart(bench: TerraformBench) -> None:
    order, provider = bench.order(), await bench.provider()
    await provider.create(order)
    assert isinstance(await refusal(provider.create(replace(order, key="another"))), Unclear)
    assert len(bench.calls("apply")) == 1
