"""Books are closed once, to the last digit."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from app.core.billing import Charge, ChargeKind
from app.core.states import State
from app.store import audit, leases, ledger
from app.store.db import Database
from tests.store.nouns import NOW, SECOND, a_lease, again, led_to
from tests.store.test_leases import together

PRICE = Decimal("0.123456789012345678")
CHARGE = Charge(a_lease().id, ChargeKind.JOB, NOW, NOW + SECOND, PRICE, PRICE / 3600, "USD")


def test_charges_are_booked_once_and_come_back_exactly(database: Database) -> None:
    lease = led_to(database, State.RELEASED, asked_at=NOW)
    rounding = replace(CHARGE, kind=ChargeKind.ROUNDING, amount=Decimal("1E-20"), currency="EUR")
    assert ledger.book(database, lease.id, [CHARGE, rounding, CHARGE], NOW + SECOND)
    assert not ledger.book(database, lease.id, [CHARGE], NOW + 2 * SECOND)
    assert ledger.charges(database, lease.id) == [CHARGE, rounding, CHARGE]
    assert again(database, lease).booked_at == NOW + SECOND
    assert leases.unbooked(database, 10) == []
    assert ledger.total(database) == {"USD": CHARGE.amount * 2, "EUR": Decimal("0.00000000000000000001")}
    assert ledger.total(database, NOW + 2 * SECOND) == {}
    assert audit.listing(database, f"lease:{lease.id}")[0].action == "lease.booked"


def test_racing_bookers_book_once(database: Database) -> None:
    lease = led_to(database, State.RELEASED, asked_at=NOW)
    assert sorted(map(bool, together(6, lambda _: ledger.book(database, lease.id, [CHARGE], NOW)))) == [False] * 5 + [True]
    assert len(ledger.charges(database, lease.id)) == 1


def test_nothing_is_booked_before_the_instance_is_proven_gone(database: Database) -> None:
    lease = led_to(database, State.DESTROYING, asked_at=NOW)
    assert not ledger.book(database, lease.id, [CHARGE], NOW)
    assert ledger.charges(database, lease.id) == []


def test_a_charge_of_another_lease_is_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="another lease"):
        ledger.book(database, "other", [CHARGE], NOW)


def test_a_lease_that_owes_nothing_is_closed_too(database: Database) -> None:
    lease = led_to(database, State.RELEASED, asked_at=NOW)
    assert ledger.book(database, lease.id, [], NOW + timedelta(days=1))
    assert ledger.charges_of(database, [lease.id]) == {}
    assert ledger.charges_of(database, []) == {}
