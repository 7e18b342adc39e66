"""The demo forge's runner program: one job, then it ends. Standard library only, Python 3.8+, one file, shipped as it is.

Like actions/runner, it takes ACTIONS_RUNNER_INPUT_JITCONFIG, runs the ACTIONS_RUNNER_HOOK_JOB_STARTED and _COMPLETED hooks,
works below the folder it is started in, and exits 0 whatever became of the job. `act` runs the workflow file: no containers.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

VERSION = "2.336.0"
RENEW_SECONDS, FLUSH_SECONDS, TERM_SECONDS = 5.0, 0.25, 10.0
PRIVATE = re.compile(r"^(ACTIONS_RUNNER_|SUBLET_|GITHUB_|RUNNER_PRE_)")
RESULTS = {"success": "Succeeded", "failure": "Failed", "cancelled": "Canceled"}


class Told(Exception):
    """The forge's answer was no: its status, and its message."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def stamped(line: str) -> None:
    say(time.strftime("%Y-%m-%d %H:%M:%SZ: ", time.gmtime()) + line)


class Forge:
    """The way to the forge. One connection for each question: nothing to keep alive, nothing to go stale."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self._token, self.session = url, token, secrets.token_hex(32)

    def fetch(self, method: str, url: str, token: str, body: bytes | None = None, seconds: float = 60.0) -> bytes:
        """Raises Told for an answer that is an error or 202, OSError when there is no answer."""
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=seconds)
        try:
            headers = {"Authorization": "Bearer " + token, "User-Agent": "DemoRunner/" + VERSION}
            connection.request(method, parts.path, body=body, headers=headers)
            reply = connection.getresponse()
            raw = reply.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()
        if reply.status == 200:
            return raw
        found = re.search(rb'"message": ?"([^"]*)"', raw)
        raise Told(reply.status, found.group(1).decode("utf-8", "replace") if found else "")

    def ask(self, verb: str, *, seconds: float = 60.0, patient: bool = False, **said: Any) -> dict[str, Any]:
        """`patient`: until there is an answer, so that a forge which is away for a while loses nothing."""
        body = json.dumps({"session": self.session, **said}).encode()
        while True:
            try:
                answer: dict[str, Any] = json.loads(self.fetch("POST", f"{self.url}/{verb}", self._token, body, seconds))
                return answer
            except (OSError, Told) as error:
                if not patient or (isinstance(error, Told) and error.status < 500):
                    raise
            time.sleep(1.0)


class Report(threading.Thread):
    """The job's log and steps on their way to the forge, and the forge's wish to cancel on its way back.

    Both lists only grow, by one thread, and are read by the other: appending is atomic."""

    def __init__(self, forge: Forge, job_id: int, secret: str) -> None:
        super().__init__(daemon=True)
        self._forge, self._job_id, self._secret = forge, job_id, secret
        self._lines: list[str] = []
        self._sent, self._over = 0, threading.Event()
        self.steps: list[dict[str, Any]] = []
        self.cancel: Callable[[], None] = lambda: None
        self.cancelled = False

    def line(self, text: str) -> None:
        for part in text.splitlines() or [""]:
            part = part.replace(self._secret, "***")
            say(part)
            self._lines.append(part)

    def begin(self, name: str) -> dict[str, Any]:
        name = (name.replace(self._secret, "***").strip().splitlines() or ["step"])[0]
        step: dict[str, Any] = {"name": name, "status": "in_progress", "conclusion": None, "completed_at": None}
        step["started_at"] = time.time()  # noqa: TID251  this file is shipped alone, without app.kit.clock
        self.steps.append(step)
        return step

    def end(self, step: dict[str, Any], conclusion: str) -> None:
        step.update(status="completed", conclusion=conclusion, completed_at=time.time())  # noqa: TID251  as above

    def run(self) -> None:
        last = 0.0
        while not self._over.wait(FLUSH_SECONDS):
            if self._sent < len(self._lines) or time.monotonic() - last > RENEW_SECONDS:
                self._flush()
                last = time.monotonic()

    def close(self) -> None:
        """The rest of the log is sent."""
        self._over.set()
        self.join()
        while self._sent < len(self._lines) and not self._flush():
            time.sleep(0.5)

    def _flush(self) -> bool:
        """Whether all was sent."""
        first, lines, steps = self._sent, self._lines[self._sent : self._sent + 2000], [dict(one) for one in self.steps]
        try:
            answer = self._forge.ask("log", seconds=15.0, job=self._job_id, first=first, lines=lines, steps=steps)
        except (OSError, Told) as error:
            if isinstance(error, OSError) or error.status >= 500:
                return False
            answer, lines = {"cancel": True}, self._lines[first:]  # the forge has ended this job without us
        self._sent = first + len(lines)
        if answer.get("cancel"):
            self.stop()
        return self._sent == len(self._lines)

    def stop(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self.cancel()


def unpack(raw: bytes, sha: str, target: Path) -> None:
    """The commit's tree into a folder. The archive must name the very commit; nothing may lie outside the folder."""
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as tar:
        if tar.pax_headers.get("comment") != sha:
            raise OSError("the forge sent another commit than the job's")
        for member in tar:
            parts = member.name.split("/")[1:]
            if not member.isfile() or any(part in ("", ".", "..") for part in parts):
                continue
            source = tar.extractfile(member)
            write(target.joinpath(*parts), source.read() if source else b"")
            target.joinpath(*parts).chmod(member.mode & 0o755)


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def mark_commit(job: dict[str, Any], workspace: Path) -> None:
    """As much of a .git as tells `act` which repository, branch and commit this is."""
    branch = job["branch"] if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", job["branch"]) else "main"
    origin = f"{job['environment']['GITHUB_SERVER_URL']}/{job['environment']['GITHUB_REPOSITORY']}"
    git = workspace / ".git"
    write(git / "HEAD", f"ref: refs/heads/{branch}\n".encode())
    write(git / "refs" / "heads" / branch, f"{job['sha']}\n".encode())
    write(git / "config", f'[core]\n\trepositoryformatversion = 0\n[remote "origin"]\n\turl = {origin}\n'.encode())
    (git / "objects").mkdir()


class Work:
    """One job on this machine; `run` gives its conclusion."""

    def __init__(self, forge: Forge, job: dict[str, Any], act: str, root: Path) -> None:
        self.forge, self.job, self.act = forge, job, act
        self.report = Report(forge, job["id"], job["token"])
        self.report.cancel = self._stop_child
        self.summary: list[str] = []
        self._child: subprocess.Popen[bytes] | None = None
        self._ending = False  # the completed hook runs whatever happens
        name = job["environment"]["GITHUB_REPOSITORY"].split("/")[1]
        self.workspace = root / name / name
        self.inside = {one: root / one for one in ("_temp", "_tool", "_home", "_act", "_cache", "_shells")}
        for path in (self.workspace, *self.inside.values()):
            shutil.rmtree(str(path), ignore_errors=True)
            path.mkdir(parents=True)
        self.event = self.inside["_temp"] / "event.json"
        write(self.event, json.dumps(job["event"]).encode())
        arm = platform.machine().lower() in ("aarch64", "arm64")
        own = {"RUNNER_OS": platform.system(), "RUNNER_ARCH": "ARM64" if arm else "X64"}
        self.variables: dict[str, str] = {**job["environment"], **own}

    def run(self) -> str:
        report, conclusion = self.report, "failure"
        report.start()
        report.line(f"Runner '{self.variables['RUNNER_NAME']}', version '{VERSION}'")
        try:
            allowed = self._hook("Set up runner", "started", os.environ.get("ACTIONS_RUNNER_HOOK_JOB_STARTED"))
            if allowed and not report.cancelled:
                archive = self.forge.fetch("GET", self.job["archive"], self.job["token"])
                unpack(archive, self.job["sha"], self.workspace)
                mark_commit(self.job, self.workspace)
                conclusion = self._steps()
        except (OSError, Told, tarfile.TarError, subprocess.SubprocessError) as error:
            report.line(f"##[error]{type(error).__name__}: {error}")
        self._ending = True
        if not self._hook("Complete runner", "completed", os.environ.get("ACTIONS_RUNNER_HOOK_JOB_COMPLETED")):
            conclusion = "failure"
        return "cancelled" if report.cancelled else conclusion

    def _hook(self, title: str, kind: str, path: str | None) -> bool:
        """Runs an administrator's script in line, without a time limit, as GitHub's runner does. False: it failed."""
        if not path:
            return True
        step = self.report.begin(title)
        self.report.line(f"A job {kind} hook has been configured by the self-hosted runner administrator\nRun '{path}'")
        places = {
            "GITHUB_EVENT_PATH": str(self.event),
            "GITHUB_WORKSPACE": str(self.workspace),
            "RUNNER_TEMP": str(self.inside["_temp"]),
            "RUNNER_TOOL_CACHE": str(self.inside["_tool"]),
            "RUNNER_WORKSPACE": str(self.workspace.parent),
        }
        shell = shutil.which("bash") or shutil.which("sh") or "/bin/sh"
        code = self._follow([shell, path], {**os.environ, **self.variables, **places}, self.report.line)
        if code:
            self.report.line(f"##[error]Process completed with exit code {code}.")
        self.report.end(step, "failure" if code else "success")
        return code == 0

    def _steps(self) -> str:
        """Runs the job's workflow file. Everything that `act` writes stays below our folder."""
        job, temp = self.job, self.inside["_temp"]
        settings, errors = temp / "variables", temp / "act.log"
        write(settings, "".join(f"{name}={json.dumps(value)}\n" for name, value in self.variables.items()).encode())
        command = [self.act, self.variables["GITHUB_EVENT_NAME"], "-W", job["path"], "-j", job["key"], "-e", str(self.event)]
        command += [word for label in job["labels"] for word in ("-P", f"{label}=-self-hosted")]
        command += ["--json", "--no-cache-server", "--pull=false", "--container-daemon-socket", "-", "--concurrent-jobs", "1"]
        command += ["--github-instance", urlsplit(self.forge.url).netloc, "--actor", self.variables["GITHUB_ACTOR"]]
        command += ["--action-cache-path", str(self.inside["_act"]), "--env-file", str(settings), "-s", "GITHUB_TOKEN"]
        command += [word for flag in ("--secret-file", "--var-file", "--input-file") for word in (flag, os.devnull)]
        environment = {name: value for name, value in os.environ.items() if not PRIVATE.match(name)}
        home = str(self.inside["_home"])
        environment["PATH"] = f"{self._shells()}:{os.environ.get('PATH', os.defpath)}:{Path(sys.executable).parent}"
        environment.update(HOME=home, XDG_CONFIG_HOME=home, XDG_CACHE_HOME=str(self.inside["_cache"]), TMPDIR=str(temp))
        environment["GITHUB_TOKEN"] = job["token"]  # `-s` takes it from here: no secret stands in argv
        story = Story(self.report, self.summary)
        with errors.open("wb") as stderr:
            code = self._follow(command, environment, story.hear, stderr=stderr.fileno())
        if story.result is None:  # act ends with 0, too, when it finds nothing that it could run
            for line in errors.read_text("utf-8", "replace").splitlines()[-20:]:
                self.report.line("##[error]" + line)
            self.report.line(f"##[error]The workflow could not be run: act ended with {code}.")
        return "success" if story.result == "success" and code == 0 else "failure"

    def _shells(self) -> Path:
        """A folder of shells that end a failing step late: `act` 0.2 stops listening at once, and the last words are lost."""
        for name in ("bash", "sh"):
            place, real = self.inside["_shells"] / name, shutil.which(name)
            if real:
                write(place, f'#!/bin/sh\n{real} "$@" || {{ code=$?; sleep 0.3; exit $code; }}\n'.encode())
                place.chmod(0o755)
        return self.inside["_shells"]

    def _follow(
        self, command: list[str], environment: dict[str, str], hear: Callable[[str], None], stderr: int = subprocess.STDOUT
    ) -> int:
        """Runs a command in the workspace and hears each line of it. Returns its exit code."""
        place, none, pipe = str(self.workspace), subprocess.DEVNULL, subprocess.PIPE
        child = subprocess.Popen(command, cwd=place, env=environment, stdin=none, stdout=pipe, stderr=stderr)  # noqa: S603
        self._child = child
        if self.report.cancelled:
            self._stop_child()
        for raw in child.stdout or ():
            hear(raw.decode("utf-8", "replace").rstrip("\r\n"))
        return child.wait()

    def _stop_child(self) -> None:
        """Ends what runs now: `act` ends its steps; what does not end in time is killed."""
        child = self._child
        if child is not None and child.poll() is None and not self._ending:
            child.terminate()
            killer = threading.Timer(TERM_SECONDS, child.kill)
            killer.daemon = True
            killer.start()


class Story:
    """What `act --json` tells, turned into steps and lines as a GitHub log has them."""

    def __init__(self, report: Report, summary: list[str]) -> None:
        self._report, self._summary = report, summary
        self._open: dict[str, dict[str, Any]] = {}
        self.result: str | None = None

    def hear(self, line: str) -> None:
        try:
            told: dict[str, Any] = json.loads(line)
        except ValueError:
            told = {"raw_output": True, "msg": line}
        text = str(told.get("msg", ""))
        place = f"{told.get('stage')}:{told.get('stepID') or told.get('stepid')}"
        if "jobResult" in told:
            self.result = str(told["jobResult"])
        elif told.get("raw_output"):
            self._report.line(text.rstrip("\n"))
        elif told.get("command") == "summary":
            self._summary.append(str(told.get("content", "")))
        elif told.get("command") in ("notice", "warning", "error", "debug", "group", "endgroup"):
            self._report.line(f"##[{told['command']}]{told.get('arg', '')}")
        elif "stepResult" in told:
            step = self._open.pop(place, None) or self._report.begin(str(told.get("step")))
            self._report.end(step, str(told["stepResult"]))
        elif text.startswith("\u2b50 Run"):
            name = str(told.get("step", "step"))
            self._open[place] = self._report.begin(name if told.get("stage", "Main") == "Main" else f"{told['stage']} {name}")
            self._report.line(f"##[group]{self._open[place]['name']}\n##[endgroup]")
        elif text.startswith("exit status "):
            self._report.line(f"##[error]Process completed with exit code {text[12:]}.")
        elif told.get("level") in ("error", "warning"):
            self._report.line(f"##[{told['level']}]{text}")


def registration() -> tuple[str, str]:
    """The forge's URL and our token, out of the JIT config; which nobody after us finds in the environment."""
    blob = os.environ.pop("ACTIONS_RUNNER_INPUT_JITCONFIG", "")
    try:
        files: dict[str, str] = json.loads(base64.b64decode(blob))
        settings, credentials = (json.loads(base64.b64decode(files[name])) for name in (".runner", ".credentials"))
        return str(settings["serverUrl"]), str(credentials["data"]["accessToken"])
    except (ValueError, KeyError, TypeError):
        sys.exit("Not configured: ACTIONS_RUNNER_INPUT_JITCONFIG is missing or no JIT config")


def listen(forge: Forge) -> dict[str, Any] | None:
    """The one job; None when the forge removed us before one came."""
    while True:
        try:
            return forge.ask("job", seconds=40.0)
        except (OSError, Told) as error:
            status, reason = (error.status, error.reason) if isinstance(error, Told) else (503, str(error))
            if status == 410 and reason in ("idle", "unused"):
                stamped("Runner was removed: it had no job for too long")
                return None
            if 400 <= status < 500:
                sys.exit(f"The runner registration has been deleted from the server: {reason}")
            time.sleep(1.0 if status >= 500 else 0.0)


def main(given: Sequence[str]) -> int:
    """`given`: where `act` is; else SUBLET_DEMO_ACT says it, or PATH."""
    act = (*given, os.environ.get("SUBLET_DEMO_ACT") or shutil.which("act") or "act")[0]
    forge = Forge(*registration())
    working: list[Work] = []

    def stop(*_: object) -> None:
        if not working:
            sys.exit(0)
        working[0].report.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        forge.ask("session", patient=True, version=VERSION)
    except Told as error:
        say(f"Failed to create a session: {error.reason}")
        return 5 if error.status == 409 else 1  # as actions/runner: 5, the session is another's; 1, not registered
    say(f"\n\u221a Connected to GitHub\n\nCurrent runner version: '{VERSION}'")
    stamped("Listening for Jobs")
    job = listen(forge)
    if job is None:
        return 0
    stamped(f"Running job: {job['name']}")
    working.append(Work(forge, job, act, Path.cwd() / "_work"))
    work, conclusion = working[0], working[0].run()
    work.report.close()
    try:
        steps, summary = work.report.steps, "\n".join(work.summary)
        forge.ask("complete", patient=True, job=job["id"], conclusion=conclusion, steps=steps, summary=summary)
    except Told as error:
        stamped(f"The forge does not take the result: {error.reason}")
    stamped(f"Job {job['name']} completed with result: {RESULTS[conclusion]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
