"""wanted against actual: plan what is missing, ask back what is too many."""

from __future__ import annotations

from dataclasses import replace

from app.core.model import Demand, DemandKey, Lease, Pool
from app.core.names import draw
from app.core.policy import Plan, Snapshot, decide
from app.core.states import State
from app.engine.step import Deps, deadline
from app.store import leases


async def plan(deps: Deps) -> Plan:
    """One transaction: count, decide, write planned leases, drains and the sentence for every wait."""
    pinned = frozenset(name for name, forge in deps.forges.items() if forge.pinned)

    def decide_now(snapshot: Snapshot) -> Plan:
        def new_lease(key: DemandKey, want: Demand, pool: Pool, attempt: int) -> Lease:
            identity = deps.token(8)
            name = draw(deps.below)
            lease = Lease(
                id=identity,
                name=name,
                key=key,
                state=State.PLANNED,
                attempt=attempt,
                tag=f"sublet-{name}-{identity[:6]}",
                created_at=snapshot.now,
                entered_at=snapshot.now,
                deadline=None,
                due=snapshot.now,
                need=pool.need,
                ask=want.ask,
                mode=str(pool.mode),
                signed=pool.signed,
            )
            return replace(lease, deadline=deadline(State.PLANNED, lease, pool, snapshot.now))

        return decide(snapshot, deps.pools, new_lease, pinned)

    return await deps.store(leases.plan, deps.db, decide_now, deps.clock.now())
