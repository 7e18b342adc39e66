"""The four forges of the world: what their people do, what they deliver, and the runner programs that they know.

Each is a real server on loopback with real state; `hooked=False` is one that no webhook was ever set up at.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from app.demo import forge as demo
from app.demo.keys import Keys, fresh
from app.demo.nouns import ApiFault, JobSpec
from app.demo.work import Order, Refusal
from app.forges.contract import Forge
from app.forges.forgejo import ForgejoForge
from app.forges.gitea import GiteaForge
from app.forges.github import GitHubForge
from app.forges.gitlab import GitLabForge
from app.kit.clock import Clock, SystemClock
from providers.contract import Secret
from tests.fakes import forgejo, gitea
from tests.fakes.forgejo_state import FINISHED
from tests.fakes.forgejo_state import FakeJob as ForgejoJob
from tests.fakes.gitea_state import ENDED
from tests.fakes.gitea_state import FakeJob as GiteaJob
from tests.fakes.gitlab import FakeGitLab
from tests.fakes.gitlab_state import FakeJob
from tests.fakes.loopback import Fault, Loopback, Reply
from tests.fakes.served import served
from tests.forge_programs import ForgejoProgram, GiteaProgram, GitHubProgram, GitLabProgram, RunnerProgram, Work

__all__ = [
    "Delivery",
    "ForgejoProgram",
    "ForgejoSide",
    "GitHubProgram",
    "GitHubSide",
    "GitLabProgram",
    "GitLabSide",
    "GiteaProgram",
    "GiteaSide",
    "RunnerProgram",
    "Side",
    "Work",
]

Delivery = tuple[dict[str, str], bytes]
SECRET = "webhook-secret-of-the-tests"
THEIRS = "their-own"
ALWAYS = 1_000_000  # faults


class Side(Protocol):
    """One forge of the world. `key` is the forge's own name of a job, as in our job's id."""

    name: str
    forge: Forge

    def queue(self, labels: Sequence[str], repository: str = "acme/train", **values: Any) -> str:
        """Of a workflow that was pushed. `fork`: of a pull request from that repository; `gated`: an approval comes first."""
        ...

    def approve(self, key: str) -> None: ...

    def cancel(self, key: str) -> None: ...

    def rerun(self, key: str, actor: str = "") -> str:
        """The ended job once more; its key, which may be another."""
        ...

    def steal(self, key: str) -> Callable[[], None]:
        """A runner that is not ours takes the queued job; what ends it."""
        ...

    def down(self, broken: bool) -> None:
        """Every question is answered with HTTP 502, from now on or no more."""
        ...

    def deliveries(self) -> list[Delivery]: ...

    def program(self, credential: dict[str, Any]) -> RunnerProgram: ...

    def registered(self) -> list[str]: ...

    def conclusion(self, key: str) -> str | None: ...

    def stop(self) -> None: ...


_KEYS: list[Keys] = []
_COUNT = itertools.count(1)


class GitHubSide:
    """The demo forge, served on loopback because PyGithub speaks HTTP; its deliveries are collected, not sent."""

    name = "github"

    def __init__(self, clock: Clock, *, hooked: bool = True) -> None:
        if not _KEYS:
            _KEYS.append(fresh())  # an RSA key takes long to make; one is enough for all worlds
        self.keys, self._clock = _KEYS[0], clock
        self.state = demo.forge_state()
        self._server = served(demo.build(self.state, self.keys, clock=clock))
        self.state.book.origin = self._server.__enter__()
        if hooked:
            self.state.hook("http://127.0.0.1/hooks/github", clock.now())
        self.deliveries()  # the ping
        self.forge: Forge = GitHubForge(
            webhook_secret=Secret(self.keys.webhook_secret) if hooked else None,
            now=SystemClock().now,
            api_url=f"{self.state.book.origin}/api/v3",
            app_id=str(self.state.book.app_id),
            private_key=Secret(self.keys.app_pem),
            token=Secret(self.keys.token),
        )

    def queue(self, labels: Sequence[str], repository: str = "acme/train", **values: Any) -> str:
        approval = bool(values.pop("needs_approval", False)) or bool(values.pop("gated", False))
        if values.get("fork"):
            values.setdefault("event", "pull_request")
        spec = JobSpec("eval", "eval", list(labels), needs_approval=approval)
        run = self.state.start(Order(repository, "c0ffee" + "0" * 34, [spec], **values), self._clock.now())
        return str(next(job.id for job in self.state.book.jobs.values() if job.run_id == run.id))

    def approve(self, key: str) -> None:
        self.state.approve(int(key), self._clock.now())

    def cancel(self, key: str) -> None:
        self.state.cancel(int(key), self._clock.now())

    def rerun(self, key: str, actor: str = "") -> str:
        return str(self.state.rerun([int(key)], self._clock.now())[0].id)

    def steal(self, key: str) -> Callable[[], None]:
        now, job, session = self._clock.now(), self.state.book.jobs[int(key)], "s" * 64
        scope = f"repos/{self.state.book.runs[job.run_id].repository}"
        minted = self.state.register(scope, f"{THEIRS}-{next(_COUNT)}", job.labels, 1, now)
        self.state.connect(minted.token, session, "2.336.0", now)
        taken = self.state.take(self.state.session(minted.token, session, now), now)
        assert taken is not None and taken.id == job.id

        def end() -> None:
            try:
                self.state.finish(minted.token, session, job.id, "success", self._clock.now())
            except Refusal:
                return  # the forge gave its runner up meanwhile

        return end

    def down(self, broken: bool) -> None:
        self.state.book.faults.api[:] = [ApiFault("/api/", 502, times=ALWAYS)] if broken else []

    def deliveries(self) -> list[Delivery]:
        return self.state.outbox.collect(self._clock.now(), self.keys.webhook_secret)

    def program(self, credential: dict[str, Any]) -> RunnerProgram:
        return GitHubProgram(self, credential["environment"]["ACTIONS_RUNNER_INPUT_JITCONFIG"])

    def registered(self) -> list[str]:
        return [one.name for one in self.state.book.runners.values() if not one.name.startswith(THEIRS)]

    def conclusion(self, key: str) -> str | None:
        return self.state.book.jobs[int(key)].conclusion

    def stop(self) -> None:
        self._server.__exit__(None, None, None)


def _broken(loopback: Loopback, broken: bool) -> None:
    loopback.faults[:] = [Fault(times=ALWAYS, reply=Reply(502, {"message": "Bad Gateway"}))] if broken else []


class GitLabSide:
    """The fake GitLab, on loopback because python-gitlab speaks HTTP."""

    name = "gitlab"

    def __init__(self, clock: Clock, *, hooked: bool = True) -> None:
        self._clock = clock
        self.lab = FakeGitLab(clock.now, webhook_token="hook-token-of-the-tests")
        self.lab.start()
        self._projects: dict[str, int] = {}
        self.forge: Forge = GitLabForge(
            url=self.lab.url,
            token=Secret("glpat-fake-of-the-tests-00"),
            webhook_token=Secret("hook-token-of-the-tests") if hooked else None,
            signing_token=None,
            now=clock.now,
        )

    def queue(self, labels: Sequence[str], repository: str = "acme/train", **values: Any) -> str:
        if values.pop("gated", False):
            values["status"] = "created"
        fork = values.pop("fork", "")
        if fork:
            values["merges"] = self._project(fork)
        return str(self.lab.queue_job(self._project(repository), list(labels), **values).id)

    def _project(self, path: str) -> int:
        if path not in self._projects:
            self._projects[path] = self.lab.add_project(path)
        return self._projects[path]

    def job(self, key: str) -> FakeJob:
        return self.lab.jobs[int(key)]

    def approve(self, key: str) -> None:
        self.lab.enqueue(self.job(key))

    def cancel(self, key: str) -> None:
        self.lab.cancel_job(self.job(key))

    def rerun(self, key: str, actor: str = "") -> str:
        return str(self.lab.retry_job(self.job(key)).id)

    def steal(self, key: str) -> Callable[[], None]:
        job = self.job(key)
        self.lab.start_job(job, 999_999)
        return lambda: self.lab.finish_job(job)

    def down(self, broken: bool) -> None:
        _broken(self.lab.loopback, broken)

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


class GiteaSide:
    """The fake Gitea."""

    name = "gitea"

    def __init__(self, clock: Clock, *, hooked: bool = True) -> None:
        self.server = gitea.FakeGitea(clock.now, webhook_secret=SECRET)
        self.server.start()
        self.forge: Forge = GiteaForge(
            url=self.server.url,
            token=Secret(gitea.TOKEN),
            webhook_secret=Secret(SECRET) if hooked else None,
            now=clock.now,
        )

    def queue(self, labels: Sequence[str], repository: str = "acme/train", **values: Any) -> str:
        if values.get("fork"):
            values.setdefault("event", "pull_request_sync")
        return str(self.server.queue_job(repository, list(labels), **values).id)

    def job(self, key: str) -> GiteaJob:
        return self.server.jobs[int(key)]

    def approve(self, key: str) -> None:
        self.server.approve(self.job(key))

    def cancel(self, key: str) -> None:
        self.server.cancel_job(self.job(key))

    def rerun(self, key: str, actor: str = "") -> str:
        return str(self.server.rerun_job(self.job(key), actor).id)

    def steal(self, key: str) -> Callable[[], None]:
        job = self.job(key)
        self.server.start_job(job, 999_999)
        return lambda: self.server.finish_task(job)

    def down(self, broken: bool) -> None:
        _broken(self.server.loopback, broken)

    def deliveries(self) -> list[Delivery]:
        return self.server.take_outbox()

    def program(self, credential: dict[str, Any]) -> RunnerProgram:
        program = GiteaProgram(self.server, credential)
        assert credential["ready"] in program.output[0]
        return program

    def registered(self) -> list[str]:
        return [one.name for one in self.server.runners.values()]

    def conclusion(self, key: str) -> str | None:
        status = self.job(key).status
        return status if status in ENDED else None

    def stop(self) -> None:
        self.server.stop()


class ForgejoSide:
    """The fake Forgejo, of the development manner, whose webhooks tell of jobs; released ones tell nothing in time."""

    name = "forgejo"

    def __init__(self, clock: Clock, *, hooked: bool = True) -> None:
        self.server = forgejo.FakeForgejo(clock.now, webhook_secret=SECRET)
        self.server.start()
        self.forge: Forge = ForgejoForge(
            url=self.server.url,
            token=Secret(forgejo.TOKEN),
            webhook_secret=Secret(SECRET) if hooked else None,
            now=clock.now,
        )

    def queue(self, labels: Sequence[str], repository: str = "acme/train", **values: Any) -> str:
        values["fork"] = bool(values.pop("fork", ""))
        values["approval"] = values.pop("gated", False)
        return self.server.queue_job(repository, list(labels), **values).handle

    def job(self, key: str) -> ForgejoJob:
        return self.server.jobs[key]

    def approve(self, key: str) -> None:
        self.server.approve(self.job(key).run)

    def cancel(self, key: str) -> None:
        self.server.cancel_job(self.job(key))

    def rerun(self, key: str, actor: str = "") -> str:
        return self.server.rerun_job(self.job(key)).handle

    def steal(self, key: str) -> Callable[[], None]:
        job = self.job(key)
        theirs = self.server.create_runner(THEIRS, job.run.repository, ephemeral=True)
        self.server.declare(theirs.uuid, theirs.token, job.labels)
        assert self.server.fetch_single(theirs.uuid, theirs.token, key) is job
        return lambda: self.server.finish(job)

    def down(self, broken: bool) -> None:
        _broken(self.server.loopback, broken)

    def deliveries(self) -> list[Delivery]:
        return self.server.take_outbox()

    def program(self, credential: dict[str, Any]) -> RunnerProgram:
        program = ForgejoProgram(self.server, credential)
        assert credential["ready"] in program.output
        return program

    def registered(self) -> list[str]:
        return [one.name for one in self.server.runners.values() if one.name != THEIRS]

    def conclusion(self, key: str) -> str | None:
        status = self.job(key).status
        return status if status in FINISHED else None

    def stop(self) -> None:
        self.server.stop()


def side_of(name: str, clock: Clock, *, hooked: bool = True) -> Side:
    """The side of this forge."""
    match name:
        case "github":
            return GitHubSide(clock, hooked=hooked)
        case "gitlab":
            return GitLabSide(clock, hooked=hooked)
        case "gitea":
            return GiteaSide(clock, hooked=hooked)
        case "forgejo":
            return ForgejoSide(clock, hooked=hooked)
        case _:
            raise ValueError(name)
