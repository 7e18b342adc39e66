"""Settings become the values that the core decides with."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.forges.contract import ForgeRefused
from app.settings import load
from app.wiring import forges_of, pool_of
from tests.forges.hub import a_hub

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
mode = "bare"
signed = false

[[pool]]
labels = ["narrow"]
mode = "bare"
signed = false
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


def test_every_app_of_the_settings_signs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own number: the demo forge knows one App, and turns the other one away."""
    with a_hub() as hub:
        monkeypatch.setenv("KEY", hub.keys.app_pem)
        monkeypatch.setenv("HOOK", "secret")
        app = 'app_id = {}\nprivate_key = "env:KEY"\n'
        first = f'[github]\napi_url = "{hub.url}"\nwebhook_secret = "env:HOOK"\n' + app.format(hub.state.book.app_id)
        file = tmp_path / "sublet.toml"
        file.write_text(first)
        alone = forges_of(load(file, {}, {}).settings, hub.clock.now, hub.note, "https://ci.acme.example/")["github"]
        assert alone.check() == "github: the App sublet-demo signs in."
        file.write_text(first + "[[github.app]]\n" + app.format(5))
        both = forges_of(load(file, {}, {}).settings, hub.clock.now, hub.note, "https://ci.acme.example/")["github"]
        with pytest.raises(ForgeRefused, match="Issuer"):
            both.check()
