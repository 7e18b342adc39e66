"""The migrated schema is what the code expects, on both databases."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy.exc import SQLAlchemyError

from app.store.db import Database, migrations, upgrade
from app.store.tables import metadata
from tests.parts.postgres import new_database


def described(conn: sa.Connection) -> dict[str, Any]:
    """All that the database itself says of its tables, in words."""
    inspector = sa.inspect(conn)
    tables: dict[str, Any] = {}
    for name in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        columns = [(c["name"], repr(c["type"]), c["nullable"], str(c["default"])) for c in inspector.get_columns(name)]
        indexes = [
            (
                i["name"],
                i["column_names"],
                bool(i["unique"]),
                {key: str(value) for key, value in (i.get("dialect_options") or {}).items()},
            )
            for i in inspector.get_indexes(name)
        ]
        uniques = [(u["name"], u["column_names"]) for u in inspector.get_unique_constraints(name)]
        foreign = [
            (f["name"], f["constrained_columns"], f["referred_table"], f["referred_columns"])
            for f in inspector.get_foreign_keys(name)
        ]
        key = inspector.get_pk_constraint(name)
        tables[name] = {
            "columns": columns,
            "indexes": sorted(indexes, key=str),
            "uniques": sorted(uniques, key=str),
            "foreign": sorted(foreign, key=str),
            "key": (key["name"], key["constrained_columns"]),
        }
    return tables


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database in which there is nothing yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new folder/100%.db"
    return new_database(request.getfixturevalue("postgres_url"))


def test_the_migrated_schema_is_the_one_in_the_tables(empty_url: str) -> None:
    upgrade(empty_url)
    database = Database(empty_url)
    with database.read() as conn:
        assert compare_metadata(MigrationContext.configure(conn, opts={"compare_type": True}), metadata) == []
        migrated = described(conn)
    with database.write() as conn:
        metadata.drop_all(conn)
        metadata.create_all(conn)
        made = described(conn)
    database.close()
    assert set(made) == set(metadata.tables)
    for table in made:
        assert migrated[table] == made[table], table


def test_partial_indexes_keep_their_condition(database: Database) -> None:
    with database.read() as conn:
        indexes = {name: str(rest) for name, *rest in described(conn)["lease"]["indexes"]}
    for name in ("ix_lease_due", "ix_lease_live", "ix_lease_unbooked"):
        assert "released" in indexes[name]


def test_upgrading_again_changes_nothing_and_loses_nothing(database: Database, database_url: str) -> None:
    with database.write() as conn:
        conn.execute(sa.text("INSERT INTO person (name, role, created_at) VALUES ('ada', 'admin', '2026-01-01')"))
    upgrade(database_url)
    upgrade(database_url)
    with database.read() as conn:
        assert conn.execute(sa.text("SELECT name FROM person")).scalars().all() == ["ada"]
        assert conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all() == ["0005"]


def test_services_that_start_at_once_migrate_one_after_the_other(empty_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(upgrade, empty_url) for _ in range(4)]:
            done.result()
    database = Database(empty_url)
    with database.read() as conn:
        assert set(described(conn)) == set(metadata.tables)
    database.close()


def test_a_migration_that_breaks_off_leaves_nothing_behind(empty_url: str) -> None:
    database = Database(empty_url)
    with database.write() as conn:
        conn.execute(sa.text("CREATE TABLE api_token (hash TEXT)"))  # the last one that the first revision makes
    with pytest.raises(SQLAlchemyError):
        upgrade(empty_url)
    with database.read() as conn:
        assert set(sa.inspect(conn).get_table_names()) == {"api_token"}
    database.close()


def test_the_way_back_takes_every_table_away(empty_url: str) -> None:
    upgrade(empty_url)
    database = Database(empty_url)
    with database.write() as conn:
        config = Config()
        config.set_main_option("script_location", str(migrations()))
        config.attributes["connection"] = conn
        command.downgrade(config, "base")
    with database.read() as conn:
        assert described(conn) == {}
    database.close()
