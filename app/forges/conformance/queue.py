"""Checks of the forge's own listings: what is open, what is not, and never half of it."""

from __future__ import annotations

from app.core.model import JobState
from app.forges.conformance.bench import Bench, Fault, check, expect, faulty, order, queued, refusal, same_labels
from app.forges.contract import ForgeDown, ForgeRefused


@check()
def the_listing_shows_what_is_open(bench: Bench) -> None:
    """The listing of a repository shows its open jobs with their labels, and no other"""
    forge = bench.forge()
    first, second, gone = bench.queue(), bench.queue(), bench.queue()
    elsewhere = bench.queue(repository=bench.other)
    bench.cancel(gone)
    found = {job.key: job for job in forge.open_jobs(bench.repository)}
    expect(found.keys() == {first, second}, f"{sorted(found)} are shown, and {sorted((first, second))} are open")
    for job in found.values():
        expect(job.state is JobState.QUEUED, f"a queued job is listed as {job.state}")
        expect(job.labels is not None and same_labels(job.labels, bench.labels), f"its labels are listed as {job.labels}")
        expect(job.repository == bench.repository and job.forge == forge.name, "it is listed as another's")
        expect(job.queued_at is None or job.queued_at.tzinfo is not None, "since when it is queued has no time zone")
        expect(bool(job.run_id), "its run is not told")
    expect([job.key for job in forge.open_jobs(bench.other)] == [elsewhere], "another repository's listing is wrong")


@check()
def a_job_that_runs_or_has_ended_is_not_queued(bench: Bench) -> None:
    """A job that runs is not listed as queued, and one that has ended is not listed"""
    forge = bench.forge()
    job = queued(bench, forge)
    minted = forge.mint_runner(order(bench, job=job))
    program = bench.program(minted.credential)
    expect(program.take() == job.key, "the runner did not take it")
    shown = [one for one in forge.open_jobs(bench.repository) if one.key == job.key]
    expect(all(one.state is JobState.IN_PROGRESS for one in shown), "a job that runs is listed as one that waits")
    program.finish(job.key)
    expect(not forge.open_jobs(bench.repository), "a job that has ended is listed as open")


@check()
def an_empty_queue_is_empty(bench: Bench) -> None:
    """Where nothing is open, the listing is empty; a place that cannot be is refused"""
    forge = bench.forge()
    bench.cancel(bench.queue())
    expect(not list(forge.open_jobs(bench.repository)), "something is listed")
    for place in ("", "..", "../..", "a/../../b", "a b/c", "x/y?z=1", "x/y#z", "\x00/y", "-/" * 200):
        error = refusal(lambda place=place: forge.open_jobs(place), ForgeRefused, what=f"The jobs of {place[:20]!r}")
        expect("\x00" not in str(error), "the refusal quotes it unclean")


@check()
def a_crowd_is_listed_whole(bench: Bench) -> None:
    """More jobs than a page holds are all listed, each once"""
    forge = bench.forge()
    keys = list(bench.crowd())
    found = [job.key for job in forge.open_jobs(bench.repository)]
    expect(sorted(found) == sorted(keys), f"{len(set(found) & set(keys))} of {len(keys)} jobs are listed, in {len(found)} rows")


@check(Fault.HALF_LISTING)
def half_a_listing_is_an_error(bench: Bench) -> None:
    """A listing of jobs with one page that fails is an error, never half"""
    forge = bench.forge()
    bench.crowd()
    with faulty(bench, Fault.HALF_LISTING):
        refusal(lambda: forge.open_jobs(bench.repository), ForgeDown, what="A listing whose second page fails")


@check(Fault.HALF_RUNNERS)
def half_a_listing_of_runners_is_an_error(bench: Bench) -> None:
    """More runners than a page holds are all listed, and with a page that fails it is an error"""
    forge, scope = bench.forge(), bench.scopes[0]
    made = set(bench.crowd_of_runners("sublet-crowd-"))
    found = {one.runner_id for one in forge.runners(scope, "sublet-crowd-")}
    expect(found == made, f"{len(found & made)} of {len(made)} runners are listed")
    with faulty(bench, Fault.HALF_RUNNERS):
        refusal(lambda: forge.runners(scope, "sublet-crowd-"), ForgeDown, what="A listing whose second page fails")


@check()
def an_owner_is_listed_where_the_forge_is_wide(bench: Bench) -> None:
    """Where the adapter says that it is wide, one listing shows the open jobs of all the owner's repositories"""
    forge = bench.forge()
    keys = {bench.queue(): bench.repository, bench.queue(repository=bench.other): bench.other}
    bench.cancel(bench.queue(repository=bench.other))
    if not forge.wide:
        return
    found = {job.key: job.repository for job in forge.open_jobs(bench.owner)}
    expect(found == keys, f"{found} is listed, and {keys} is open")


@check()
def repositories_of_an_owner_are_listed(bench: Bench) -> None:
    """All repositories of an owner are listed by their full paths"""
    forge = bench.forge()
    bench.queue()
    bench.queue(repository=bench.other)
    found = list(forge.repositories(bench.owner))
    expect({bench.repository, bench.other} <= set(found), f"{found} are listed")
    expect(len(set(found)) == len(found), "one is listed twice")
    expect(all(path.startswith(f"{bench.owner}/") for path in found), "another owner's are listed")


@check(Fault.CONDITIONAL)
def an_unchanged_listing_costs_no_quota(bench: Bench) -> None:
    """A listing that has not changed costs nothing of the quota, and shows the same"""
    forge = bench.forge()
    bench.queue()
    first = list(forge.open_jobs(bench.repository))
    before = bench.spent()
    expect(list(forge.open_jobs(bench.repository)) == first, "asked again, it shows something else")
    expect(bench.spent() == before, f"it cost {bench.spent() - before} of the quota")
    key = bench.queue()
    expect(key in {job.key for job in forge.open_jobs(bench.repository)}, "a new job is not seen any more")


@check(Fault.WAITING)
def a_job_that_waits_makes_no_demand(bench: Bench) -> None:
    """A job that is held back is listed as waiting, or not listed"""
    forge = bench.forge()
    key = bench.queue(waiting=True)
    shown = [job for job in forge.open_jobs(bench.repository) if job.key == key]
    expect(all(job.state is JobState.WAITING for job in shown), "it is listed as queued")
    for job in shown:
        now = forge.fetch_job(job)
        expect(now is not None and now.state is JobState.WAITING, "asked by itself, it does not wait")
