"""Settings become the values that the core decides with."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.forge_wiring import forges_of
from app.forges.contract import ForgeRefused
from app.image_rules import answers
from app.settings import load
from app.store import audit
from app.trust.access import RegistryAccess
from app.wiring import from_settings, pool_of
from tests.fakes.registry import FakeRegistry
from tests.fakes.served import served
from tests.fakes.signer import SigningKey
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


PLAIN = """
[github]
token = "env:TOKEN"
webhook_secret = "env:HOOK"
[[provider]]
name = "mine"
kind = "local"
[[repository]]
match = "acme/*"
[[registry]]
host = "127.0.0.1:1"
[trust]
keys = ["file:cosign.pub"]
[[pool]]
labels = ["gpu"]
"""
BARE = 'mode = "bare"\nsigned = false\n'
SIGNED = 'image = "127.0.0.1:1/ci/gpu:v3"\n'


async def started(folder: Path, pool: str) -> list[tuple[str, str]]:
    """The service starts with this pool and ends again: what its audit says of the pool by then."""
    file = folder / "sublet.toml"
    file.write_text(f'data = "{folder / "data"}"\n{PLAIN}{pool}')
    service = from_settings(load(file, {}, {}).settings, "http://127.0.0.1:8080")
    try:
        assert (service.trust is not None) is (pool != BARE), "nobody judges images where there is none"
        assert list(service.parts.registry_checks) == ["127.0.0.1:1"]
        health = await service.parts.registry_checks["127.0.0.1:1"]()
        assert not health.ok and "does not answer" in health.summary
        return [(entry.action, entry.text) for entry in reversed(audit.listing(service.db, "pool:gpu"))]
    finally:
        await service.aclose()


async def test_a_pool_that_asks_for_no_signature_is_audited_at_the_start_where_that_is_new_or_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "t")
    monkeypatch.setenv("HOOK", "h")
    (tmp_path / "cosign.pub").write_text(SigningKey().public.pem)
    assert await started(tmp_path, SIGNED) == []
    (first,) = await started(tmp_path, BARE)
    assert first[0] == "pool.unsigned" and "on the bare machine, and nothing proves" in first[1]
    assert await started(tmp_path, BARE) == [first], "once, not at every start"
    changed = await started(tmp_path, SIGNED + "signed = false\n")
    assert [action for action, _ in changed] == ["pool.unsigned"] * 2 and "is only pinned to the digest" in changed[1][1]
    assert [action for action, _ in await started(tmp_path, SIGNED)][-1] == "pool.signed"


async def test_a_registry_that_answers_is_well_and_whatever_else_answers_is_not() -> None:
    registry = FakeRegistry(auth="bearer")
    with served(registry) as url:
        access = RegistryAccess(url.removeprefix("http://"), plain_http=True)
        assert (await answers(access)).ok
        registry.fault("/v2/", status=404)
        health = await answers(access)
        assert not health.ok and "answers 404" in health.summary
