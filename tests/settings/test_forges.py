"""The forges' tables: how their news come, what they need for it, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import Loaded, SettingsError, load

GITHUB = '[github]\ntoken = "env:TOKEN"\n'
GITLAB = '[gitlab]\ntoken = "env:TOKEN"\n'
GITEA = '[gitea]\nurl = "https://gitea.acme.example"\ntoken = "env:TOKEN"\n'
FORGEJO = GITEA.replace("gitea", "forgejo")
STRANGER = '[[forge]]\nname = "lab"\nkind = "attic"\nbook = "/srv/book"\naccess_token = "env:OTHER"\n'
POLLED, DEAF = 'intake = "poll"\n', 'intake = "webhook"\n'
POOL = '[[pool]]\nlabels = ["gpu"]\nmode = "bare"\nsigned = false\n'


def settled(tmp_path: Path, text: str) -> Loaded:
    file = tmp_path / "sublet.toml"
    file.write_text(text)
    return load(file, {}, {"TOKEN": "t", "HOOK": "h", "OTHER": "o"})


def problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(SettingsError) as refused:
        settled(tmp_path, text)
    return str(refused.value)


@pytest.mark.parametrize("table", [GITHUB, GITLAB, GITEA, FORGEJO, STRANGER])
def test_without_webhooks_no_secret_is_asked_for_and_none_is_taken(tmp_path: Path, table: str) -> None:
    secret = 'webhook_token = "env:HOOK"\n' if table == GITLAB else 'webhook_secret = "env:HOOK"\n'
    assert "no delivery can be trusted" in problems(tmp_path, table)
    assert 'intake = "poll"' in problems(tmp_path, table), "it says what else can be done"
    (name,) = settled(tmp_path, table + POLLED).settings.forges
    assert name == {GITHUB: "github", GITLAB: "gitlab", GITEA: "gitea", FORGEJO: "forgejo", STRANGER: "lab"}[table]
    assert "for nothing" in problems(tmp_path, table + secret + POLLED)
    assert settled(tmp_path, table + secret + DEAF).settings.forges[name].intake == "webhook"
    assert "`poll_seconds` is for nothing" in problems(tmp_path, table + secret + DEAF + "poll_seconds = 30\n")
    assert "poll_seconds" in problems(tmp_path, table + secret + "poll_seconds = 1\n"), "no forge is asked that often"
    assert "intake" in problems(tmp_path, table + secret + 'intake = "pull"\n')


def test_a_strangers_forge_keeps_its_own_keys_and_no_secret_in_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "o")
    table = settled(tmp_path, STRANGER + POLLED).settings.forge[0]
    own = table.own()
    assert (own["book"], own["access_token"].reveal(), sorted(own)) == ("/srv/book", "o", ["access_token", "book"])
    assert "hush" not in problems(tmp_path, STRANGER.replace("env:OTHER", "hush") + POLLED)
    assert "never written in place" in problems(tmp_path, STRANGER.replace("env:OTHER", "hush") + POLLED)


@pytest.mark.parametrize("name", ["github", "gitlab", "gitea", "forgejo"])
def test_a_stranger_takes_no_place_of_ours(tmp_path: Path, name: str) -> None:
    assert f"[{name}]" in problems(tmp_path, STRANGER.replace('"lab"', f'"{name}"') + POLLED)
    assert f"[{name}]" in problems(tmp_path, STRANGER.replace('"attic"', f'"{name}"') + POLLED)
    assert "two are named `lab`" in problems(tmp_path, (STRANGER + POLLED) * 2)


def test_a_pool_may_name_any_forge_that_is_set_up_and_no_other(tmp_path: Path) -> None:
    both = GITEA + POLLED + STRANGER + POLLED
    assert settled(tmp_path, both + POOL + 'forges = ["gitea", "lab"]\n').settings.pool[0].forges == ("gitea", "lab")
    assert "there is no [forgejo] table" in problems(tmp_path, both + POOL + 'forges = ["forgejo"]\n')
    assert "there is no [[forge]] named `attic`" in problems(tmp_path, both + POOL + 'forges = ["attic"]\n')
    twice = POOL + 'forges = ["gitea"]\n' + POOL + 'name = "b"\nforges = ["lab"]\n'
    assert len(settled(tmp_path, both + twice).settings.pool) == 2, "the same labels on two forges are no rivals"
    assert "the same as those of #1" in problems(tmp_path, both + POOL + POOL + 'name = "b"\nforges = ["lab"]\n')


def test_a_command_with_a_place_that_nobody_fills_in_is_refused_before_a_machine_is_rented(tmp_path: Path) -> None:
    good = POOL + 'runner_command = ["/opt/forgejo-runner-12.9", "one-job", "--handle", "{handle}", "--url", "{url}"]\n'
    assert settled(tmp_path, FORGEJO + POLLED + good).settings.pool[0].runner_command[3] == "{handle}"
    told = problems(tmp_path, FORGEJO + POLLED + good.replace("{handle}", "{token}"))
    assert "{token}" in told and "{handle}" in told, "it says which there are"
    shell = POOL + 'runner_command = ["sh", "-c", "exec ${RUNNER:-run} {}"]\n'
    assert settled(tmp_path, FORGEJO + POLLED + shell).settings.pool[0].runner_command[2] == "exec ${RUNNER:-run} {}"


def test_a_pattern_without_an_owner_finds_nothing_where_only_listings_tell(tmp_path: Path) -> None:
    rules = '[[repository]]\nmatch = "acme/*"\n[[repository]]\nmatch = "*/*"\n'
    warned = settled(tmp_path, GITHUB + POLLED + rules).warnings
    assert [text for text in warned if "*/*" in text and "name each owner" in text]
    assert not [text for text in warned if 'match = "acme/*"' in text]
    assert not [text for text in settled(tmp_path, GITHUB + 'webhook_secret = "env:HOOK"\n' + rules).warnings if "*/*" in text]
