"""Checks of what the forge sends: believed only when authentic, told once, and each by itself."""

from __future__ import annotations

from app.core.model import Job, JobState
from app.forges.conformance.bench import (
    Bench,
    Failed,
    Fault,
    Pair,
    Signing,
    check,
    expect,
    listed,
    lowered,
    order,
    parsed,
    queued,
    refusal,
    same_labels,
)
from app.forges.contract import BadSignature, Delivery, DeliveryKind, Forge


def authentic(bench: Bench) -> Pair:
    """The delivery of a job that was queued just now."""
    forge = bench.forge()
    bench.deliveries()
    key = bench.queue()
    found = [pair for pair in bench.deliveries() if [job.key for job in parsed(forge, [pair])] == [key]]
    expect(bool(found), "no delivery tells of a job that was queued")
    return found[-1]


def told(forge: Forge, pair: Pair) -> Delivery:
    return forge.parse(lowered(pair[0]), pair[1])


@check(Fault.DELIVERIES)
def deliveries_tell_their_job(bench: Bench) -> None:
    """An authentic delivery tells which job is queued, where, and with which labels as far as the forge says"""
    forge = bench.forge()
    delivery = told(forge, authentic(bench))
    job = delivery.job
    expect(delivery.kind is DeliveryKind.JOB and job is not None, f"it was read as {delivery.kind}: {delivery.note}")
    if job is None:
        return
    expect(delivery.forge == forge.name and job.forge == forge.name, "it names another forge")
    expect(bool(delivery.guid) and bool(delivery.event), "it has no guid, or no event")
    expect(job.id == f"{forge.name}-{job.key}", f"the id is {job.id}")
    expect(job.state is JobState.QUEUED, f"a queued job is told as {job.state}")
    expect(job.repository == bench.repository, f"the repository is told as {job.repository}")
    expect(job.labels is None or same_labels(job.labels, bench.labels), f"the labels are told as {job.labels}")
    expect(not job.conclusion and not job.runner_id, "a queued job has a conclusion or a runner")
    now = forge.fetch_job(job)
    expect(now is not None and now.state is JobState.QUEUED, "the forge does not know the job that it told of")
    expect(now is not None and now.labels is not None and same_labels(now.labels, bench.labels), "its labels cannot be asked")


def spoiled_signatures(value: str) -> dict[str, str]:
    return {
        "cut": value[: len(value) // 2],
        "cut by four": value[:-4],
        "longer": value + "00",
        "turned round": value[::-1],
        "not ASCII": value + "é\udcff",
        "huge": value + "0" * 100_000,
        "all zeros": value[:7] + "0" * (len(value) - 7),
    }


def forgeries(bench: Bench, pair: Pair) -> list[tuple[str, Pair]]:
    """What somebody could send who has seen a delivery, and not the secret."""
    headers, body = lowered(pair[0]), pair[1]
    marks = [name for name in bench.signatures if headers.get(name)]
    expect(bool(marks), "the bench's delivery carries none of the headers that make it authentic")

    def changed(**values: str | None) -> dict[str, str]:
        kept = {name: value for name, value in headers.items() if values.get(name, "") is not None}
        return kept | {name: value for name, value in values.items() if value is not None}

    found: list[tuple[str, Pair]] = [
        ("unsigned", (changed(**dict.fromkeys(marks)), body)),
        ("signed with nothing", (changed(**dict.fromkeys(marks, "")), body)),
        ("signed with a blank", (changed(**dict.fromkeys(marks, " ")), body)),
        ("signed by another secret", bench.signed((dict(pair[0]), body), Signing.WRONG)),
        ("of another body", (headers, body.replace(b"{", b'{"forged": true, ', 1))),
        ("of a longer body", (headers, body + b" ")),
        ("of a shorter body", (headers, body[:-1])),
        ("of an empty body", (headers, b"")),
    ]
    spoiled = {mark: spoiled_signatures(headers[mark]) for mark in marks}
    for word in spoiled[marks[0]]:
        worse = {mark: values[word] for mark, values in spoiled.items()}
        found.append((f"with a signature that is {word}", (changed(**worse), body)))
    return found


@check(Fault.DELIVERIES)
def forged_deliveries_are_refused(bench: Bench) -> None:
    """Unsigned, empty-signed, cut, tampered and forged deliveries are BadSignature, and nothing else"""
    forge, pair = bench.forge(), authentic(bench)
    for what, (headers, body) in forgeries(bench, pair):
        refusal(lambda headers=headers, body=body: forge.parse(lowered(headers), body), BadSignature, what=f"A delivery {what}")
    refusal(lambda: forge.parse({}, pair[1]), BadSignature, what="A body without any header")
    refusal(lambda: forge.parse({}, b""), BadSignature, what="Nothing at all")
    expect(told(forge, pair).job is not None, "after the forgeries, the authentic one is no longer taken")


@check(Fault.DELIVERIES)
def without_a_secret_no_delivery_is_believed(bench: Bench) -> None:
    """An adapter that only polls, and so has no webhook secret, refuses every delivery, and lists the job all the same"""
    pair, forge = authentic(bench), bench.forge(polled=True)
    for what, (headers, body) in [("that is authentic", pair), *forgeries(bench, pair)]:
        refusal(lambda headers=headers, body=body: forge.parse(lowered(headers), body), BadSignature, what=f"A delivery {what}")
    expect(len(forge.open_jobs(bench.repository)) == 1, "the job is not listed")


@check(Fault.DELIVERIES, Fault.OLD_SECRET)
def the_secret_before_still_counts(bench: Bench) -> None:
    """Deliveries that the previous secret signed are still taken, so that it can be changed"""
    forge, pair = bench.forge(), authentic(bench)
    old = told(forge, bench.signed(pair, Signing.PREVIOUS))
    expect(old.job is not None and old.guid == told(forge, pair).guid, "it is read as something else")


@check(Fault.DELIVERIES)
def what_is_sent_again_has_the_same_guid(bench: Bench) -> None:
    """A delivery that comes again carries the same guid, also for a service that was started anew"""
    forge, pair = bench.forge(), authentic(bench)
    first = told(forge, pair)
    expect(told(forge, pair) == first, "the same bytes are read in two ways")
    for again in (told(forge, bench.repeated(pair)), told(bench.forge(), bench.repeated(pair))):
        expect(again.guid == first.guid, "what the forge sends again has another guid: it would be acted on twice")
        expect(again.job == first.job, "what the forge sends again tells something else")


def life_of_a_job(bench: Bench) -> tuple[Forge, list[Pair], str]:
    """The deliveries of one job's whole life, on a runner of ours."""
    forge = bench.forge()
    bench.deliveries()
    job = queued(bench, forge)
    minted = forge.mint_runner(order(bench, job=job))
    program = bench.program(minted.credential)
    key = program.take()
    expect(key == job.key, f"the runner took job {key}, not {job.key}")
    forge.job_started(bench.scopes[0], minted.runner_id, job.installation)
    program.finish(job.key)
    return forge, list(bench.deliveries()), job.key


@check(Fault.DELIVERIES)
def each_delivery_speaks_for_itself(bench: Bench) -> None:
    """In any order, each delivery tells the state that it was sent for: a late `queued` is still told as queued"""
    forge, pairs, key = life_of_a_job(bench)
    forward = [job for job in parsed(forge, pairs) if job.key == key]
    backward = [job for job in parsed(bench.forge(), list(reversed(pairs))) if job.key == key]
    expect(backward == list(reversed(forward)), "what a delivery tells depends on what came before it")
    states = [job.state for job in forward]
    expect(states[0] is JobState.QUEUED and states[-1] is JobState.COMPLETED, f"its life is told as {states}")
    last = forward[-1]
    expect(last.conclusion == "success", f"a success is told as {last.conclusion!r}")
    guids = [told(forge, pair).guid for pair in pairs]
    expect(len(set(guids)) == len(guids), "two events of one job have one guid: the second would be taken for a repeat")


@check(Fault.DELIVERIES)
def two_jobs_have_two_guids(bench: Bench) -> None:
    """The same event of two jobs is two deliveries"""
    forge = bench.forge()
    bench.deliveries()
    keys = {bench.queue(), bench.queue(repository=bench.other)}
    found = {told(forge, pair).guid: job.key for pair in bench.deliveries() for job in parsed(forge, [pair])}
    expect(set(found.values()) == keys, "two jobs share a guid, or one was not told of")


@check(Fault.DELIVERIES)
def a_cancelled_job_is_told_as_ended(bench: Bench) -> None:
    """A job that is cancelled before it began is told as completed, cancelled and without a runner"""
    forge = bench.forge()
    bench.deliveries()
    key = bench.queue()
    bench.cancel(key)
    found = [job for job in parsed(forge, bench.deliveries()) if job.key == key]
    expect(bool(found) and found[-1].state is JobState.COMPLETED, "the end of a cancelled job is not told")
    expect(found[-1].conclusion == "cancelled", f"its conclusion is told as {found[-1].conclusion!r}")
    expect(not found[-1].runner_name, "it has a runner")


@check(Fault.DELIVERIES, Fault.WAITING)
def a_job_that_waits_is_told_as_waiting(bench: Bench) -> None:
    """A job that an approval or another job holds back makes no demand: it is told as waiting, or not told"""
    forge = bench.forge()
    bench.deliveries()
    key = bench.queue(waiting=True)
    states = {job.state for job in parsed(forge, bench.deliveries()) if job.key == key}
    expect(states <= {JobState.WAITING}, f"it is told as {states}")


@check(Fault.DELIVERIES, Fault.RERUN)
def what_is_run_again_is_told_anew(bench: Bench) -> None:
    """A job that is run again is told as queued under a guid of its own, so that it is not taken for a repeat"""
    forge = bench.forge()
    bench.deliveries()
    key = bench.queue()
    first = [told(forge, pair) for pair in bench.deliveries()]
    bench.cancel(key)
    bench.deliveries()
    again = bench.rerun(key)
    found = [told(forge, pair) for pair in bench.deliveries()]
    queued_anew = [one for one in found if one.job is not None and one.job.key == again and one.job.state is JobState.QUEUED]
    expect(bool(queued_anew), "no delivery tells that it is queued again")
    expect(not {one.guid for one in first} & {one.guid for one in queued_anew}, "it has the guid of the first time")
    expect(again != key or forge.reruns_in_place, "it has its old key, and `reruns_in_place` denies it")


@check(Fault.DELIVERIES, Fault.UNDELIVERED)
def what_did_not_arrive_can_be_had_again(bench: Bench) -> None:
    """A delivery that did not arrive is on the list of missed ones, and comes under its guid once it is asked for"""
    forge = bench.forge()
    bench.deliveries()
    key = bench.queue()
    job: Job = listed(bench, forge, key)
    before = job.queued_at
    expect(before is not None, "the listing does not say since when a job is queued")
    bench.lose()
    if before is None:
        return
    missed = forge.missed(before.replace(microsecond=0))
    if missed is None or len(missed) != 1:
        raise Failed(f"{missed} is said to be missed")
    forge.redeliver(missed[0])
    found = [told(forge, pair) for pair in bench.deliveries()]
    expect([one.job.key for one in found if one.job is not None] == [key], "it was not sent again")
    expect(missed[0].guid in ("", found[0].guid), "it came under another guid than the list told")
    forge.redeliver(missed[0])
