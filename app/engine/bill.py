"""Close the books on released leases: charges go to the append-only ledger, once."""

from __future__ import annotations

from app.core.billing import close
from app.engine.step import Deps
from app.store import lease_views, ledger

GROUP = 100


async def book(deps: Deps) -> int:
    """Book every released lease that is not booked yet; how many were. Running leases are metered by `core.billing.accrued`."""
    leases = await deps.store(lease_views.unbooked, deps.db, GROUP)
    for lease in leases:
        spans = await deps.store(lease_views.spans, deps.db, lease.id)
        await deps.store(ledger.book, deps.db, lease.id, close(lease, spans), deps.clock.now())
    return len(leases)
