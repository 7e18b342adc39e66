"""Checks with faults: the forge is away, answers nonsense, asks us to slow down, or no longer takes our token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from app.core.model import Job
from app.forges.conformance.bench import Bench, Fault, check, expect, faulty, order, queued, refusal
from app.forges.conformance.hostile import CONTROLS, LONGEST
from app.forges.contract import Forge, ForgeDown, ForgeRefused, HeldBack, Minted, Pace

Ask = tuple[str, Callable[[], object]]
MOST = 6  # requests for one call that is refused: a token is asked for once more, and no call is a loop


def everything(bench: Bench, forge: Forge, job: Job, minted: Minted) -> Sequence[Ask]:
    """Every call that asks the forge."""
    scope = bench.scopes[0]
    return (
        ("A listing of jobs", lambda: forge.open_jobs(bench.repository)),
        ("A listing of repositories", lambda: forge.repositories(bench.owner)),
        ("A look at a job", lambda: forge.fetch_job(job)),
        ("A look at a run", lambda: forge.fetch_run(job)),
        ("A registration", lambda: forge.mint_runner(order(bench, job=job))),
        ("A look at a runner", lambda: forge.runner(scope, minted.runner_id)),
        ("A listing of runners", lambda: forge.runners(scope, "sublet-")),
        ("A removal", lambda: forge.remove_runner(scope, minted.runner_id)),
        ("A check", forge.check),
    )


def still_there(bench: Bench, forge: Forge, job: Job, minted: Minted) -> None:
    """After the trouble: the job is open, the runner is there, and it takes the job."""
    expect([one.key for one in forge.open_jobs(bench.repository)] == [job.key], "the job is no longer listed")
    expect(forge.runner(bench.scopes[0], minted.runner_id) is not None, "the runner was removed all the same")
    expect(bench.program(minted.credential).take() == job.key, "the runner no longer takes its job")


def all_fail(bench: Bench, fault: Fault, *kinds: type[ForgeDown] | type[ForgeRefused]) -> None:
    """Each call ends in one of these errors, and afterwards all is as it was."""
    forge = bench.forge()
    job = queued(bench, forge)
    minted = forge.mint_runner(order(bench, job=job))
    for what, ask in everything(bench, forge, job, minted):
        with faulty(bench, fault):
            before = bench.asked()
            error = refusal(
                ask, *kinds, what=f"{what} while the forge is {fault}" if fault is Fault.DOWN else f"{what} ({fault})"
            )
            expect(bench.asked() - before <= MOST, f"{what} ({fault}) became {bench.asked() - before} requests")
            if isinstance(error, ForgeDown):
                expect(timedelta(0) < error.wait <= timedelta(hours=1), f"{what} ({fault}) is to be tried after {error.wait}")
    still_there(bench, bench.forge(), job, minted)


@check(Fault.DOWN)
def a_forge_that_is_down_is_no_answer(bench: Bench) -> None:
    """While the forge cannot be reached every call is ForgeDown, never an empty listing or a runner that is gone"""
    all_fail(bench, Fault.DOWN, ForgeDown)


@check(Fault.SERVER_ERROR)
def a_forge_in_trouble_is_no_answer(bench: Bench) -> None:
    """A server's own error is ForgeDown for every call"""
    all_fail(bench, Fault.SERVER_ERROR, ForgeDown)


@check(Fault.GARBAGE)
def an_answer_that_is_no_json_is_no_answer(bench: Bench) -> None:
    """A success that cannot be read is no success: ForgeDown for every call"""
    forge = bench.forge()
    job = queued(bench, forge)
    minted = forge.mint_runner(order(bench, job=job))
    for what, ask in everything(bench, forge, job, minted):
        if what == "A removal":  # its success has no content to read
            continue
        with faulty(bench, Fault.GARBAGE):
            refusal(ask, ForgeDown, what=f"{what} ({Fault.GARBAGE})")
    still_there(bench, bench.forge(), job, minted)


@check(Fault.REDIRECT)
def a_redirect_elsewhere_is_not_followed(bench: Bench) -> None:
    """A redirect to another host is refused: our token goes nowhere else"""
    before = bench.astray()
    all_fail(bench, Fault.REDIRECT, ForgeRefused, ForgeDown)
    expect(bench.astray() == before, "the other host was asked")


@check(Fault.RUDE)
def what_a_forge_says_is_quoted_with_care(bench: Bench) -> None:
    """A forge's own words for a refusal are quoted as one short, clean line"""
    forge = bench.forge()
    job = queued(bench, forge)
    minted = forge.mint_runner(order(bench, job=job))
    for what, ask in everything(bench, forge, job, minted):
        with faulty(bench, Fault.RUDE):
            error = refusal(ask, ForgeRefused, ForgeDown, what=f"{what} that is refused")
        expect(len(str(error)) <= LONGEST, f"{what}: the error has {len(str(error))} characters")
        expect(not CONTROLS & set(str(error)), f"{what}: the error holds what no line may hold")
    still_there(bench, bench.forge(), job, minted)


@check(Fault.TOKEN_EXPIRED)
def an_expired_token_is_told_to_a_person(bench: Bench) -> None:
    """A token that is no longer taken is ForgeRefused with a sentence that names it, after a few requests and no loop"""
    forge = bench.forge()
    job = queued(bench, forge)
    minted = forge.mint_runner(order(bench, job=job))
    for what, ask in everything(bench, forge, job, minted):
        with faulty(bench, Fault.TOKEN_EXPIRED):
            before = bench.asked()
            error = refusal(ask, ForgeRefused, what=f"{what} with an expired token")
            expect(bench.asked() - before <= MOST, f"{what} became {bench.asked() - before} requests")
        said = str(error).lower()
        expect(any(word in said for word in ("token", "key", "credential")), f"{what}: it does not say what is wrong: {error}")
    still_there(bench, bench.forge(), job, minted)


@check(Fault.RATE_LIMITED)
def a_forge_that_asks_us_to_slow_down_is_left_alone(bench: Bench) -> None:
    """Asked to slow down, a call is ForgeDown with the wait; the next is held back without asking, and polls stop"""
    forge = bench.forge()
    job = queued(bench, forge)
    minted = forge.mint_runner(order(bench, job=job))
    with faulty(bench, Fault.RATE_LIMITED):
        error = refusal(lambda: forge.open_jobs(bench.repository), ForgeDown, what="A call that is rate-limited")
        expect(timedelta(seconds=1) <= error.wait <= timedelta(hours=1), f"the wait is {error.wait}")
        expect(forge.pace() is Pace.STOP, f"the pace is {forge.pace()}")
        before = bench.asked()
        for what, ask in everything(bench, forge, job, minted)[:1]:
            held = refusal(ask, HeldBack, what=f"{what} right after")
            expect(timedelta(0) < held.wait <= timedelta(hours=1), f"the wait is {held.wait}")
        expect(bench.asked() == before, "the forge was asked all the same")
    expect([one.key for one in forge.open_jobs(bench.repository)] == [job.key], "when the time is over, it is not asked again")


@check(Fault.QUOTA_LOW)
def the_rest_of_the_quota_is_kept_for_credentials(bench: Bench) -> None:
    """With little of the quota left polls are held back, while runners are still registered and removed"""
    forge = bench.forge()
    job = queued(bench, forge)
    with faulty(bench, Fault.QUOTA_LOW):
        forge.fetch_job(job)  # its answer tells what is left
        expect(forge.pace() is Pace.STOP, f"the pace is {forge.pace()}")
        refusal(lambda: forge.open_jobs(bench.repository), HeldBack, what="A poll with little of the quota left")
        minted = forge.mint_runner(order(bench, job=job))
        forge.remove_runner(bench.scopes[0], minted.runner_id)
        expect(forge.runner(bench.scopes[0], minted.runner_id) is None, "it was not removed")
    expect([one.key for one in forge.open_jobs(bench.repository)] == [job.key], "when the time is over, it is not asked again")
