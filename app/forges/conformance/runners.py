"""Checks of runners: one job each, exactly the labels that were asked for, no secret of ours, and gone when removed."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

from app.core.model import JobState
from app.forges.conformance.bench import (
    Bench,
    Fault,
    check,
    expect,
    faulty,
    find,
    listed,
    order,
    queued,
    refusal,
    removed,
    same_labels,
)
from app.forges.contract import Credential, ForgeError, ForgeRefused, Minted, RunnerBusy

AT_ONCE = 6


def texts_of(credential: Credential) -> list[str]:
    """All that a node is given."""
    sealed = [*credential.environment.values(), *credential.files.values()]
    return [*credential.command, credential.ready, credential.begun, *(secret.reveal() for secret in sealed)]


@check()
def a_runner_takes_one_job_and_never_a_second(bench: Bench) -> None:
    """A credential lets the forge's runner take exactly one job, also if the program is started again with it"""
    forge = bench.forge()
    first = queued(bench, forge)
    minted = forge.mint_runner(order(bench, job=first))
    program = bench.program(minted.credential)
    expect(program.take() == first.key, "the runner did not take the job")
    forge.job_started(bench.scopes[0], minted.runner_id, first.installation)
    bench.queue()
    expect(
        bench.program(minted.credential).take() in (None, first.key), "a second program with the credential took another job"
    )
    program.finish(first.key)
    expect(bench.conclusion(first.key) is not None, "the job has not ended")
    expect(program.take() is None, "the program took a second job")
    expect(bench.program(minted.credential).take() is None, "with its credential a second job was taken")


@check()
def a_runner_has_exactly_the_labels_of_its_order(bench: Bench) -> None:
    """The runner takes what its order says and nothing more: its labels are exactly the order's"""
    forge = bench.forge()
    job = queued(bench, forge)
    minted = forge.mint_runner(order(bench, job=job))
    expect(same_labels(list(bench.labels_of(minted)), bench.labels), f"its labels are {sorted(bench.labels_of(minted))}")
    other = listed(bench, forge, bench.queue(bench.labels[:1]))
    few = forge.mint_runner(order(bench, job=other))
    expect(same_labels(list(bench.labels_of(few)), bench.labels[:1]), f"its labels are {sorted(bench.labels_of(few))}")
    bench.cancel(other.key)
    expect(bench.program(few.credential).take() is None, "a runner took a job whose labels it was not given")


@check()
def a_pinned_runner_takes_its_own_job(bench: Bench) -> None:
    """Where the adapter says that runners are pinned, each takes the job of its order, and no older one"""
    forge = bench.forge()
    jobs = [queued(bench, forge) for _ in range(3)]
    if not forge.pinned:
        return
    for job in (jobs[1], jobs[2], jobs[0]):
        minted = forge.mint_runner(order(bench, job=job))
        expect(bench.program(minted.credential).take() == job.key, "it took another job than its own")
    bench.queue()
    gone = listed(bench, forge, bench.queue())
    minted = forge.mint_runner(order(bench, job=gone))
    bench.cancel(gone.key)
    expect(bench.program(minted.credential).take() is None, "its job was cancelled, and it took another")


@check()
def every_scope_takes_runners(bench: Bench) -> None:
    """A runner can be registered, seen, used and removed in each scope that the forge has"""
    forge = bench.forge()
    for scope in bench.scopes:
        job = queued(bench, forge)
        wanted = order(bench, job=job, scope=scope)
        minted = forge.mint_runner(wanted)
        view = forge.runner(scope, minted.runner_id, job.installation)
        expect(view is not None and view.name == wanted.name, f"{scope}: the runner is shown as {view}")
        shown = [one.runner_id for one in forge.runners(scope, wanted.name, job.installation)]
        expect(shown == [minted.runner_id], f"{scope}: the listing shows {shown}")
        program = bench.program(minted.credential)
        expect(program.take() == job.key, f"{scope}: it did not take the job")
        forge.job_started(scope, minted.runner_id, job.installation)
        program.finish(job.key)
        forge.remove_runner(scope, minted.runner_id, job.installation)
        expect(forge.runner(scope, minted.runner_id, job.installation) is None, f"{scope}: it is still shown")


@check()
def runners_are_found_by_their_prefix(bench: Bench) -> None:
    """The listing of runners shows those whose names begin so, and no other"""
    forge, scope = bench.forge(), bench.scopes[0]
    job = queued(bench, forge)
    one, two = order(bench, job=job), order(bench, job=job)
    made = {wanted.name: forge.mint_runner(wanted).runner_id for wanted in (one, two)}
    found = {view.name: view.runner_id for view in forge.runners(scope, "sublet-kit-")}
    expect(found == made, f"{found} is listed, and {made} is there")
    expect(not forge.runners(scope, "sublet-kat-"), "somebody else's runner is listed")
    expect({view.runner_id for view in forge.runners(scope, one.name)} >= {made[one.name]}, "it is not found by its name")


@check()
def no_secret_of_ours_leaves(bench: Bench) -> None:
    """No secret of the service is in a credential, an argument, a repr, an error or a log line"""
    root, log = logging.getLogger(), _Log()
    level = root.level
    root.addHandler(log)
    root.setLevel(logging.DEBUG)
    try:
        forge = bench.forge()
        job = queued(bench, forge)
        minted = forge.mint_runner(order(bench, job=job))
        given = texts_of(minted.credential)
        shown = [repr(forge), str(forge), repr(minted), repr(job), repr(list(forge.open_jobs(bench.repository))), forge.check()]
        shown += [
            repr(forge.runner(bench.scopes[0], minted.runner_id)),
            repr(vars(forge) if hasattr(forge, "__dict__") else ""),
        ]
        for fault in sorted(bench.faults & {Fault.TOKEN_EXPIRED, Fault.SERVER_ERROR, Fault.RATE_LIMITED, Fault.DOWN}):
            with faulty(bench, fault):
                error = refusal(
                    lambda: bench.forge().mint_runner(order(bench, job=job)), ForgeError, what=f"A mint while {fault}"
                )
            shown += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
    finally:
        root.removeHandler(log)
        root.setLevel(level)
    own = bench.token_of(minted)
    expect(bool(own) and any(own in text for text in given), "the bench does not know the runner's own secret")
    for secret in bench.secrets:
        expect(not any(secret in text for text in given), "a secret of the service is in the credential")
    for secret in (*bench.secrets, own):
        expect(not any(secret in word for word in minted.credential.command), "a secret is an argument: every process sees it")
        expect(not any(secret in text for text in shown), "a secret is shown in a repr or an error")
        expect(not any(secret in line for line in log.lines), "a secret is shown in a log line")


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@check()
def a_runner_that_never_takes_a_job_is_removed(bench: Bench) -> None:
    """A runner that never took a job is removed, whether its program ever came online or not"""
    forge = bench.forge()
    job = queued(bench, forge)
    never, idle = forge.mint_runner(order(bench, job=job)), forge.mint_runner(order(bench, job=job))
    bench.cancel(job.key)
    program = bench.program(idle.credential)
    expect(program.take() is None, "it took a job that was cancelled")
    for minted in (never, idle):
        view = forge.runner(bench.scopes[0], minted.runner_id)
        expect(view is not None and view.busy is not True, f"an idle runner is shown as {view}")
        removed(bench, forge, minted)
    expect(not bench.registered(), f"the forge still has {bench.registered()}")
    bench.queue()
    expect(program.take() is None, "a runner that was removed took a job")


@check()
def a_busy_runner_is_not_removed(bench: Bench) -> None:
    """A runner with a job is RunnerBusy, and its job goes on to its end"""
    forge, scope = bench.forge(), bench.scopes[0]
    job = queued(bench, forge)
    minted = forge.mint_runner(order(bench, job=job))
    program = bench.program(minted.credential)
    expect(program.take() == job.key, "the runner did not take the job")
    for _ in range(2):
        refusal(lambda: forge.remove_runner(scope, minted.runner_id), RunnerBusy, what="Removing a runner with a job")
    view = forge.runner(scope, minted.runner_id)
    expect(view is not None and view.busy is not False, f"a busy runner is shown as {view}")
    now = forge.fetch_job(job)
    expect(now is not None and now.state is JobState.IN_PROGRESS, "its job no longer runs")
    program.finish(job.key)
    expect(bench.conclusion(job.key) == "success", f"its job ended as {bench.conclusion(job.key)}")
    removed(bench, forge, minted)


@check()
def after_its_job_the_record_goes_as_the_adapter_says(bench: Bench) -> None:
    """After its one job the forge itself takes the record off where `single_use` says so; else it stays, and is removed"""
    forge, scope = bench.forge(), bench.scopes[0]
    job = queued(bench, forge)
    minted = forge.mint_runner(order(bench, job=job))
    program = bench.program(minted.credential)
    program.take()
    forge.job_started(scope, minted.runner_id, job.installation)
    program.finish(job.key)
    view = forge.runner(scope, minted.runner_id)
    expect((view is None) is forge.single_use, f"`single_use` is {forge.single_use}, and the record is {view}")
    forge.job_started(scope, minted.runner_id, job.installation)  # late: no error
    removed(bench, forge, minted)
    expect(not bench.registered(), f"the forge still has {bench.registered()}")


@check()
def unknown_runners_are_no_error(bench: Bench) -> None:
    """An unknown runner is None and can be removed; ids that cannot be are refused, and hit no other"""
    forge, scope = bench.forge(), bench.scopes[0]
    minted = forge.mint_runner(order(bench, job=queued(bench, forge)))
    similar = minted.runner_id[:-1] + ("0" if minted.runner_id[-1] != "0" else "1")
    expect(forge.runner(scope, similar) is None, "it shows a runner that is not there")
    forge.remove_runner(scope, similar)
    forge.job_started(scope, similar)
    for strange in (
        "",
        "..",
        "../..",
        f"{minted.runner_id}/../{minted.runner_id}",
        f"{minted.runner_id}?x=y",
        "ä",
        "-1",
        "a b",
    ):
        for ask in (
            lambda strange=strange: forge.runner(scope, strange),
            lambda strange=strange: forge.remove_runner(scope, strange),
        ):
            try:
                expect(ask() is None, f"{strange!r} gave something")
            except ForgeRefused:
                continue
    expect(forge.runner(scope, minted.runner_id) is not None, "removing a stranger removed ours")


@check(Fault.STOLEN)
def a_stolen_job_leaves_our_runner_idle(bench: Bench) -> None:
    """When another runner takes the job, ours is still there, idle, and can be removed"""
    forge, scope = bench.forge(), bench.scopes[0]
    job = queued(bench, forge)
    minted = forge.mint_runner(order(bench, job=job))
    bench.steal(job.key)
    program = bench.program(minted.credential)
    expect(program.take() is None, "two runners have one job")
    now = forge.fetch_job(job)
    expect(now is not None and now.state is JobState.IN_PROGRESS, f"the stolen job is told as {now}")
    expect(now is not None and not now.runner_name.startswith("sublet-kit-"), "it is told to run on ours")
    view = forge.runner(scope, minted.runner_id)
    expect(view is not None and view.busy is not True, f"ours is shown as {view}")
    removed(bench, forge, minted)
    now = forge.fetch_job(job)
    expect(now is not None and now.state is JobState.IN_PROGRESS, "removing ours hurt the job")


@check(Fault.LOST_REPLY)
def a_lost_answer_to_a_registration_is_found_and_removed(bench: Bench) -> None:
    """A registration whose answer is lost is ForgeDown; what it left is found by its name, can take no job, and is removed"""
    forge = bench.forge()
    job = queued(bench, forge)
    wanted = order(bench, job=job)
    bench.cause(Fault.LOST_REPLY)
    error = refusal(lambda: forge.mint_runner(wanted), ForgeError, what="A registration whose answer is lost")
    expect(not isinstance(error, ForgeRefused), f"a lost answer became a definite no: {error}")
    left = find(bench, forge, wanted.name)
    expect(
        len(left) == list(bench.registered()).count(wanted.name) <= 1, f"{len(left)} of {list(bench.registered())} are found"
    )
    for view in left:
        expect(view.busy is not True, "what nobody has the credential of is busy")
        removed(bench, forge, Minted(view.runner_id, Credential(())))
    expect(not bench.registered(), f"the forge still has {bench.registered()}")
    again = forge.mint_runner(order(bench, job=job))
    expect(bench.program(again.credential).take() == job.key, "the next runner does not take the job")


@check()
def a_beacon_takes_no_job(bench: Bench) -> None:
    """Where the forge needs a beacon, it stays one record, is no machine's runner, and takes no job"""
    forge, scope = bench.forge(), bench.scopes[0]
    first = forge.light_beacon(scope, bench.labels, None, "")
    if first is None:
        return
    again = forge.light_beacon(scope, bench.labels, first.credential, first.runner_id)
    expect(again is not None and again.runner_id == first.runner_id, "a second call made a second record")
    expect(not forge.runners(scope, ""), "it is listed beside the machines' runners")
    expect(not first.credential.command, "it could be started")
    for secret in bench.secrets:
        expect(not any(secret in text for text in texts_of(first.credential)), "a secret of the service is in its credential")
    forge.remove_runner(scope, first.runner_id)
    fresh = forge.light_beacon(scope, bench.labels, first.credential, first.runner_id)
    expect(fresh is not None and fresh.runner_id != first.runner_id, "one that is gone is not replaced")


@check()
def several_threads_may_ask_at_once(bench: Bench) -> None:
    """Several threads mint, list and look at once, through one adapter, and each gets its own"""
    forge = bench.forge()
    jobs = [queued(bench, forge) for _ in range(AT_ONCE)]

    def serve(place: int) -> tuple[str, str, int]:
        minted = forge.mint_runner(order(bench, job=jobs[place]))
        count = len(list(forge.open_jobs(bench.repository)))
        now = forge.fetch_job(jobs[place])
        expect(now is not None and now.key == jobs[place].key, "one thread was given another's answer")
        return minted.runner_id, bench.token_of(minted), count

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(serve, range(AT_ONCE)))
    expect(len({runner_id for runner_id, _, _ in found}) == AT_ONCE, "two threads were given one runner")
    expect(len({token for _, token, _ in found}) == AT_ONCE, "two threads were given one credential")
    expect({count for _, _, count in found} == {AT_ONCE}, f"the listings had {[count for _, _, count in found]} jobs")
