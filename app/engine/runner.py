"""registering, idle, busy: mint a one-job runner, hand it over once, watch it."""

from __future__ import annotations

from datetime import timedelta

from app.core.model import Lease, Reason
from app.core.states import State
from app.engine.image import objection
from app.engine.pairing import AGAIN, UNTOLD, pair
from app.engine.seal import seal
from app.engine.step import Answer, Deps, Move, Wait, pause
from app.engine.watch import lost, rest, silent
from app.forges.contract import Forge, ForgeDown, ForgeRefused, NameTaken, RunnerBusy, RunnerOrder
from app.store import lease_views

REFUSALS = 5  # of the forge in a row, until the lease is given up
SETTLE = timedelta(seconds=4)  # a runner's end and the forge's word on its job arrive in any order


async def register(lease: Lease, deps: Deps) -> Answer:
    """registering: the credential is minted only now that the node is up and proven, because it spoils within minutes."""
    if lease.job_started_at is not None or lease.job_id:
        return await _busy(lease, deps)
    if lease.runner_exited_at is not None:
        text = lease.runner_why or f"The runner ended with code {lease.runner_exit} before it was online."
        return Move(State.DRAINING, Reason.RUNNER_FAILED, text)
    if lease.runner_started_at is not None:
        return Move(State.IDLE, text=f"Runner {lease.runner_name} is online.")
    if lease.drain_asked_at is not None:
        reason = lease.asked_reason or Reason.OPERATOR
        if not lease.runner_id:
            return Move(State.DRAINING, reason, lease.asked_text)
        return await _give_back(lease, deps, reason, lease.asked_text)
    if silent(lease, deps):
        text = "The node stopped calling before its runner was online."
        if not lease.runner_id:
            return Move(State.DRAINING, Reason.NODE_SILENT, text)
        return await _give_back(lease, deps, Reason.NODE_SILENT, text)
    if lease.credential_ready or lease.credential_taken_at is not None:
        gone = await lost(lease, deps)
        if gone is not None:
            return Move(State.DRAINING, Reason.INSTANCE_LOST, gone)
        waiting_for = "take its credential" if lease.credential_taken_at is None else "bring its runner online"
        return Wait(rest(lease, deps), f"Waiting for the node to {waiting_for}.")
    return await _mint(lease, deps)


async def _mint(lease: Lease, deps: Deps) -> Answer:
    forge = deps.forges.get(lease.key.forge)
    if forge is None:
        return Move(State.DRAINING, Reason.RUNNER_REFUSED, f"The forge {lease.key.forge} is not in the settings any more.")
    if no := await objection(lease, deps):
        return Move(State.DRAINING, Reason.IMAGE_REFUSED, no)
    pool = deps.pool_of(lease)
    installation, labels = await deps.store(lease_views.mint_hints, deps.db, lease)
    if lease.runner_name and not lease.runner_id:  # a try whose answer was never written down: its record may be there
        try:
            await _remove_by_name(forge, lease, installation, deps)
        except RunnerBusy:
            return Wait(pause(lease.tries), "A runner of an earlier try says that it is busy.", failed=True)
        except (ForgeDown, ForgeRefused) as error:
            return Wait(pause(lease.tries), str(error), failed=True)
    name = f"{deps.runner_prefix}{lease.name[:32]}-{lease.id[:8]}-{lease.mint_try + 1}"  # fresh for ever, and at most 63
    order = RunnerOrder(
        name=name,
        scope=lease.key.scope,
        labels=labels or lease.key.labels,
        job=lease.key.job.removeprefix(f"{forge.name}-"),
        group=pool.runner_group,
        installation=installation,
        command=pool.runner_command,
        idle_limit=pool.idle_limit,
        max_duration=pool.max_duration,
        description=f"Sublet lease {lease.name}",
    )
    if not await deps.keep(lease, runner_name=name, runner_id="", mint_try=lease.mint_try + 1):
        return Wait(0)
    try:
        minted = await deps.lane(forge)(forge.mint_runner, order)
    except NameTaken as error:
        return Wait(0.2, str(error), failed=True)
    except ForgeDown as error:
        return Wait(max(error.wait.total_seconds(), pause(lease.tries)), f"{forge.name}: {error}", failed=True)
    except ForgeRefused as error:
        if lease.tries + 1 >= REFUSALS:
            return Move(State.DRAINING, Reason.RUNNER_REFUSED, str(error))
        return Wait(pause(lease.tries, first=2.0), f"{forge.name} refuses to register a runner: {error}", failed=True)
    sealed = seal(deps.vault, minted.credential, f"credential:{lease.id}")
    return Wait(
        rest(lease, deps),
        "Waiting for the node to take its credential.",
        values={"runner_id": minted.runner_id, "credential": sealed},
    )


async def _remove_by_name(forge: Forge, lease: Lease, installation: str, deps: Deps) -> None:
    for view in await deps.lane(forge)(forge.runners, lease.key.scope, lease.runner_name, installation):
        await deps.lane(forge)(forge.remove_runner, lease.key.scope, view.runner_id, installation)


async def wait_for_job(lease: Lease, deps: Deps) -> Answer:
    """idle: a job comes, or the idle limit does; an idle runner is taken off the forge before it counts as idle no more."""
    now = deps.clock.now()
    if lease.job_started_at is not None or lease.job_id:
        return await _busy(lease, deps)
    if lease.runner_exited_at is not None:
        left = lease.runner_exited_at + SETTLE - now
        if left > timedelta(0):
            return Wait(left.total_seconds(), "The runner has ended; waiting for the forge's word on its job.")
        if (
            lease.runner_exit == 0
        ):  # GitHub takes an idle one-job runner away after minutes, and it exits 0 (actions/runner #4726)
            return Move(State.DRAINING, Reason.IDLE_TIMEOUT, "The forge ended the runner before a job came.")
        return Move(State.DRAINING, Reason.RUNNER_FAILED, f"The runner ended with code {lease.runner_exit} before a job came.")
    if silent(lease, deps):
        return await _give_back(lease, deps, Reason.NODE_SILENT, "The node stopped calling while its runner was idle.")
    idle_until = lease.entered_at + deps.pool_of(lease).idle_limit
    if now >= idle_until or lease.drain_asked_at is not None:
        reason, text = Reason.IDLE_TIMEOUT, "No job came within the idle limit."
        if lease.drain_asked_at is not None:
            reason, text = lease.asked_reason or Reason.OPERATOR, lease.asked_text
        return await _give_back(lease, deps, reason, text)
    gone = await lost(lease, deps)
    if gone is not None:
        return Move(State.DRAINING, Reason.INSTANCE_LOST, gone)
    return Wait(min(rest(lease, deps), (idle_until - now).total_seconds()), "The runner is online and waits for its job.")


async def _give_back(lease: Lease, deps: Deps, reason: Reason, text: str) -> Answer:
    """Off the forge first: if the forge says busy, a job came in this very moment and keeps its machine."""
    forge = deps.forges.get(lease.key.forge)
    if forge is None:
        return Move(State.DRAINING, reason, text)
    installation, _ = await deps.store(lease_views.mint_hints, deps.db, lease)
    try:
        await deps.lane(forge)(forge.remove_runner, lease.key.scope, lease.runner_id, installation)
    except RunnerBusy:
        return Move(State.BUSY, text="The forge says that the runner has just taken a job.")
    except (ForgeDown, ForgeRefused) as error:
        return Wait(pause(lease.tries, first=2.0, longest=30.0), str(error), failed=True)
    return Move(State.DRAINING, reason, text)


async def _busy(lease: Lease, deps: Deps) -> Answer:
    forge = deps.forges.get(lease.key.forge)
    note = "The runner has its job."
    if forge is not None and lease.runner_id:
        installation, _ = await deps.store(lease_views.mint_hints, deps.db, lease)
        try:
            await deps.lane(forge)(forge.job_started, lease.key.scope, lease.runner_id, installation)
        except (ForgeDown, ForgeRefused) as error:
            note = f"The runner has its job; the forge could not be told: {error}"
    return Move(State.BUSY, text=note)


async def watch_job(lease: Lease, deps: Deps) -> Answer:
    """busy: until the job ends. A busy runner is not destroyed on one source's word."""
    if lease.job_done_at is not None:
        return Move(
            State.DRAINING, Reason.JOB_DONE, f"The forge says that the job ended: {lease.job_conclusion or 'completed'}."
        )
    if lease.runner_exited_at is not None:
        if not lease.job_id and await pair(lease, deps):
            return Wait(0, "The forge says which job it was.")
        return Move(State.DRAINING, Reason.JOB_DONE, f"The runner ended with code {lease.runner_exit}.")
    gone = await lost(lease, deps)
    if gone is not None:
        return Move(State.DRAINING, Reason.INSTANCE_LOST, gone)
    if silent(lease, deps) and await _forge_says_free(lease, deps):
        return Move(State.DRAINING, Reason.NODE_SILENT, "The node is silent and the forge says that its runner has no job.")
    note = "The node is silent; the forge still counts its runner as busy." if silent(lease, deps) else "The job runs."
    if lease.job_id:
        return Wait(rest(lease, deps), note)
    untold = lease.entered_at + UNTOLD - deps.clock.now()
    if untold <= timedelta(0) and await pair(lease, deps):
        return Wait(0, note)
    return Wait(min(rest(lease, deps), (untold if untold > timedelta(0) else AGAIN).total_seconds()), note)


async def _forge_says_free(lease: Lease, deps: Deps) -> bool:
    forge = deps.forges.get(lease.key.forge)
    if forge is None or not lease.runner_id:
        return False
    installation, _ = await deps.store(lease_views.mint_hints, deps.db, lease)
    try:
        view = await deps.lane(forge)(forge.runner, lease.key.scope, lease.runner_id, installation)
    except (ForgeDown, ForgeRefused):
        return False
    return view is None or view.busy is False
