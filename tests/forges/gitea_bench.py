"""The bench of Gitea: the stateful fake on loopback, held against Gitea's own description of its API."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from app.forges.conformance import Missing, Pair
from app.forges.contract import Credential, Forge, Minted
from app.forges.gitea import GiteaForge
from providers.contract import Secret
from tests.fakes import openapi
from tests.fakes.gitea import TOKEN, FakeGitea
from tests.fakes.gitea_state import ENDED, FakeJob, Scope
from tests.forges.tea_bench import OLD, SECRET, TeaBench


class GiteaBench(TeaBench):
    """See the module."""

    name = "gitea"
    minting = "RunnerService/Register"

    def __init__(self, version: str = "1.26.1") -> None:
        super().__init__()
        self.stands_on = f"a stateful fake of {version}, validated against Gitea's own description (1.27)"
        self.server = FakeGitea(self.now, webhook_secret=SECRET, version=version)
        self.server.proxy = self.proxy
        self.server.start()
        self.loopback, self.account = self.server.loopback, self.server.api
        for path in (self.repository, self.other):
            self.server.add_repository(path)

    @property
    def secrets(self) -> Sequence[str]:
        """The registration tokens too: whoever has one can register more runners."""
        return (TOKEN, SECRET, OLD, *self.server.tokens.by_token)

    def forge(self, *, polled: bool = False) -> Forge:
        return GiteaForge(
            url=self.server.url,
            token=Secret(TOKEN),
            now=self.now,
            webhook_secret=None if polled else Secret(SECRET),
            webhook_secret_previous=None if polled else Secret(OLD),
            timeout=timedelta(seconds=2),
        )

    def queue(self, labels: Sequence[str] = (), *, repository: str = "", waiting: bool = False, fork: bool = False) -> str:
        event, where = ("pull_request_sync", "mallory/train") if fork else ("push", None)
        place = repository or self.repository
        return str(self.server.queue_job(place, list(labels or self.labels), gated=waiting, event=event, fork=where).id)

    def _job(self, key: str) -> FakeJob:
        return self.server.jobs[int(key)]

    def cancel(self, key: str) -> None:
        self.server.cancel_job(self._job(key))

    def rerun(self, key: str) -> str:
        return str(self.server.rerun_job(self._job(key)).id)

    def steal(self, key: str) -> None:
        self.server.start_job(self._job(key), 999_999)

    def conclusion(self, key: str) -> str | None:
        status = self._job(key).status
        return status if status in ENDED else None

    def crowd(self) -> Sequence[str]:
        self.server.api.page_cap = 5
        return [self.queue() for _ in range(12)]

    def crowd_of_runners(self, prefix: str) -> Sequence[str]:
        self.server.api.page_cap = 5
        home = self.server.add_repository(self.repository)
        token = self.server.tokens.of(Scope(repository_id=home))
        made = [self.server.register(token, f"{prefix}{place}", self.labels, ephemeral=True) for place in range(12)]
        return [str(one.id) for one in made if one is not None]

    def deliveries(self) -> Sequence[Pair]:
        return self.server.take_outbox()

    def repeated(self, pair: Pair) -> Pair:
        return self.server.again(pair)

    def program(self, credential: Credential) -> GiteaProgram:
        return GiteaProgram(self.server, credential)

    def token_of(self, minted: Minted) -> str:
        return str(json.loads(minted.credential.files[".runner"].reveal())["token"])

    def labels_of(self, minted: Minted) -> frozenset[str]:
        self.program(minted.credential)
        return frozenset(self.server.runners[int(minted.runner_id)].labels)

    def registered(self) -> Sequence[str]:
        return [one.name for one in self.server.runners.values()]

    def mend(self) -> None:
        self.healed(TOKEN)


class GiteaProgram:
    """gitea-runner 3 as a daemon, as far as Gitea can tell: all it knows is in the file `.runner`."""

    def __init__(self, server: FakeGitea, credential: Credential) -> None:
        told = json.loads(credential.files[".runner"].reveal())
        self._server, self._uuid, self._token = server, str(told["uuid"]), str(told["token"])
        server.connect(self._uuid, self._token, [str(label).removesuffix(":host") for label in told["labels"]])

    def take(self) -> str | None:
        job = self._server.request_task(self._uuid, self._token)
        return None if job is None else str(job.id)

    def finish(self, key: str) -> None:
        self._server.finish_task(self._server.jobs[int(key)])


@contextmanager
def bench(version: str = "1.26.1") -> Generator[GiteaBench]:
    """`Missing` where the description is not at hand: what is not validated proves little."""
    if not openapi.DATA.is_dir():
        raise Missing("Gitea's own description of its API is not at hand: clone the shared folder beside the repository")
    stood = GiteaBench(version)
    try:
        yield stood
    finally:
        stood.server.stop()
