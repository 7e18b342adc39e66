"""Checks of what is known of one job and its run, and of what the adapter says of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from app.core.model import JobState
from app.forges.conformance.bench import Bench, Fault, check, expect, listed, order, queued, same_labels
from app.forges.contract import ForgeDown, ForgeError, Pace


@check()
def the_adapter_says_what_it_is(bench: Bench) -> None:
    """Name and traits are there, of the contract's types, and the same for each adapter"""
    forge: Any = bench.forge()
    for word in ("name", "kind"):
        value = getattr(forge, word, None)
        expect(isinstance(value, str) and bool(value), f"{word} is {value!r}")
    for word in ("always_2xx", "single_use", "pinned", "wide", "reruns_in_place"):
        expect(isinstance(getattr(forge, word, None), bool), f"{word} is {getattr(forge, word, None)!r}")
        expect(getattr(forge, word) is getattr(bench.forge(), word), f"{word} is now this and now that")
    expect(isinstance(forge.pace(), Pace) and forge.pace() is Pace.FREE, f"before the first call the pace is {forge.pace()}")


@check()
def the_account_is_told(bench: Bench) -> None:
    """`check` says in a sentence that the account can be used"""
    said = bench.forge().check()
    expect(bool(said.strip()) and "\n" not in said and len(said) < 600, f"it says {said!r}")


@check()
def one_job_is_told(bench: Bench) -> None:
    """A job is told as the forge has it now: queued, running on which runner, ended how"""
    forge = bench.forge()
    job = queued(bench, forge)
    now = forge.fetch_job(job)
    expect(now is not None and now.state is JobState.QUEUED and now.key == job.key, f"a queued job is told as {now}")
    expect(now is not None and now.labels is not None and same_labels(now.labels, bench.labels), "without its labels")
    minted = forge.mint_runner(order(bench, job=job))
    program = bench.program(minted.credential)
    expect(program.take() == job.key, "the runner did not take it")
    forge.job_started(bench.scopes[0], minted.runner_id, job.installation)
    now = forge.fetch_job(job)
    expect(now is not None and now.state is JobState.IN_PROGRESS, f"a job that runs is told as {now}")
    program.finish(job.key)
    now = forge.fetch_job(job)
    expect(now is None or now.state is JobState.COMPLETED, f"a job that has ended is told as {now}")
    expect(now is None or now.conclusion == "success", f"a success is told as {now}")


@check()
def a_job_cancelled_before_it_began_has_ended(bench: Bench) -> None:
    """A job that was cancelled before it began is told as ended, and a machine for it is not rented"""
    forge = bench.forge()
    job = queued(bench, forge)
    bench.cancel(job.key)
    now = forge.fetch_job(job)
    expect(now is None or (now.state is JobState.COMPLETED and now.conclusion == "cancelled"), f"it is told as {now}")
    expect(job.key not in {one.key for one in forge.open_jobs(bench.repository)}, "it is listed as open")


@check()
def unknown_jobs_are_none(bench: Bench) -> None:
    """A job or run that the forge does not have is None, or refused; keys that cannot be are never sent"""
    forge = bench.forge()
    job = queued(bench, forge)
    similar = job.key[:-1] + ("0" if job.key[-1] != "0" else "1")
    for key in (similar, "", "0", "../..", "1/../2", "1?x=y", "-1", "ä", "9" * 40, "1\r\n2"):
        for what, ask in (
            ("job", lambda key=key: forge.fetch_job(replace(job, key=key, id=f"{forge.name}-{key}"))),
            ("run", lambda key=key: forge.fetch_run(replace(job, run_id=key))),
        ):
            try:
                found = ask()
            except ForgeDown as error:
                expect(False, f"{what} {key!r}: {error}")  # what is not there would be asked for ever
            except ForgeError:
                continue
            else:
                expect(found is None, f"{what} {key!r} is {found}")


@check()
def the_run_says_whose_code_it_is(bench: Bench) -> None:
    """The run of a push is the repository's own code, and says who set it going"""
    forge = bench.forge()
    run = forge.fetch_run(queued(bench, forge))
    expect(run is not None, "the run is not told")
    if run is None:
        return
    expect(run.forge == forge.name and run.repository == bench.repository, f"it is of {run.forge} {run.repository}")
    expect(run.event == "push", f"the event is told as {run.event!r}")
    expect(run.fork is False, "a push is told as a fork's code")
    expect(run.actor == bench.actor, f"it was set going by {run.actor!r}")


@check(Fault.FORK)
def a_forks_code_is_told(bench: Bench) -> None:
    """Code of a fork is told as such, or nobody can say; it is never told as the repository's own"""
    forge = bench.forge()
    job = listed(bench, forge, bench.queue(fork=True))
    run = forge.fetch_run(job)
    expect(run is None or run.fork is not False, "a fork's code is told as the repository's own")
    expect(run is None or run.repository == bench.repository, "it is told as a run of the fork's repository")


@check(Fault.RERUN)
def what_is_run_again_is_a_new_job_or_says_so(bench: Bench) -> None:
    """A job that is run again is queued under a new key, or under its own where the adapter says so"""
    forge = bench.forge()
    job = queued(bench, forge)
    bench.cancel(job.key)
    again = listed(bench, forge, bench.rerun(job.key))
    expect(again.state is JobState.QUEUED, f"it is told as {again.state}")
    expect(again.key != job.key or forge.reruns_in_place, "it has its old key, and `reruns_in_place` denies it")
    expect(again.key != job.key or again.id == job.id, "one job has two ids")
    if again.key != job.key:
        old = forge.fetch_job(job)
        expect(old is None or old.state is JobState.COMPLETED, "the first attempt is told as open again")
