"""booting, proving: wait for the node, then hold what it measured against what was asked."""

from __future__ import annotations

from app.core.labels import sharpen
from app.core.model import Lease, Reason
from app.core.pilot import is_pilot
from app.core.proof import failed, prove
from app.core.states import State
from app.core.verdicts import unproven, wanted
from app.engine import pilot
from app.engine.step import Answer, Deps, Move, Wait
from app.engine.watch import lost, rest


async def wait_for_node(lease: Lease, deps: Deps) -> Answer:
    """booting: the node's first call is the proof that it runs; until then look at the provider now and then."""
    if lease.joined_at is not None:
        return Move(State.PROVING, text="The node has joined.")
    gone = await lost(lease, deps)
    if isinstance(gone, str):
        return Move(State.DESTROYING, Reason.INSTANCE_LOST, gone)
    return Wait(rest(lease, deps), "Waiting for the node's first call.")


async def check_node(lease: Lease, deps: Deps) -> Answer:
    """proving: every check of the need must pass before any runner credential exists."""
    if lease.facts is None:
        gone = await lost(lease, deps)
        if isinstance(gone, str):
            return Move(State.DESTROYING, Reason.INSTANCE_LOST, gone)
        return Wait(rest(lease, deps), "Waiting for what the node measures.")
    if no := unproven(lease, deps.pool_of(lease)):
        return Move(State.DESTROYING, Reason.IMAGE_REFUSED, no)
    checks = prove(sharpen(lease.need, lease.ask, lease.key.labels), lease.facts, wanted(lease))
    no = failed(checks)
    if no:
        return Move(State.DESTROYING, Reason.BAD_NODE, no)
    text = f"{len(checks)} checks passed." if checks else "The pool asks for nothing that must be checked."
    if is_pilot(lease.key):
        return await pilot.measure(lease, deps, text)
    return Move(State.REGISTERING, text=text)
