"""Close the books on released leases: charges go to the append-only ledger, once."""

from __future__ import annotations

import structlog

from app.core.billing import close
from app.engine.step import Deps
from app.store import lease_views, ledger

GROUP = 100

log = structlog.get_logger()


async def book(deps: Deps) -> int:
    """Book every released lease that is not booked yet; how many were. Running leases are metered by `core.billing.accrued`."""
    leases = await deps.store(lease_views.unbooked, deps.db, GROUP)
    booked = 0
    for lease in leases:
        spans = await deps.store(lease_views.spans, deps.db, lease.id)
        try:
            charges = close(lease, spans)
        except ArithmeticError as error:  # one that cannot be reckoned stays open, for a person, and holds up no other
            log.error("bill.impossible", lease=lease.name, error=type(error).__name__)
            continue
        booked += await deps.store(ledger.book, deps.db, lease.id, charges, deps.clock.now())
    return booked
