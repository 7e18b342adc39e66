"""The database; blocking; the only home of SQLAlchemy."""
