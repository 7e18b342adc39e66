"""The real service as a real process: killed in the middle of the demo's job, interrupted, served over TLS."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from app import alive
from app.demo import launch
from tests.node.certificates import server_side

PATIENCE = 45.0  # seconds for anything that a real process does here


@contextmanager
def service(folder: Path, port: int, *flags: str) -> Generator[subprocess.Popen[str]]:
    """`python -m app.main` in a folder of its own; whatever is left of it at the end is killed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SUBLET_")}
    command = [sys.executable, "-m", "app.main", "--data", str(folder / "data"), "--port", str(port), *flags]
    with (folder / "service.log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # a killed one would leave its machine to the dead-man switch
        try:
            process.wait(40)
        finally:
            process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(condition: Callable[[], Any], folder: Path) -> Any:
    """The first true answer. Polls a real process, so it looks at the real clock."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        select.select([], [], [], 0.05)
    pytest.fail(f"nothing came of it; the service said:\n{(folder / 'service.log').read_text()[-4000:]}")


def ask(folder: Path, path: str) -> Any:
    """The API's answer, or None while the service is not there."""
    try:
        at = json.loads((folder / "data" / "service.json").read_text())["url"]
        token = (folder / "data" / "cli-token").read_text().strip()
        request = urllib.request.Request(f"{at}/api/v1/{path}", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=5) as reply:
            return json.load(reply)
    except (OSError, ValueError):
        return None


def newest(folder: Path) -> dict[str, Any] | None:
    found = ask(folder, "leases?which=all")
    return found["leases"][0] if found and found["leases"] else None


def in_state(folder: Path, *states: str) -> dict[str, Any] | None:
    lease = newest(folder)
    return lease if lease is not None and lease["state"] in states else None


def left_over(folder: Path) -> list[str]:
    """Processes that were started from this folder and still live."""
    found: list[str] = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or [])
        here = str(folder) in words or str(folder) in (process.info["cwd"] or "")
        if words and process.pid != os.getpid() and here:  # without words: it has ended, and nobody has collected it yet
            found.append(words)
    return found


def test_a_killed_service_goes_on_where_it_was(tmp_path: Path) -> None:
    """kill -9 while the machine boots, and once more while the job runs: the job still ends, once, and the instance is
    gone. Meanwhile a second service on the same data is refused, and hurts neither the first one nor its forge."""
    port = free_port()
    for moment in ("booting", "busy"):
        with service(tmp_path, port, "--demo") as killed:
            wait_for(lambda moment=moment: in_state(tmp_path, moment, "busy", "released"), tmp_path)
            killed.send_signal(signal.SIGKILL)
            killed.wait(10)
    with service(tmp_path, port, "--demo") as last:
        wait_for(lambda: newest(tmp_path), tmp_path)
        with service(tmp_path, free_port(), "--demo") as second:
            lease = wait_for(lambda: in_state(tmp_path, "released"), tmp_path)
            assert lease["gone"] is True
            assert lease["job"]["conclusion"] == "success"
            # A start that finds the job done queues another: on a busy machine the job is quicker than the start.
            served = [one["job"]["id"] for one in ask(tmp_path, "leases?which=all")["leases"] if one["job"]]
            assert len(set(served)) == len(served) <= 3
            assert second.wait(30) == 1
        assert "another Sublet works on" in (tmp_path / "service.log").read_text()
        assert newest(tmp_path) is not None, "the first goes on"
        last.send_signal(signal.SIGINT)
        assert last.wait(30) == 0
    wait_for(lambda: not left_over(tmp_path), tmp_path)  # what was told to end may take a moment on a busy machine


def test_ctrl_c_in_the_middle_leaves_no_process_and_no_instance(tmp_path: Path) -> None:
    with service(tmp_path, free_port(), "--demo") as running:
        wait_for(lambda: in_state(tmp_path, "busy"), tmp_path)
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
    assert left_over(tmp_path) == []
    assert list((tmp_path / "data" / "instances").glob("*/sublet-*")) == []
    assert launch.find(tmp_path / "data") is None
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir() if path.is_file()}
    assert set(modes.values()) == {0o600}, modes


def test_the_service_speaks_tls_by_itself(tmp_path: Path) -> None:
    _, authority = server_side(tmp_path)
    server = '[server]\ntls_certificate = "server.pem"\ntls_key = "server.pem"\n'
    (tmp_path / "sublet.toml").write_text(f'{server}[gitlab]\ntoken = "env:T"\nwebhook_token = "env:T"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T", "a-token-of-the-tests")
        with service(tmp_path, free_port(), "--config", "sublet.toml"):
            ready = tmp_path / "data" / "service.json"
            url = json.loads(wait_for(lambda: ready.exists() and ready.read_text(), tmp_path))["url"]
            assert url.startswith("https://127.0.0.1:")
            trust = ssl.create_default_context(cadata=authority)
            with urllib.request.urlopen(f"{url}/healthz", context=trust, timeout=5) as reply:
                assert reply.status == 200
            port = url.rpartition(":")[2]
            assert alive.main([port]) == 0, "a container's health check speaks TLS, too"
        assert alive.main([port]) == 1


def test_settings_that_cannot_be_used_say_why_and_end_with_2(tmp_path: Path) -> None:
    (tmp_path / "sublet.toml").write_text('[[pool]]\nlabels = ["gpu"]\nmax_prce_per_hour = "9"\n')
    with service(tmp_path, 0, "--config", "sublet.toml") as process:
        assert process.wait(20) == 2
    assert "did you mean `max_price_per_hour`" in (tmp_path / "service.log").read_text()
