"""The bench of GitLab: the stateful fake on loopback, held against GitLab's own description of its API."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from app.core.model import Scope, ScopeKind
from app.forges.conformance import Fault, Missing, Pair, Signing
from app.forges.contract import Credential, Forge, Minted
from app.forges.gitlab import BEACON, TOKEN, GitLabForge
from providers.contract import Secret
from tests.fakes import openapi
from tests.fakes.gitlab import TOKEN as ACCOUNT
from tests.fakes.gitlab import FakeGitLab, sign, signing_token
from tests.fakes.gitlab_state import FakeJob
from tests.forges.spoiled import ALWAYS, ELSEWHERE, OnlyFirstPages, spoil

HOOK = "https://sublet.example/hooks/gitlab"


class GitLabBench:
    """See the module."""

    name = "gitlab"
    stands_on = "a stateful fake, validated against GitLab's own openapi_v2.yaml"
    faults = frozenset(Fault) - {Fault.OLD_SECRET, Fault.CONDITIONAL}  # GitLab's page shows one secret, and it gives no ETags
    signatures: Sequence[str] = ("webhook-signature",)
    repository = "acme/train"
    other, owner = "acme/serve", "acme"
    scopes: Sequence[Scope] = (Scope(ScopeKind.REPOSITORY, "acme/train"), Scope(ScopeKind.ORGANIZATION, "acme"))
    labels: tuple[str, ...] = ("gpu", "rubin")
    actor = "ann"

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
        self.signing = signing_token()
        self.secrets: Sequence[str] = (ACCOUNT, self.signing)
        self.lab = FakeGitLab(lambda: self.time, signing_token=self.signing)
        self.lab.start()
        self.projects = {path: self.lab.add_project(path) for path in (self.repository, self.other)}
        self.lab.hooks.add(self.projects[self.repository], HOOK)

    def forge(self, *, polled: bool = False) -> Forge:
        return GitLabForge(
            url=self.lab.url,
            token=Secret(ACCOUNT),
            signing_token=None if polled else Secret(self.signing),
            now=lambda: self.time,
            hook_url=HOOK,
            timeout=timedelta(seconds=2),
        )

    def queue(self, labels: Sequence[str] = (), *, repository: str = "", waiting: bool = False, fork: bool = False) -> str:
        project = self.projects[repository or self.repository]
        status = "created" if waiting else "pending"
        merges = self.projects[self.other] if fork else None
        return str(self.lab.queue_job(project, list(labels or self.labels), status=status, merges=merges).id)

    def _job(self, key: str) -> FakeJob:
        return self.lab.jobs[int(key)]

    def cancel(self, key: str) -> None:
        self.lab.cancel_job(self._job(key))

    def rerun(self, key: str) -> str:
        return str(self.lab.retry_job(self._job(key)).id)

    def steal(self, key: str) -> None:
        job = self._job(key)
        self.lab.start_job(job, self._record("theirs", job.tags))

    def _record(self, name: str, tags: Sequence[str]) -> int:
        made = self.lab.create_runner(
            description=name,
            runner_type="project_type",
            project_id=self.projects[self.repository],
            group_id=None,
            tags=tuple(tags),
            run_untagged=False,
            locked=True,
            paused=False,
            maximum_timeout=None,
            note="",
        )
        return made.id

    def conclusion(self, key: str) -> str | None:
        return {"success": "success", "failed": "failure", "canceled": "cancelled"}.get(self._job(key).status)

    def crowd(self) -> Sequence[str]:
        self.lab.api.page_cap = 5
        return [self.queue() for _ in range(12)]

    def crowd_of_runners(self, prefix: str) -> Sequence[str]:
        self.lab.api.page_cap = 5
        return [str(self._record(f"{prefix}{place}", self.labels)) for place in range(12)]

    def deliveries(self) -> Sequence[Pair]:
        return self.lab.take_outbox()

    def repeated(self, pair: Pair) -> Pair:
        self.lab.again(pair)
        return self.lab.take_outbox()[-1]

    def signed(self, pair: Pair, by: Signing) -> Pair:
        token = self.signing if by is Signing.CURRENT else signing_token("somebody else's")
        return pair[0] | sign(token, pair[0]["idempotency-key"], self.time, pair[1]), pair[1]

    def lose(self) -> None:
        for pair in self.lab.take_outbox():
            self.lab.hooks.note(pair, 0)

    def program(self, credential: Credential) -> GitLabProgram:
        return GitLabProgram(self.lab, credential.environment[TOKEN].reveal())

    def token_of(self, minted: Minted) -> str:
        return minted.credential.environment[TOKEN].reveal()

    def labels_of(self, minted: Minted) -> frozenset[str]:
        return frozenset(self.lab.runners[int(minted.runner_id)].tags)

    def registered(self) -> Sequence[str]:
        return [one.description for one in self.lab.runners.values() if not one.description.startswith(BEACON)]

    def asked(self) -> int:
        return len(self.lab.requests)

    def astray(self) -> int:
        return ELSEWHERE.count

    def spent(self) -> int:
        raise AssertionError("GitLab gives no ETags for jobs")

    def cause(self, fault: Fault) -> None:
        loopback, api = self.lab.loopback, self.lab.api
        match fault:
            case Fault.QUOTA_LOW:
                api.quota_taken = 0.93
            case Fault.TOKEN_EXPIRED:
                api.token = "another"
            case Fault.LOST_REPLY:
                self.lab.fault("/user/runners", "lose answer")
            case Fault.HALF_LISTING | Fault.HALF_RUNNERS:
                loopback.faults.append(OnlyFirstPages(times=ALWAYS))
            case _:
                loopback.faults.append(spoil(fault, {"message": "Retry later"}))

    def mend(self) -> None:
        self.lab.loopback.faults.clear()
        self.lab.api.quota_taken, self.lab.api.token = 0.0, ACCOUNT
        self.time += timedelta(minutes=2)


class GitLabProgram:
    """gitlab-runner run-single --max-builds 1, as far as GitLab can tell: it ends after its one job."""

    def __init__(self, lab: FakeGitLab, token: str) -> None:
        self._lab, self._token = lab, token
        self._ended = False

    def take(self) -> str | None:
        job = None if self._ended else self._lab.request_job(self._token)
        return None if job is None else str(job.id)

    def finish(self, key: str) -> None:
        self._ended = True
        self._lab.finish_job(self._lab.jobs[int(key)])


@contextmanager
def bench() -> Generator[GitLabBench]:
    """`Missing` where the description is not at hand: what is not validated proves little."""
    if not openapi.DATA.is_dir():
        raise Missing("GitLab's own description of its API is not at hand: clone the shared folder beside the repository")
    stood = GitLabBench()
    try:
        yield stood
    finally:
        stood.lab.stop()
