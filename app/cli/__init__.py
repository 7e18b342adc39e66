"""The command line: a client of the HTTP API, one file per noun."""

from app.cli.root import main

__all__ = ["main"]
