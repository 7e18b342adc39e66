"""What Alembic runs for every command: the caller's connection, the store's tables, one transaction on every database."""

import sqlalchemy as sa
from alembic import context

from app.store.tables import metadata


def migrate(connection: sa.Connection) -> None:
    """Run what was asked for on this connection. The transaction is the caller's: `app.store.db.upgrade`."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transactional_ddl=True,  # the store begins SQLite's transactions by itself, so it holds there too
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


migrate(context.config.attributes["connection"])
