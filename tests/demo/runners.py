"""The forge's real runner program as a process, for the stories that need it to be real."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt

from app.demo import launch, machine
from app.kit.clock import SystemClock

PATIENCE = 30.0


def jit(forge: launch.Running, name: str, labels: list[str], repository: str = "acme/train") -> str:
    """A JIT config, minted as Sublet does: as the App, with a token narrowed to the repository."""
    now = int(SystemClock().now().timestamp())
    claims = {"iat": now - 60, "exp": now + 500, "iss": str(forge.app_id)}
    app = {"Authorization": "Bearer " + jwt.encode(claims, forge.private_key_file.read_text("utf-8"), algorithm="RS256")}
    with httpx.Client(base_url=forge.api_url, timeout=10, trust_env=False) as client:
        number = client.get(f"/repos/{repository}/installation", headers=app).json()["id"]
        asked = {"repositories": [repository.partition("/")[2]], "permissions": {"administration": "write"}}
        token = client.post(f"/app/installations/{number}/access_tokens", json=asked, headers=app).json()["token"]
        body = {"name": name, "runner_group_id": 1, "labels": labels}
        url = f"/repos/{repository}/actions/runners/generate-jitconfig"
        answer = client.post(url, json=body, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 201, answer.text
        config: str = answer.json()["encoded_jit_config"]
        return config


class Process:
    """One runner. `output` grows while it runs."""

    def __init__(self, folder: Path, config: str, **environment: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        own = {"PATH": "/usr/bin:/bin", "ACTIONS_RUNNER_INPUT_JITCONFIG": config, **environment}
        self.child = subprocess.Popen(
            machine.command(), cwd=folder, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        self.output = ""
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for raw in self.child.stdout or ():
            with self._said:
                self.output += raw.decode()
                self._said.notify_all()

    def until(self, words: str) -> None:
        """Waits until it has said these words."""
        with self._said:
            assert self._said.wait_for(lambda: words in self.output, PATIENCE), self.output

    def end(self) -> int:
        """Its exit code."""
        code = self.child.wait(PATIENCE)
        self._reader.join(PATIENCE)
        if self.child.stdout:
            self.child.stdout.close()
        return code


@contextmanager
def running(folder: Path, config: str, **environment: str) -> Generator[Process]:
    """A runner that is gone when the block ends, whatever happens."""
    process = Process(folder, config, **environment)
    try:
        yield process
    finally:
        if process.child.poll() is None:
            os.killpg(process.child.pid, signal.SIGKILL)
        process.end()


def job(forge: launch.Running, job_id: int) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in forge.ask("state")["jobs"] if one["id"] == job_id)
    return found


def eventually(check: Any) -> None:
    """Until it is true; the real processes of these stories take real moments."""
    ends, pause = time.monotonic() + PATIENCE, threading.Event()
    while not check():
        assert time.monotonic() < ends, "it never came true"
        pause.wait(0.02)
