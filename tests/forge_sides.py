"""The two forges of the world: what they queue, what they deliver, and what their runner programs do on a machine."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from app.demo import forge as demo
from app.demo.keys import Keys, fresh
from app.demo.nouns import Job as HubJob
from app.demo.nouns import JobSpec
from app.demo.nouns import Runner as HubRunner
from app.demo.work import Order, Refusal
from app.forges.contract import Forge
from app.forges.github import GitHubForge
from app.forges.gitlab import GitLabForge
from app.kit.clock import Clock, SystemClock
from providers.contract import Secret
from tests.fakes.gitlab import FakeGitLab
from tests.fakes.gitlab_state import FakeJob
from tests.fakes.served import served

Delivery = tuple[dict[str, str], bytes]


@dataclass(frozen=True, slots=True)
class Work:
    """A job as the runner program on a machine sees it."""

    key: str  # the forge's job id
    claim: dict[str, Any]  # what the job-started hook says of it
    handle: Any  # the forge's own object


class RunnerProgram(Protocol):
    """The forge's runner on one machine. `ended` is its exit code once the forge took its registration away."""

    ended: int | None

    def take(self, now: datetime) -> Work | None: ...

    def finish(self, work: Work, success: bool, now: datetime) -> None: ...


class Side(Protocol):
    """One forge of the world."""

    name: str
    forge: Forge

    def queue(self, labels: Sequence[str], repository: str, **values: Any) -> str: ...

    def cancel(self, key: str) -> None: ...

    def deliveries(self) -> list[Delivery]: ...

    def program(self, credential: dict[str, Any]) -> RunnerProgram: ...

    def registered(self) -> list[str]: ...

    def conclusion(self, key: str) -> str | None: ...

    def stop(self) -> None: ...


_KEYS: list[Keys] = []


class GitHubSide:
    """The demo forge, served on loopback because PyGithub speaks HTTP; its deliveries are collected, not sent."""

    name = "github"

    def __init__(self, clock: Clock) -> None:
        if not _KEYS:
            _KEYS.append(fresh())  # an RSA key takes long to make; one is enough for all worlds
        self.keys, self._clock = _KEYS[0], clock
        self.state = demo.forge_state()
        self._server = served(demo.build(self.state, self.keys, clock=clock))
        self.state.book.origin = self._server.__enter__()
        self.state.hook("http://127.0.0.1/hooks/github", clock.now())
        self.deliveries()  # the ping
        self.forge: Forge = GitHubForge(
            webhook_secret=Secret(self.keys.webhook_secret),
            now=SystemClock().now,
            api_url=f"{self.state.book.origin}/api/v3",
            app_id=str(self.state.book.app_id),
            private_key=Secret(self.keys.app_pem),
            token=Secret(self.keys.token),
        )

    def queue(self, labels: Sequence[str], repository: str = "acme/train", **values: Any) -> str:
        approval = bool(values.pop("needs_approval", False))
        spec = JobSpec("eval", "eval", list(labels), needs_approval=approval)
        run = self.state.start(Order(repository, "c0ffee" + "0" * 34, [spec], **values), self._clock.now())
        return str(next(job.id for job in self.state.book.jobs.values() if job.run_id == run.id))

    def cancel(self, key: str) -> None:
        self.state.cancel(int(key), self._clock.now())

    def deliveries(self) -> list[Delivery]:
        return self.state.outbox.collect(self._clock.now(), self.keys.webhook_secret)

    def program(self, credential: dict[str, Any]) -> RunnerProgram:
        return GitHubProgram(self, credential["environment"]["ACTIONS_RUNNER_INPUT_JITCONFIG"])

    def registered(self) -> list[str]:
        return [runner.name for runner in self.state.book.runners.values()]

    def conclusion(self, key: str) -> str | None:
        return self.state.book.jobs[int(key)].conclusion

    def stop(self) -> None:
        self._server.__exit__(None, None, None)


class GitHubProgram:
    """actions/runner, as far as the forge can tell."""

    def __init__(self, side: GitHubSide, jit_config: str) -> None:
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


class GitLabSide:
    """The fake GitLab, on loopback because python-gitlab speaks HTTP."""

    name = "gitlab"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.lab = FakeGitLab(clock.now, webhook_token="hook-token-of-the-tests")
        self.lab.start()
        self._projects: dict[str, int] = {}
        self.forge: Forge = GitLabForge(
            url=self.lab.url,
            token=Secret("glpat-fake-of-the-tests-00"),
            webhook_token=Secret("hook-token-of-the-tests"),
            signing_token=None,
            now=clock.now,
        )

    def queue(self, labels: Sequence[str], repository: str = "acme/train", **values: Any) -> str:
        if repository not in self._projects:
            self._projects[repository] = self.lab.add_project(repository)
        return str(self.lab.queue_job(self._projects[repository], list(labels), **values).id)

    def job(self, key: str) -> FakeJob:
        return self.lab.jobs[int(key)]

    def cancel(self, key: str) -> None:
        self.lab.cancel_job(self.job(key))

    def deliveries(self) -> list[Delivery]:
        return self.lab.take_outbox()

    def program(self, credential: dict[str, Any]) -> RunnerProgram:
        return GitLabProgram(self, credential["environment"]["CI_SERVER_TOKEN"])

    def registered(self) -> list[str]:
        return [one.description for one in self.lab.runners.values() if not one.description.startswith("sublet-beacon")]

    def conclusion(self, key: str) -> str | None:
        words = {"success": "success", "failed": "failure", "canceled": "cancelled"}
        return words.get(self.job(key).status)

    def stop(self) -> None:
        self.lab.stop()


class GitLabProgram:
    """gitlab-runner run-single, as far as the forge can tell."""

    def __init__(self, side: GitLabSide, token: str) -> None:
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
        path = lab.projects[job.project_id].path
        return Work(str(job.id), {"repository": path, "run_id": str(job.pipeline_id), "event": "push"}, job)

    def finish(self, work: Work, success: bool, now: datetime) -> None:
        self._side.lab.finish_job(work.handle, "success" if success else "failed")
