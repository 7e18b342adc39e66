"""`sublet demo`: one object for one job, nothing left behind, and the service's last words where it fails."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cli.conftest import Run

TREE = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def command(words: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "tests.cli.stand_in", *words]

    monkeypatch.setattr("app.cli.demo_run.service_command", command)
    monkeypatch.setenv("PYTHONPATH", str(TREE))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


def test_once_prints_one_object_and_leaves_nothing(sublet: Run, tmp_path: Path) -> None:
    told = sublet("demo", "--once", "--json")
    assert (told.code, told.err) == (0, "")
    result = told.json
    assert (result["state"], result["conclusion"], result["gone"]) == ("released", "success", True)
    assert [phase["phase"] for phase in result["phases"]][:3] == ["planned", "launching", "booting"]
    assert set(result["phases"][0]) == {"phase", "started_at", "ended_at"}
    assert result["cost"] == {"amount": "0.0042", "currency": "USD"}
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_person_reads_lines(sublet: Run) -> None:
    told = sublet("demo", "--once")
    assert told.code == 0
    assert "The job ended with success, $0.0042; its machine is proven gone." in told.out
    assert "brave-otter-41: booting" in told.err


def test_a_job_that_fails_is_told_by_the_exit_code(sublet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENE", "job fails")
    told = sublet("demo", "--once", "--json")
    assert told.code == 1 and told.json["conclusion"] == "failure"


def test_a_job_without_end_is_given_up_after_the_timeout(sublet: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCENE", "never ends")
    told = sublet("demo", "--once", "--json", "--timeout", "2")
    assert told.code == 9 and told.json["error"]["code"] == "timed_out"
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_service_that_does_not_start_has_its_last_words_shown(sublet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENE", "does not start")
    told = sublet("demo", "--once")
    assert told.code == 1 and "the last words of the service" in told.err


def test_a_process_that_is_left_is_ended_and_told(sublet: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCENE", "leaves a process")
    told = sublet("demo", "--once")
    assert told.code == 1 and "Processes were left" in told.err
    folder = str(tmp_path / "temporary")
    for process in psutil.process_iter(["cwd"]):
        assert not str(process.info["cwd"] or "").startswith(folder)


def test_reset_deletes_demo_data_and_nothing_else(sublet: Run, tmp_path: Path) -> None:
    data = tmp_path / "sublet-data"
    data.mkdir()
    (data / "demo.db").write_text("", encoding="utf-8")
    assert sublet("demo", "reset", "--yes").code == 5
    (data / "demo").mkdir()
    (data / "service.json").write_text(json.dumps({"url": "http://127.0.0.1:1", "pid": os.getpid()}), encoding="utf-8")
    assert sublet("demo", "reset", "--yes").code == 5
    (data / "service.json").unlink()
    assert sublet("demo", "reset").code == 2
    assert sublet("demo", "reset", "--yes").out == "Deleted sublet-data.\n"
    assert not data.exists()


def test_reset_spares_the_data_of_a_real_service(sublet: Run, tmp_path: Path) -> None:
    data = tmp_path / "sublet-data"
    (data / "demo").mkdir(parents=True)
    for name in ("sublet.db", "demo.db", "demo.db-wal", "vault.keys"):
        (data / name).write_text("", encoding="utf-8")
    assert sublet("demo", "reset", "--yes").code == 0
    assert sorted(file.name for file in data.iterdir()) == ["sublet.db", "vault.keys"]


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that this process would have turned into."""
    seen: list[list[str]] = []

    def note(program: str, command: list[str], environment: dict[str, Any]) -> None:
        seen.append(command[command.index("app.main") + 1 :])

    monkeypatch.setattr("os.execve", note)
    return seen


def test_up_without_any_settings_is_the_demo(sublet: Run, became: list[list[str]]) -> None:
    sublet("up", "--port", "0")
    assert became == [["--role", "all", "--demo", "--port", "0"]]


def test_the_demos_machine_may_come_from_docker(sublet: Run, became: list[list[str]], tmp_path: Path) -> None:
    sublet("up", "--provider", "docker")
    assert became == [["--role", "all", "--demo", "--demo-provider", "docker"]]
    (tmp_path / "sublet.toml").write_text("", encoding="utf-8")
    told = sublet("up", "--provider", "docker")
    assert told.code == 2 and "--provider is for the demo" in told.err
    assert len(became) == 1


def test_up_with_a_file_is_the_service(sublet: Run, became: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "sublet.toml").write_text("", encoding="utf-8")
    sublet("up", "--host", "127.0.0.1", "--data", "elsewhere", "--role", "engine")
    assert became == [
        ["--role", "engine", "--config", "sublet.toml", "--data", str(tmp_path / "elsewhere"), "--host", "127.0.0.1"]
    ]


def test_up_says_what_is_wrong_before_it_starts(sublet: Run, became: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "sublet.toml").write_text("colour = 1", encoding="utf-8")
    told = sublet("up")
    assert told.code == 1 and "unknown key `colour`" in told.err
    assert became == []


def test_demo_in_the_foreground(sublet: Run, became: list[list[str]], tmp_path: Path) -> None:
    sublet("demo", "--provider", "docker")
    assert became == [["--demo", "--demo-provider", "docker", "--data", str(tmp_path / "sublet-data")]]
