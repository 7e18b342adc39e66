"""The four forges' runner programs on a machine, as far as their forges can tell."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from app.demo.nouns import Job as HubJob
from app.demo.nouns import Runner as HubRunner
from app.demo.state import ForgeState
from app.demo.work import Refusal
from tests.fakes.forgejo import OneJob
from tests.fakes.forgejo_state import ForgejoState
from tests.fakes.gitea_state import FakeJob as GiteaJob
from tests.fakes.gitea_state import GiteaState
from tests.fakes.gitlab import FakeGitLab


@dataclass(frozen=True, slots=True)
class Work:
    """A job as the runner program on a machine sees it."""

    key: str  # the forge's job id
    claim: dict[str, Any]  # what the job-started hook says of it; empty: this runner calls no hook
    handle: Any  # the forge's own object
    output: tuple[str, ...] = ()  # what the runner prints as it begins


class RunnerProgram(Protocol):
    """The forge's runner on one machine. `ended` is its exit code once the forge took its registration away."""

    ended: int | None

    def take(self, now: datetime) -> Work | None: ...

    def finish(self, work: Work, success: bool, now: datetime) -> None: ...


class _Hub(Protocol):
    state: ForgeState


class _Lab(Protocol):
    lab: FakeGitLab


class GitHubProgram:
    """actions/runner."""

    def __init__(self, side: _Hub, jit_config: str) -> None:
        files = json.loads(base64.b64decode(jit_config))
        self._side, self._session = side, secrets.token_hex(32)
        self._token = json.loads(base64.b64decode(files[".credentials"]))["data"]["accessToken"]
        self._runner: HubRunner | None = None
        self.ended: int | None = None

    def take(self, now: datetime) -> Work | None:
        state = self._side.state
        state.tick(now)
        try:
            if self._runner is None:
                self._runner = state.connect(self._token, self._session, "2.336.0", now)
            job: HubJob | None = state.take(state.session(self._token, self._session, now), now)
        except Refusal:
            self.ended = 0  # as the real one: removed by the server, and content
            return None
        if job is None:
            return None
        run = state.book.runs[job.run_id]
        claim = {"repository": run.repository, "run_id": str(run.id), "event": run.event, "attempt": run.attempt}
        if run.event == "pull_request":
            claim["head_repository"] = run.head_repository or ""
        return Work(str(job.id), claim, job)

    def finish(self, work: Work, success: bool, now: datetime) -> None:
        self._side.state.finish(self._token, self._session, work.handle.id, "success" if success else "failure", now)


class GitLabProgram:
    """gitlab-runner run-single."""

    def __init__(self, side: _Lab, token: str) -> None:
        self._side, self._token = side, token
        self.ended: int | None = None

    def take(self, now: datetime) -> Work | None:
        lab = self._side.lab
        if lab.by_token(self._token) is None:
            self.ended = 1  # its record was deleted
            return None
        job = lab.request_job(self._token)
        if job is None:
            return None
        path, event = lab.projects[job.project_id].path, lab.pipelines[job.pipeline_id].source
        return Work(str(job.id), {"repository": path, "run_id": str(job.pipeline_id), "event": event}, job)

    def finish(self, work: Work, success: bool, now: datetime) -> None:
        self._side.lab.finish_job(work.handle, "success" if success else "failed")


class GiteaProgram:
    """gitea-runner 3 as a daemon: all it knows is in the files of its credential. It waits for its one job for ever."""

    def __init__(self, server: GiteaState, credential: Mapping[str, Any]) -> None:
        files: Mapping[str, str] = credential["files"]
        told = json.loads(files[".runner"])
        assert told["ephemeral"], "it would take a second job"
        self._server, self._uuid, self._token = server, str(told["uuid"]), str(told["token"])
        self._hooked = 'ACTIONS_RUNNER_HOOK_JOB_STARTED: "{hook}"' in files["config.yaml"]
        self.ended: int | None = None
        labels = [str(label).removesuffix(":host") for label in told["labels"]]
        server.connect(self._uuid, self._token, labels)
        self.output = [f"runner: {told['name']}, with version: v3.3.0, with labels: {labels}, declare successfully"]

    def take(self, now: datetime) -> Work | None:
        """Once its record was deleted it asks in vain, and goes on to."""
        job = self._server.request_task(self._uuid, self._token)
        if job is None:
            return None
        path = self._server.repositories[job.repository_id].path
        claim = self._claim(job, path) if self._hooked else {}
        return Work(str(job.id), claim, job, (f"task {job.id} repo is {path} https://gitea.com",))

    def _claim(self, job: GiteaJob, path: str) -> dict[str, Any]:
        run = self._server.runs[job.run_id]
        event = "pull_request" if run.event == "pull_request_sync" else run.event
        claim: dict[str, Any] = {"repository": path, "run_id": str(run.id), "event": event, "attempt": job.attempt}
        if event == "pull_request":
            pull = self._server.pulls[run.repository_id, int(run.ref.split("/")[2])]
            claim["head_repository"] = "" if pull.head is None else self._server.repositories[pull.head].path
        return claim

    def finish(self, work: Work, success: bool, now: datetime) -> None:
        if work.handle.status == "running":  # else it was cancelled meanwhile
            self._server.finish_task(work.handle, "success" if success else "failure")
        self.ended = 0


class ForgejoProgram:
    """forgejo-runner one-job, from its command line and its token's file. It calls no hook."""

    def __init__(self, server: ForgejoState, credential: Mapping[str, Any]) -> None:
        self._one = OneJob(server, credential["command"], credential["files"])
        self.output = self._one.output
        self.ended: int | None = None

    def take(self, now: datetime) -> Work | None:
        said = len(self.output)
        job = self._one.take()
        self.ended = self._one.ended
        return None if job is None else Work(job.handle, {}, job, tuple(self.output[said:]))

    def finish(self, work: Work, success: bool, now: datetime) -> None:
        self._one.finish(work.handle, "success" if success else "failure")
        self.ended = self._one.ended
