"""Settings become forges, and what the service knows of each."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.core.listening import Listening
from app.core.model import ScopeKind
from app.forge_wiring import forges_of, hosts_of, listening_of, scopes_of
from app.forges.contract import BadSignature, ForgeRefused
from app.forges.registry import ForgeTrouble
from app.settings import Settings, load
from tests.fakes.gitlab import TOKEN, FakeGitLab

ALL = """
public_url = "https://ci.acme.example"

[github]
token = "env:TOKEN"
webhook_secret = "env:HOOK"
scope = "organization"

[gitlab]
token = "env:TOKEN"
webhook_token = "env:HOOK"
intake = "webhook"

[gitea]
url = "https://gitea.acme.example:3000/git"
token = "env:TOKEN"
intake = "poll"

[forgejo]
url = "https://forgejo.acme.example"
token = "env:TOKEN"
webhook_secret = "env:HOOK"

[engine]
poll_seconds = 120
"""


def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Settings:
    for name in ("TOKEN", "HOOK"):
        monkeypatch.setenv(name, f"secret-of-the-test-{name}")
    file = tmp_path / "sublet.toml"
    file.write_text(text)
    return load(file, {}).settings


def now() -> datetime:
    return datetime(2026, 11, 22, tzinfo=UTC)


def test_each_forge_is_heard_as_its_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settled(tmp_path, monkeypatch, ALL)
    assert listening_of(settings) == {
        "github": Listening(True, timedelta(minutes=2)),
        "gitlab": Listening(True, None),
        "gitea": Listening(False, timedelta(seconds=15)),
        "forgejo": Listening(True, timedelta(seconds=15)),  # its released versions send no webhook for a queued job
    }
    assert scopes_of(settings) == {
        "github": ScopeKind.ORGANIZATION,
        "gitea": ScopeKind.REPOSITORY,
        "forgejo": ScopeKind.REPOSITORY,
    }
    assert hosts_of(settings) == (
        "github.com:443",
        "gitlab.com:443",
        "gitea.acme.example:3000",
        "forgejo.acme.example:443",
    )


def test_a_polled_forge_takes_no_delivery_whoever_signed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forges = forges_of(settled(tmp_path, monkeypatch, ALL), now, lambda _forge, _left: None, "https://ci.acme.example")
    assert {name: forge.kind for name, forge in forges.items()} == {name: name for name in forges}
    with pytest.raises(BadSignature, match=r"polled|No webhook"):
        forges["gitea"].parse({"x-gitea-event": "workflow_job", "x-hub-signature-256": "sha256=" + "0" * 64}, b"{}")


def test_what_was_lost_while_nobody_was_there_is_looked_for_where_a_rule_names_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a pattern nobody can tell which projects it means before GitLab was asked about one."""
    lab = FakeGitLab(now, webhook_token="secret-of-the-test-HOOK")
    with contextlib.ExitStack() as stack:
        lab.start()
        stack.callback(lab.stop)
        lab.hooks.add(lab.add_project("acme/train"), "https://ci.acme.example/hooks/gitlab")
        table = f'[gitlab]\nurl = "{lab.url}"\ntoken = "env:TOKEN"\nwebhook_token = "env:HOOK"\nintake = "webhook"\n'
        rules = '[[repository]]\nmatch = "acme/train"\n[[repository]]\nmatch = "acme/infer-*"\n'
        settings = settled(tmp_path, monkeypatch, table + rules)
        monkeypatch.setenv("TOKEN", TOKEN)
        forges = forges_of(settings, now, lambda _forge, _left: None, "https://ci.acme.example")
        assert forges["gitlab"].missed(now()) == []
        looked = [one.path.partition("/projects/")[2] for one in lab.requests if one.path.endswith("/hooks")]
        assert looked == ["acme%2Ftrain/hooks", ""]  # the project's, and its group's


def test_a_plugin_that_is_not_there_is_named_with_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = ALL + '[[forge]]\nname = "lab"\nkind = "attic-of-nobody"\nintake = "poll"\nkey_token = "env:TOKEN"\n'
    with pytest.raises(ForgeTrouble) as refused:
        forges_of(settled(tmp_path, monkeypatch, text), now, lambda _forge, _left: None, "https://ci.acme.example")
    assert 'forge "lab" of kind "attic-of-nobody"' in str(refused.value)
    assert "secret-of-the-test" not in str(refused.value)


def test_a_runner_for_no_job_is_refused_where_runner_and_job_belong_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forges = forges_of(settled(tmp_path, monkeypatch, ALL), now, lambda _forge, _left: None, "https://ci.acme.example")
    assert {name for name, forge in forges.items() if forge.pinned} == {"forgejo"}
    assert {name for name, forge in forges.items() if forge.wide} == {"gitea", "forgejo"}
    assert {name for name, forge in forges.items() if forge.reruns_in_place} == {"gitea"}
    assert forges["forgejo"].unfit(["gpus:4"]) and not forges["gitea"].unfit(["gpus:4"])
    with pytest.raises(ForgeRefused):
        forges["gitea"].redeliver(None)  # type: ignore[arg-type]  whatever it is, Gitea cannot
