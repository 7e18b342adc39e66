"""The kinds of columns that both databases keep alike: times in UTC, exact money, JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator


class UtcTime(TypeDecorator[datetime]):
    """Aware UTC in, aware UTC out, on SQLite (stored naive) and PostgreSQL (timestamptz). Refuses naive values."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone must not reach the database")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        """One call for each value: ten thousand leases are two hundred thousand times."""
        return _read_text if dialect.name == "sqlite" else _read_aware


def _read_text(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value + "+00:00")


def _read_aware(value: datetime | None) -> datetime | None:
    return None if value is None else value.astimezone(UTC)


class Money(TypeDecorator[Decimal]):
    """An exact Decimal, kept as text: SQLite has no decimals, and sums are made in Python."""

    impl = sa.String(40)
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else format(value, "f")

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


Json = sa.JSON(none_as_null=True)  # None is SQL's NULL, not the JSON word null


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def text(name: str, default: str | None = "", **kwargs: Any) -> sa.Column[str]:
    if default is None:
        return sa.Column(name, sa.Text, nullable=True, **kwargs)
    return sa.Column(name, sa.Text, nullable=False, server_default=default, **kwargs)


def time(name: str, **kwargs: Any) -> sa.Column[datetime]:
    return sa.Column(name, UtcTime, **kwargs)
