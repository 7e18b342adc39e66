"""Settings become the values that the core decides with."""

from __future__ import annotations

from pathlib import Path

from app.settings import load
from app.wiring import pool_of

SETTINGS = """
public_url = "https://ci.acme.example"

[github]
token = "env:TOKEN"
webhook_secret = "env:HOOK"
scope = "enterprise"
enterprise = "acme-inc"

[[provider]]
name = "mine"
kind = "local"

[[pool]]
labels = ["wide"]

[[pool]]
labels = ["narrow"]
scope = "organization"

[[repository]]
match = "acme/*"
"""


def test_the_enterprise_names_no_organisation(tmp_path: Path) -> None:
    """A pool that says organisation inside an enterprise set-up registers with the job's owner, not with `acme-inc`."""
    file = tmp_path / "sublet.toml"
    file.write_text(SETTINGS)
    settings = load(file, {}, {}).settings
    wide, narrow = (pool_of(pool, settings) for pool in settings.pool)
    assert (wide.scope_path, narrow.scope_path) == ("acme-inc", "")
