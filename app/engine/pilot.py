"""Pilots: a proven machine is given its two minutes to measure itself, and then goes; how each ended is kept."""

from __future__ import annotations

from app.core.model import Lease, Reason
from app.core.pilot import LASTS
from app.core.states import State
from app.engine.step import Answer, Deps, Move, Wait
from app.engine.watch import lost
from app.store import pilots


async def measure(lease: Lease, deps: Deps, proof: str) -> Answer:
    """proving, once all checks have passed: until the node has said what it measured, or its time is over.

    A pilot registers no runner: from here it is destroyed, whatever it says."""
    now = deps.clock.now()
    pilot = await deps.store(pilots.usable, deps.db, lease.id, now)
    if pilot is None or pilot.usable_at is None:
        return Move(State.DESTROYING, Reason.PILOT_DONE, "Nobody knows of this pilot.")
    end = pilot.usable_at + LASTS
    later = lease.hard_end is None or end < lease.hard_end  # the node is told of it, and ends itself then
    if later and not await deps.keep(lease, hard_end=end):
        return Wait(0)
    if pilot.report is not None and "measured_at" in pilot.report:
        return Move(State.DESTROYING, Reason.PILOT_DONE, f"{proof} It was usable and is measured.")
    if now >= end:
        return Move(
            State.DESTROYING, Reason.PILOT_DONE, f"{proof} It was usable, and its time was over before it had measured."
        )
    gone = await lost(lease, deps)
    if gone is not None:
        return Move(State.DESTROYING, Reason.INSTANCE_LOST, gone)
    return Wait((end - now).total_seconds(), f"{proof} It is usable and measures itself.")


async def close(deps: Deps) -> int:
    """Write down how the pilots ended whose machines are proven gone; how many."""
    return await deps.store(pilots.close, deps.db, deps.clock.now())
