"""The forge as a process: it outlives whoever started it, loses nothing when killed, and ends by itself."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.demo import keep, launch
from app.demo.nouns import Book
from tests.demo.runners import eventually, jit, job, running


def test_it_listens_on_loopback_only_and_keeps_its_secrets_in_files(process: launch.Running) -> None:
    assert process.url.startswith("http://127.0.0.1:")
    for path in (process.webhook_secret_file, process.token_file, process.private_key_file, process.folder / "forge.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    port = int(process.url.rpartition(":")[2])
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text("utf-8").splitlines() if " 0A " in line]
    assert [one for one in listening if one.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
    secrets = {process.token_file.read_text("utf-8").strip(), process.webhook_secret_file.read_text("utf-8").strip()}
    argv = Path(f"/proc/{process.pid}/cmdline").read_text("utf-8")
    environment = Path(f"/proc/{process.pid}/environ").read_text("utf-8")
    assert not any(secret in argv + environment for secret in secrets)


def test_a_living_forge_is_found_again(process: launch.Running) -> None:
    assert launch.ensure(process.folder.parent) == process
    assert launch.find(process.folder.parent) == process
    assert os.getsid(process.pid) == process.pid, "its own session: what ends its parent does not end it"


def test_two_at_once_become_one(tmp_path: Path) -> None:
    """Two commands start the same demo in the same moment: one forge lives, both find it."""
    data = str(tmp_path / "data")
    text = f"from pathlib import Path; from app.demo import launch; print(launch.ensure(Path({data!r})).pid)"
    both = [subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    pids = {child.communicate(timeout=60)[0].strip() for child in both}
    assert len(pids) == 1 and pids != {""}
    assert launch.stop(Path(data))
    assert not launch.stop(Path(data))


def test_nothing_is_lost_when_it_is_killed(tmp_path: Path) -> None:
    """kill -9 in the middle of a job: the same address comes back, the runner goes on, the job ends well."""
    data = tmp_path / "data"
    process = launch.ensure(data)
    text = "echo first-half\nwhile [ ! -e $GITHUB_WORKSPACE/../../../go ]; do sleep 0.05; done\necho second-half"
    number = process.ask("jobs", {"labels": ["cpu"], "script": text, "repository": "acme/tools"})["jobs"][0]["id"]
    waiting = process.ask("jobs", {"labels": ["tpu"], "repository": "acme/tools"})["jobs"][0]["id"]
    instance = tmp_path / "instance"
    with running(instance, jit(process, "fox", ["cpu"], "acme/tools")) as runner:
        runner.until("first-half")
        os.kill(process.pid, signal.SIGKILL)
        eventually(lambda: launch.find(data) is None)
        (instance / "_work" / "go").touch()
        runner.until("second-half")
        again = launch.ensure(data)
        assert (again.url, again.pid != process.pid) == (process.url, True)
        assert runner.end() == 0, runner.output
    assert job(again, number)["conclusion"] == "success"
    assert job(again, waiting)["status"] == "queued"
    page = httpx.get(f"{again.url}/acme/tools/actions/runs/{job(again, number)['run_id']}/job/{number}/logs", trust_env=False)
    assert page.text.index("first-half") < page.text.index("second-half")
    launch.stop(data)


def test_it_ends_when_nobody_calls(tmp_path: Path) -> None:
    data = tmp_path / "data"
    forge = launch.ensure(data, "--idle-minutes", "0.05")
    eventually(lambda: not (forge.folder / "forge.json").exists())
    eventually(lambda: launch.find(data) is None)
    assert (forge.folder / "book.json").exists()


def test_the_flags_plan_faults(tmp_path: Path) -> None:
    data = tmp_path / "data"
    forge = launch.ensure(data, "--lose", "1", "--delay-seconds", "1", "2", "--fault-seed", "5", "--jit-idle-seconds", "9")
    forge.ask("hook", {"url": "http://127.0.0.1:1/"})
    forge.ask("push")
    told = forge.ask("state")
    assert (told["deliveries"], told["deliveries_waiting"]) == ([], 0)
    launch.stop(data)
    book = keep.Shelf(data / "demo" / "book.json").load()
    assert book is not None and (book.faults.lose, book.faults.seed, book.faults.delay_seconds) == (1.0, 5, [1.0, 2.0])
    assert book.limits.jit_idle.total_seconds() == 9


def test_a_forge_that_cannot_start_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "demo"
    folder.mkdir(parents=True)
    (folder / "book.json").write_text("{", "utf-8")
    with pytest.raises(launch.DemoError, match="did not come up"):
        launch.ensure(tmp_path / "data")
    with pytest.raises(launch.DemoError, match="does not answer"):
        launch.Running("http://127.0.0.1:1", 1, _with_token(tmp_path), 1).ask("state")


def _with_token(folder: Path) -> Path:
    (folder / "token").write_text("ghp_x", "utf-8")
    return folder


def test_what_is_refused_is_said(process: launch.Running) -> None:
    with pytest.raises(launch.DemoError, match="refuses jobs"):
        process.ask("jobs", {"repository": "no repository"})
    with pytest.raises(launch.DemoError, match="refuses rerun"):
        process.ask("rerun", {"job": 1})


def test_the_book_survives_a_round_trip(tmp_path: Path) -> None:
    shelf = keep.Shelf(tmp_path / "book.json")
    assert shelf.load() is None
    book = Book(origin="http://127.0.0.1:1")
    shelf.save(book)
    assert shelf.load() == book
    assert [path.name for path in tmp_path.iterdir()] == ["book.json"]
