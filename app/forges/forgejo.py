"""Forgejo, 15 and later: a runner record for each job, which takes that job and no other.

A record is made by the API, without any registration token; `forgejo-runner one-job --handle` on the machine asks for the one
attempt of the one job that the handle names, and Forgejo forgets record and token when that job is done. Released versions
send webhooks only when a run has ended, which says nothing to us; development ones send each change of a job.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import cast

from app.core.model import Job, Run, Scope, ScopeKind
from app.forges.answers import OnRate, failure
from app.forges.body_signature import BodySignature, hub_digits
from app.forges.budget import Rank
from app.forges.command import command_of
from app.forges.contract import (
    BadDelivery,
    Credential,
    Delivery,
    DeliveryKind,
    ForgeDown,
    ForgeRefused,
    Least,
    Minted,
    Missed,
    Pace,
    RunnerBusy,
    RunnerOrder,
    RunnerView,
)
from app.forges.forgejo_payload import HANDLE, OWNER, PATH, UUID, job_of_event, runner_of_answer
from app.forges.forgejo_polls import ForgejoPolls
from app.forges.gitea_wire import GiteaWire
from app.forges.payload import LABELS, Table, Unreadable, identity, is_identity, load, rows, whole, words
from providers.contract import Secret

OLDEST = 15  # runner records by the API, handles of jobs
OLDEST_RUNNER = "12.8.0"  # one-job with --handle, --uuid and --token-url
FILE = "runner-token"  # of the credential: the only place that its token is in
TOKEN_URL = f"file:///proc/self/cwd/{FILE}"
"""The runner takes absolute paths only (internal/pkg/config: resolveFileSecret), and it starts in the folder with the file."""
READY = "single task poller launched"
BEGUN = "successfully fetched one task"
"""forgejo-runner internal/app/poll/single.go prints each once: before it first asks for the job, and when it has it."""

_EVENT = re.compile(r"[a-z][a-z0-9_]{0,59}")
_TOKEN = re.compile(r"[\x21-\x7e]{8,4096}")


class ForgejoForge:
    """One Forgejo, by an access token. Implements `app.forges.contract.Forge`."""

    kind = "forgejo"
    always_2xx = False
    single_use = True
    pinned = True
    wide = True
    reruns_in_place = False

    def __init__(
        self,
        *,
        url: str,
        token: Secret,
        now: Callable[[], datetime],
        webhook_secret: Secret | None = None,
        webhook_secret_previous: Secret | None = None,
        name: str = "forgejo",
        timeout: timedelta = timedelta(seconds=20),
        on_rate: OnRate | None = None,
    ) -> None:
        """Without a webhook secret no delivery is taken: Forgejo is polled only.

        Raises ValueError for a blank secret or token, or an address that is none."""
        self.name = name
        self._signature = BodySignature("Forgejo", webhook_secret, webhook_secret_previous)
        self._wire = GiteaWire(name, "Forgejo", url, token, timeout, now, on_rate)
        self._polls = ForgejoPolls(self._wire)

    def parse(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        """The delivery, or BadSignature (not authentic), or BadDelivery (authentic, and unreadable).

        Headers are not signed, so what came is decided by the body; a delivery that comes again has the same body."""
        given = headers.get("x-forgejo-signature")
        self._signature.judge("X-Forgejo-Signature", hub_digits(headers) if given is None else given, body)
        guid = f"sha256-{hashlib.sha256(body).hexdigest()}"
        told = next((headers[name] for name in ("x-forgejo-event-type", "x-forgejo-event") if headers.get(name)), "")
        event = told if _EVENT.fullmatch(told) else ""
        try:
            content = load(body)
            if "job" not in content and not event.startswith("workflow_job"):
                note = "not an event that we act on: released versions of Forgejo send none about jobs that wait"
                return Delivery(self.name, guid, DeliveryKind.IGNORED, event, words(content, "action", 60), note=note)
            job, status = job_of_event(self.name, content)
        except Unreadable as error:
            hint = " Set the webhook's content type to application/json." if body.startswith(b"payload=") else ""
            raise BadDelivery(f"Forgejo's delivery cannot be read: {error}.{hint}") from None
        return Delivery(self.name, guid, DeliveryKind.JOB, event or "workflow_job", status, job)

    def unfit(self, labels: Sequence[str]) -> str:
        colon = next((label for label in labels if ":" in label), "")
        if colon:
            return (
                f"Forgejo's runner cannot carry the label {colon[:100]!r}: it reads what follows a colon as the way to run "
                "the job. Give the pool a plain label for it (a pool of its own: `gpus-4`), and write that in `runs-on`."
            )
        if not 1 <= len(labels) <= LABELS or any("," in label or not label.strip() for label in labels):
            return f"A Forgejo runner takes 1 to {LABELS} labels, none blank and none with a comma."
        return ""

    def fetch_job(self, job: Job) -> Job | None:
        return self._polls.fetch_job(job)

    def fetch_run(self, job: Job) -> Run | None:
        return self._polls.fetch_run(job)

    def open_jobs(self, place: str, installation: str = "") -> Sequence[Job]:
        return self._polls.open_jobs(place)

    def repositories(self, owner: str, installation: str = "") -> Sequence[str]:
        return self._polls.repositories(owner)

    def missed(self, since: datetime) -> Sequence[Missed] | None:
        """None: Forgejo's API shows no log of deliveries, so that only the poll finds what they missed."""
        return None

    def redeliver(self, missed: Missed) -> None:
        raise ForgeRefused("Forgejo's API cannot send a delivery again.")

    def pace(self) -> Pace:
        return self._wire.pace()

    def mint_runner(self, order: RunnerOrder) -> Minted:
        """A record for the order's one job, and the command that serves it.

        Names are not unique: a lost answer (ForgeDown) leaves a record that nobody has the token of, to be found by its
        name and removed; minting again makes another."""
        deed = f"create runner {order.name} for {order.scope}"
        no = self.unfit(order.labels)
        if no:
            raise ForgeRefused(no)
        if not HANDLE.fullmatch(order.job):
            raise ForgeRefused("A Forgejo runner is made for one job, and the order names the handle of none.")
        place = _place(order.scope)
        self._need_version()
        body: dict[str, object] = {"name": order.name, "ephemeral": True}
        if order.description:
            body["description"] = order.description[:1024]
        values = {
            "url": self._wire.url,
            "uuid": "",
            "handle": order.job,
            "name": order.name,
            "labels": ",".join(f"{label}:host" for label in order.labels),
            "idle_seconds": str(max(1, int(order.idle_limit.total_seconds()))),
            "token_url": TOKEN_URL,
        }
        command_of(order, (), values)  # a template that cannot be filled in is found out before a record is made
        answer = self._wire.send(Rank.CREDENTIAL, "POST", f"{place}/actions/runners", deed, body=body)
        if answer.status == 404:
            raise ForgeRefused(
                f"Forgejo has no {order.scope.kind} {order.scope.path} for runners, or shows it not to our token; a person "
                "is no organisation: their runners are registered with the repository."
            )
        runner_id, uuid, token = self._wire.read(answer, (200, 201), deed, _created)
        usual = ["forgejo-runner", "one-job", "--url", "{url}", "--uuid", "{uuid}", "--token-url", "{token_url}"]
        usual += [word for label in order.labels for word in ("--label", f"{label}:host")]
        command = command_of(order, (*usual, "--handle", "{handle}", "--wait"), {**values, "uuid": uuid})
        least = Least(
            command=(command[0], "--version"),
            version=OLDEST_RUNNER,
            why=f"Forgejo serves a single job to forgejo-runner {OLDEST_RUNNER} or later: install a newer one there.",
        )
        return Minted(runner_id, Credential(command, files={FILE: token}, ready=READY, begun=BEGUN, least=least))

    def runner(self, scope: Scope, runner_id: str, installation: str = "") -> RunnerView | None:
        return self._runner(Rank.LOOK, scope, runner_id, f"show runner {runner_id}")

    def runners(self, scope: Scope, prefix: str, installation: str = "") -> Sequence[RunnerView]:
        path, deed = f"{_place(scope)}/actions/runners", f"list the runners of {scope}"
        found = self._wire.listing(Rank.LOOK, path, deed, _records)
        if found is None:
            raise ForgeRefused(f"Forgejo has no {scope.kind} {scope.path} for runners, or shows it not to our token.")
        return [one for one in found if one.name.startswith(prefix)]

    def job_started(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        """Nothing: the record is good for its one job only."""

    def remove_runner(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        """Look first: Forgejo itself would delete a record that has a job. Raises RunnerBusy."""
        deed = f"remove runner {runner_id}"
        view = self._runner(Rank.REMOVAL, scope, runner_id, deed)
        if view is None:
            return
        if view.busy:
            raise RunnerBusy(f"{self.name} says that runner {runner_id} has a job.")
        answer = self._wire.send(Rank.REMOVAL, "DELETE", _record(scope, runner_id), deed)
        if answer.status not in (200, 204, 404):
            raise failure(self.name, deed, answer, self._wire.now())

    def light_beacon(self, scope: Scope, labels: tuple[str, ...], known: Credential | None, runner_id: str) -> Minted | None:
        """None: a job waits a day for its runner, whether one is online or not (ABANDONED_JOB_TIMEOUT)."""
        return None

    def check(self) -> str:
        """The server's version, and whose token it is. Raises ForgeRefused, ForgeDown."""
        version = ".".join(map(str, self._need_version()))
        deed = "take the token"
        answer = self._wire.send(Rank.LOOK, "GET", "/user", deed)
        if answer.status == 403 and not isinstance(failure(self.name, deed, answer, self._wire.now()), ForgeDown):
            return f"{self.name}: Forgejo {version}; whose token it is remains untold, it lacks read:user."
        owner = self._wire.read(answer, (200,), deed, lambda body: words(body, "login", 100))
        late = " It does not say which run a job belongs to: 16 does." if version.startswith("15.") else ""
        return f"{self.name}: Forgejo {version}, and the token of {owner} is good.{late}"

    def _need_version(self) -> tuple[int, ...]:
        """The server's version. Raises ForgeRefused for one that has no runners for single jobs."""
        version = self._wire.version()
        if not version or version[0] < OLDEST:
            told = ".".join(map(str, version)) or "an unknown version"
            raise ForgeRefused(f"{self._wire.url} says that it is {told}: Sublet needs Forgejo {OLDEST} or later.")
        return version

    def _runner(self, rank: Rank, scope: Scope, runner_id: str, deed: str) -> RunnerView | None:
        answer = self._wire.send(rank, "GET", _record(scope, runner_id), deed)
        return None if answer.status == 404 else self._wire.read(answer, (200,), deed, runner_of_answer)


def _place(scope: Scope) -> str:
    """Where the scope's runners are, as the beginning of a path. Raises ForgeRefused for one that Forgejo cannot have."""
    if scope.kind is ScopeKind.ENTERPRISE:
        return "/admin"  # of the whole instance: for administrators only
    repository = scope.kind is ScopeKind.REPOSITORY
    if not (PATH if repository else OWNER).fullmatch(scope.path):
        raise ForgeRefused(f"Forgejo has no {scope.kind} of the name {scope.path[:100]!r}.")
    return f"/{'repos' if repository else 'orgs'}/{scope.path}"


def _record(scope: Scope, runner_id: str) -> str:
    if not is_identity(runner_id):
        raise ForgeRefused("A Forgejo runner's id is a number.")
    return f"{_place(scope)}/actions/runners/{runner_id}"


def _records(body: object) -> list[RunnerView]:
    """One page: a list, or null where it is empty; development versions have wrapped it."""
    if isinstance(body, dict):
        body = cast("Table", body).get("runners")
    return [] if body is None else [runner_of_answer(row) for row in rows(body, "the answer")]


def _created(body: Table) -> tuple[str, str, Secret]:
    key, uuid, token = identity(body, "id"), whole(body, "uuid", UUID), body.get("token")
    if not key or not uuid or not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise Unreadable("it holds no id, no uuid or no token")
    return key, uuid, Secret(token)
