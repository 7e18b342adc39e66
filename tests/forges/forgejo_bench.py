"""The bench of Forgejo: the stateful fake on loopback, held against Forgejo's own description of its API."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

from app.forges.conformance import Fault, Missing, Pair
from app.forges.contract import Credential, Forge, Minted
from app.forges.forgejo import FILE, ForgejoForge
from providers.contract import Secret
from tests.fakes import openapi
from tests.fakes.forgejo import TOKEN, FakeForgejo, OneJob
from tests.fakes.forgejo_state import FINISHED, FakeJob, Unauthenticated
from tests.fakes.loopback import Reply, Request
from tests.forges.tea_bench import OLD, SECRET, TeaBench


class Proxied(FakeForgejo):
    """With a proxy in front, which adds headers of its own."""

    proxy: dict[str, str]

    def answer(self, request: Request) -> Reply:
        reply = super().answer(request)
        return Reply(reply.status, reply.body, {**reply.headers, **self.proxy}, reply.raw)


class ForgejoBench(TeaBench):
    """See the module."""

    name = "forgejo"
    faults = TeaBench.faults - {Fault.HALF_LISTING}  # its list of jobs that wait has no pages
    stands_on = "a stateful fake of a development version, validated against Forgejo's own description (16)"
    secrets: Sequence[str] = (TOKEN, SECRET, OLD)
    minting = "/actions/runners"

    def __init__(self) -> None:
        super().__init__()
        self.server = Proxied(self.now, webhook_secret=SECRET)
        self.server.proxy = self.proxy
        self.server.start()
        self.loopback, self.account = self.server.loopback, self.server.api
        for path in (self.repository, self.other):
            self.server.add_repository(path)

    def forge(self, *, polled: bool = False) -> Forge:
        return ForgejoForge(
            url=self.server.url,
            token=Secret(TOKEN),
            now=self.now,
            webhook_secret=None if polled else Secret(SECRET),
            webhook_secret_previous=None if polled else Secret(OLD),
            timeout=timedelta(seconds=2),
        )

    def queue(self, labels: Sequence[str] = (), *, repository: str = "", waiting: bool = False, fork: bool = False) -> str:
        place = repository or self.repository
        return self.server.queue_job(place, list(labels or self.labels), approval=waiting, fork=fork).handle

    def _job(self, key: str) -> FakeJob:
        return self.server.jobs[key]

    def cancel(self, key: str) -> None:
        self.server.cancel_job(self._job(key))

    def rerun(self, key: str) -> str:
        return self.server.rerun_job(self._job(key)).handle

    def steal(self, key: str) -> None:
        job = self._job(key)
        theirs = self.server.create_runner("theirs", job.run.repository)
        self.server.declare(theirs.uuid, theirs.token, job.labels)
        assert self.server.fetch_any(theirs.uuid, theirs.token) is job

    def conclusion(self, key: str) -> str | None:
        status = self._job(key).status
        return status if status in FINISHED else None

    def crowd(self) -> Sequence[str]:
        return [self.queue() for _ in range(60)]

    def crowd_of_runners(self, prefix: str) -> Sequence[str]:
        home = self.server.add_repository(self.repository)
        return [str(self.server.create_runner(f"{prefix}{place}", home, ephemeral=True).id) for place in range(60)]

    def deliveries(self) -> Sequence[Pair]:
        return self.server.take_outbox()

    def repeated(self, pair: Pair) -> Pair:
        return dict(pair[0]), pair[1]

    def program(self, credential: Credential) -> ForgejoProgram:
        return ForgejoProgram(self.server, credential)

    def token_of(self, minted: Minted) -> str:
        return minted.credential.files[FILE].reveal()

    def labels_of(self, minted: Minted) -> frozenset[str]:
        self.program(minted.credential)
        return frozenset(self.server.runners[int(minted.runner_id)].labels)

    def registered(self) -> Sequence[str]:
        return [one.name for one in self.server.runners.values()]

    def mend(self) -> None:
        self.healed(TOKEN)


class ForgejoProgram:
    """forgejo-runner one-job, from its own command line and its token's file."""

    def __init__(self, server: FakeForgejo, credential: Credential) -> None:
        files = {name: secret.reveal() for name, secret in credential.files.items()}
        self._server = server
        self._one: OneJob | None = None
        with suppress(Unauthenticated):  # its record is gone: the real one ends at once
            self._one = OneJob(server, credential.command, files)

    def take(self) -> str | None:
        job = None if self._one is None else self._one.take()
        return None if job is None else job.handle

    def finish(self, key: str) -> None:
        assert self._one is not None
        self._one.finish(self._server.jobs[key])


class OldForgejoBench(ForgejoBench):
    """A Forgejo 15: its webhooks say nothing of jobs that wait, no job says its run, and no run its jobs."""

    stands_on = "a stateful fake of 15.0, validated against Forgejo's own description (16)"
    faults = ForgejoBench.faults - {Fault.DELIVERIES}

    def __init__(self) -> None:
        super().__init__()
        self.server.age()


@contextmanager
def bench(kind: type[ForgejoBench] = ForgejoBench) -> Generator[ForgejoBench]:
    """`Missing` where the description is not at hand: what is not validated proves little."""
    if not openapi.DATA.is_dir():
        raise Missing("Forgejo's own description of its API is not at hand: clone the shared folder beside the repository")
    stood = kind()
    try:
        yield stood
    finally:
        stood.server.stop()
