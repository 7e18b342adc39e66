"""`sublet config`: good and bad files, what a key means, and where its value came from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run

GOOD = """
public_url = "https://ci.acme.example"
[github]
token = "env:GITHUB_TOKEN"
webhook_secret = "env:HOOK"
[[provider]]
name = "mine"
kind = "local"
[trust]
keys = ["file:cosign.pub"]
[[registry]]
host = "registry.acme.example"
[[pool]]
labels = ["gpu"]
image = "registry.acme.example/ci/gpu:v3"
[[repository]]
match = "acme/*"
"""
BAD = """
[server]
prot = 80
[github]
token = "hush-hush"
webhook_secret = "env:HOOK"
"""


def test_a_good_file_can_be_used(sublet: Run, tmp_path: Path) -> None:
    (tmp_path / "sublet.toml").write_text(GOOD, encoding="utf-8")
    told = sublet("config", "check")
    assert (told.code, told.out) == (0, "sublet.toml: can be used (1 pools, 1 providers, 1 repository rules).\n")
    assert sublet("config", "check", "--json").json == {"schema_version": 1, "ok": True, "path": "sublet.toml", "warnings": []}


def test_a_kind_that_no_package_here_brings_is_a_warning(sublet: Run, tmp_path: Path) -> None:
    """The file may be for another machine, which has the package."""
    forge = '[[forge]]\nname = "board"\nkind = "corkboard-of-nobody"\nintake = "poll"\n'
    (tmp_path / "sublet.toml").write_text(GOOD.replace('kind = "local"', 'kind = "locl"') + forge, encoding="utf-8")
    told = sublet("config", "check")
    assert told.code == 0
    assert 'Warning: provider "mine" of kind "locl": there is no such kind (did you mean \'local\'?). Installed: ' in told.err
    assert 'Warning: forge "board" of kind "corkboard-of-nobody": there is no such kind. Installed: none' in told.err
    assert len(sublet("config", "check", "--json").json["warnings"]) == 2


def test_a_bad_file_is_told_whole_and_no_secret_with_it(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(BAD, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "config", "check", str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{path}: unknown key `prot` in [server]; did you mean `port`?" in done.stderr
    assert "`token` in [github]: a secret is never written in place" in done.stderr
    assert "hush-hush" not in done.stderr


def test_what_a_key_means_is_told_also_to_whoever_wrote_it_wrong(sublet: Run, tmp_path: Path) -> None:
    (tmp_path / "sublet.toml").write_text(BAD, encoding="utf-8")
    told = sublet("config", "explain", "server.port")
    assert told.code == 0 and told.out.startswith("server.port  (whole number)\n") and "8080  from" not in told.out
    assert "sublet config check" in told.err
    assert sublet("config", "explain", "server.port", "--json").json["keys"][0]["values"] == []


def test_a_file_that_is_not_there(sublet: Run) -> None:
    assert sublet("config", "check", "nowhere.toml").code == 3


def test_explain_tells_meaning_value_and_source(sublet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sublet.toml").write_text(GOOD, encoding="utf-8")
    monkeypatch.setenv("SUBLET_SERVER__PORT", "9000")
    told = sublet("config", "explain", "server.port")
    assert "TCP port to listen on." in told.out
    assert "server.port = 9000  from SUBLET_SERVER__PORT" in told.out
    told = sublet("config", "explain", "github.token")
    assert "github.token = env:GITHUB_TOKEN  from sublet.toml" in told.out
    (view,) = sublet("config", "explain", "pool.labels", "--json").json["keys"]
    assert view["values"] == [{"at": "pool[0].labels", "value": ["gpu"], "source": "sublet.toml"}]


def test_explain_tells_of_a_table_within_a_table(sublet: Run, tmp_path: Path) -> None:
    more = '\n[[github.app]]\napp_id = 8\nprivate_key = "env:EIGHT"\n'
    github = '[github]\napp_id = 7\nprivate_key = "env:SEVEN"\nwebhook_secret = "env:HOOK"\n'
    (tmp_path / "sublet.toml").write_text(github + more, encoding="utf-8")
    told = sublet("config", "explain", "github.app.app_id")
    assert "github.app[0].app_id = 8  from sublet.toml" in told.out and "Variable" not in told.out
    assert [key["key"] for key in sublet("config", "explain", "github", "--json").json["keys"]][-2:] == [
        "github.app.app_id",
        "github.app.private_key",
    ]


def test_explain_lists_a_whole_table(sublet: Run) -> None:
    lines = sublet("config", "explain", "engine").out.splitlines()
    assert len(lines) == 7 and lines[0].startswith("KEY") and "engine.beat_seconds" in lines[1]
    assert sublet("config", "explain", "nothing.like.it").code == 3


def test_the_schema_is_one_an_editor_can_read(sublet: Run) -> None:
    schema = json.loads(sublet("config", "schema").out)
    assert schema["properties"]["pool"]["items"] == {"$ref": "#/$defs/PoolSettings"}
    assert "most" in schema["$defs"]["PoolSettings"]["properties"]["ceiling"]["description"].lower()
