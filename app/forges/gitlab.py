"""GitLab (GitLab.com and self-managed): Job Hooks in, one runner record per machine out.

GitLab has no single-job runner. One is made by convention: a record and a token for each machine,
`gitlab-runner run-single --max-builds 1` on it, the record paused as soon as its job starts (a
paused record is given no further job) and deleted after. Whoever reads the token meanwhile can take
jobs of the same tags in the same scope and nothing else; the job itself may (its shell inherits the
runner's environment), which is why the record is paused first.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar
from urllib.parse import quote

from app.core.model import Job, Run, Scope, ScopeKind
from app.forges.answers import Answer, OnRate, failure, unreadable
from app.forges.budget import Rank
from app.forges.contract import (
    BadDelivery,
    Credential,
    Delivery,
    DeliveryKind,
    ForgeDown,
    ForgeRefused,
    Minted,
    Missed,
    Pace,
    RunnerBusy,
    RunnerOrder,
    RunnerView,
)
from app.forges.gitlab_command import TOKEN, command_for, credential_of, refuse_old_server
from app.forges.gitlab_payload import GROUP, PATH, job_of_answer, job_of_event, project_of, runner_of_answer
from app.forges.gitlab_polls import GitLabPolls
from app.forges.gitlab_signature import Authenticity
from app.forges.gitlab_wire import GitLabWire
from app.forges.payload import Table, Unreadable, identity, is_identity, labels, load, rows, table, truth, words
from providers.contract import Secret

BEACON = "sublet-beacon"
TAGS = 50  # of one runner: TAG_LIST_MAX_LENGTH in app/models/ci/runner.rb
SHORTEST_TIMEOUT = 600  # seconds; GitLab refuses a shorter maximum_timeout
PAGE = 100
PAGES = 200
T = TypeVar("T")

_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_TOKEN = re.compile(r"[\x21-\x7e]{8,4096}")
_KINDS: Mapping[ScopeKind, str] = {
    ScopeKind.REPOSITORY: "project_type",
    ScopeKind.ORGANIZATION: "group_type",
    ScopeKind.ENTERPRISE: "instance_type",
}


class GitLabForge:
    """One GitLab, by a personal, group or project access token. Implements `app.forges.contract.Forge`."""

    kind = "gitlab"
    single_use = False
    pinned = False
    wide = False
    reruns_in_place = False
    always_2xx = True  # four 4xx answers in a row and GitLab switches the hook off

    def __init__(
        self,
        *,
        url: str,
        token: Secret,
        now: Callable[[], datetime],
        webhook_token: Secret | None = None,
        signing_token: Secret | None = None,
        hook_url: str = "",
        named: Sequence[str] = (),
        name: str = "gitlab",
        timeout: timedelta = timedelta(seconds=20),
        on_rate: OnRate | None = None,
    ) -> None:
        """`hook_url` is where deliveries come: webhooks with another address are not ours.
        `named`: projects that the settings name in full; their webhooks are looked into from the start.

        Without a webhook token and a signing token no delivery is taken: GitLab is polled only.
        Raises ValueError for blank or malformed secrets."""
        self.name = name
        self._authenticity = Authenticity(webhook_token=webhook_token, signing_token=signing_token, now=now)
        self._wire = GitLabWire(name, url, token, timeout, now, on_rate)
        self._polls = GitLabPolls(self._wire, hook_url, named)

    def parse(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        """The delivery, or BadSignature (not authentic), or BadDelivery (authentic, and unreadable)."""
        signed = self._authenticity.judge(headers, body)
        event = headers.get("x-gitlab-event", "")[:60]
        try:
            content = load(body)
            kind = words(content, "object_kind", 60)
            guid = _dedupe_key(headers, signed, content, body)
            if event not in ("Job Hook", "") or kind != "build":
                if event == "Job Hook":
                    raise Unreadable("a Job Hook's object_kind is build")
                told = re.sub(r"[^A-Za-z_ ]", "", event or kind)
                return Delivery(self.name, guid, DeliveryKind.IGNORED, told, "", note="not an event that we act on")
            job, status = job_of_event(self.name, self._wire.url, content)
        except Unreadable as error:
            raise BadDelivery(f"GitLab's delivery cannot be read: {error}.") from None
        if job is None:
            note = f"nothing follows from a job that is {status}"
            return Delivery(self.name, guid, DeliveryKind.IGNORED, "Job Hook", status, note=note)
        return Delivery(self.name, guid, DeliveryKind.JOB, "Job Hook", status, job)

    def unfit(self, labels: Sequence[str]) -> str:
        if not 1 <= len(labels) <= TAGS or any("," in label for label in labels):
            return f"A GitLab runner takes 1 to {TAGS} tags, and none with a comma."
        return ""

    def fetch_job(self, job: Job) -> Job | None:
        """The job as GitLab has it now, with its tags; None once it is gone, or no longer ours to see."""
        deed = f"show job {job.key}"
        if not is_identity(job.key):
            raise ForgeRefused("A GitLab job's key is a number.")
        answer = self._wire.send(Rank.LOOK, "GET", f"/projects/{project_of(job)}/jobs/{job.key}", deed)
        if answer.status in (404, 410):
            return None
        return self._read(answer, (200,), deed, lambda body: job_of_answer(job, self._wire.url, body, self._wire.now()))

    def fetch_run(self, job: Job) -> Run | None:
        return self._polls.fetch_run(job)

    def open_jobs(self, place: str, installation: str = "") -> Sequence[Job]:
        return self._polls.open_jobs(place)

    def repositories(self, owner: str, installation: str = "") -> Sequence[str]:
        """Those of a group with all its subgroups, or of a person. Archived ones are left out."""
        return self._polls.repositories(owner)

    def missed(self, since: datetime) -> Sequence[Missed]:
        return self._polls.missed(since)

    def redeliver(self, missed: Missed) -> None:
        self._polls.redeliver(missed)

    def pace(self) -> Pace:
        return self._wire.pace()

    def mint_runner(self, order: RunnerOrder) -> Minted:
        """A record with exactly the order's tags, and the command that serves one job with it.

        Names are not unique on GitLab: a lost answer (ForgeDown) leaves a record that nobody has the
        token of, to be found by its description and removed; minting again simply makes another.
        """
        command = command_for(order, self._wire.url)
        limit = order.max_duration
        extra: dict[str, object] = {}
        if limit:
            extra["maximum_timeout"] = max(SHORTEST_TIMEOUT, int(limit.total_seconds()))
        if order.description:
            extra["maintenance_note"] = order.description[:1024]
        runner_id, token = self._create(order.scope, order.name, order.labels, extra)
        return Minted(runner_id, credential_of(order, command, self._wire.url, token))

    def runner(self, scope: Scope, runner_id: str, installation: str = "") -> RunnerView | None:
        deed = f"show runner {runner_id}"
        answer = self._wire.send(Rank.LOOK, "GET", _record(runner_id), deed)
        return None if answer.status == 404 else self._read(answer, (200,), deed, runner_of_answer)

    def runners(self, scope: Scope, prefix: str, installation: str = "") -> Sequence[RunnerView]:
        """Beacons are left out: they belong to no machine."""
        deed = f"list the runners of {scope}"
        if scope.kind is ScopeKind.ENTERPRISE:
            path = "/runners/all"  # for administrators only
        else:
            path = f"/{'projects' if scope.kind is ScopeKind.REPOSITORY else 'groups'}/{_quoted(scope)}/runners"
        found: list[RunnerView] = []
        for page in range(1, PAGES + 1):
            query: dict[str, str | int] = {"type": _KINDS[scope.kind], "per_page": PAGE, "page": page}
            answer = self._wire.send(Rank.LOOK, "GET", path, deed, query=query)
            if answer.status != 200:
                raise failure(self.name, deed, answer, self._wire.now())
            try:
                more = [runner_of_answer(row) for row in rows(answer.body, "the answer")]
            except Unreadable as error:
                raise unreadable(self.name, deed, error) from None
            found += more
            onward = answer.headers.get("x-next-page")
            if not more or onward == "" or (onward is None and len(more) < PAGE):
                return [one for one in found if one.name.startswith(prefix) and not one.name.startswith(f"{BEACON} ")]
        raise ForgeDown(f"{self.name} gave more than {PAGES} pages when asked to {deed}")

    def job_started(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        """Pause the record, so that its token is good for no second job. A record that is gone is no error."""
        deed = f"pause runner {runner_id}"
        answer = self._wire.send(Rank.REMOVAL, "PUT", _record(runner_id), deed, body={"paused": True})
        if answer.status not in (200, 404):
            raise failure(self.name, deed, answer, self._wire.now())

    def remove_runner(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        """Pause first, then look for a job, then delete: GitLab itself would delete a record that has one.

        In this order no job can come between the look and the deletion. Raises RunnerBusy."""
        deed = f"remove runner {runner_id}"
        answer = self._wire.send(Rank.REMOVAL, "PUT", _record(runner_id), deed, body={"paused": True})
        if answer.status == 404:
            return
        busy = self._read(answer, (200,), deed, runner_of_answer).busy
        if busy is None:  # a server that does not yet tell job_execution_status
            answer = self._wire.send(
                Rank.REMOVAL, "GET", f"{_record(runner_id)}/jobs", deed, query={"status": "running", "per_page": 1}
            )
            if answer.status not in (200, 404):  # no answer is no leave to delete
                raise failure(self.name, deed, answer, self._wire.now())
            busy = answer.status == 200 and bool(answer.body)
        if busy:
            raise RunnerBusy(f"{self.name} says that runner {runner_id} has a job.")
        answer = self._wire.send(Rank.REMOVAL, "DELETE", _record(runner_id), deed)
        if answer.status not in (200, 202, 204, 404):
            raise failure(self.name, deed, answer, self._wire.now())

    def light_beacon(self, scope: Scope, labels: tuple[str, ...], known: Credential | None, runner_id: str) -> Minted | None:
        """Keep one record with these tags online that never asks for a job.

        GitLab fails a job that was pending for an hour while no active, online runner matched it; a
        record counts as online for two hours after its last word, and `verify` is such a word
        (gitlab: app/services/ci/stuck_builds/drop_pending_service.rb, lib/api/ci/runner.rb)."""
        token = known.environment.get(TOKEN) if known else None
        if known and token and is_identity(runner_id):
            answer = self._verify(token)
            if answer.status == 200:
                return Minted(runner_id, known)
            if answer.status not in (403, 404, 422):  # gone, or orphaned: make another
                raise failure(self.name, "keep the beacon alive", answer, self._wire.now())
        tags = tuple(sorted(labels, key=lambda label: ":" in label)[:TAGS])  # options such as gpus:8 give way first
        runner_id, token = self._create(scope, f"{BEACON} {' '.join(tags)}"[:255], tags, {})
        with suppress(ForgeDown):  # the record must not be lost for that: the next call verifies it
            self._verify(token)
        return Minted(runner_id, Credential((), {TOKEN: token}))

    def check(self) -> str:
        """Whose token it is, what it may, and until when; is the server new enough? Raises ForgeRefused, ForgeDown."""
        deed = "take the token"
        answer = self._wire.send(Rank.LOOK, "GET", "/personal_access_tokens/self", deed)
        unknown = answer.status == 404  # a kind of token that cannot be asked about itself
        if answer.status == 200 or unknown:
            server = self._wire.send(Rank.LOOK, "GET", "/version", deed)
            if server.status == 200 or unknown:
                refuse_old_server(self._read(server, (200,), deed, lambda body: words(body, "version", 40)))
        return f"{self.name}: " + ("the token is good." if unknown else self._read(answer, (200,), deed, _standing))

    def _verify(self, token: Secret) -> Answer:
        return self._wire.send(Rank.CREDENTIAL, "POST", "/runners/verify", "verify a runner", body={"token": token.reveal()})

    def _create(
        self, scope: Scope, description: str, labels: tuple[str, ...], extra: Mapping[str, object]
    ) -> tuple[str, Secret]:
        """A new runner record: its id and its token, which GitLab shows this once."""
        deed = f"create runner {description} for {scope}"
        if not 1 <= len(labels) <= TAGS or any("," in label or not label for label in labels):
            raise ForgeRefused(f"A GitLab runner that takes no untagged jobs needs 1 to {TAGS} tags without commas.")
        owner: dict[str, object] = {}
        if scope.kind is not ScopeKind.ENTERPRISE:
            key = "project_id" if scope.kind is ScopeKind.REPOSITORY else "group_id"
            owner[key] = self._number(scope)
        body = {
            "runner_type": _KINDS[scope.kind],
            **owner,
            "description": description,
            "tag_list": list(labels),
            "run_untagged": False,
            "locked": True,
            "paused": False,
            **extra,
        }
        return self._read(
            self._wire.send(Rank.CREDENTIAL, "POST", "/user/runners", deed, body=body), (200, 201), deed, _created
        )

    def _number(self, scope: Scope) -> int:
        """The project's or group's id, asked anew each time: a path may come to mean another project."""
        deed = f"find {scope}"
        kind = "projects" if scope.kind is ScopeKind.REPOSITORY else "groups"
        answer = self._wire.send(Rank.CREDENTIAL, "GET", f"/{kind}/{_quoted(scope)}", deed)
        if answer.status == 404:
            raise ForgeRefused(f"GitLab has no {scope.kind} {scope.path}, or shows it not to our token.")
        return self._read(answer, (200,), deed, lambda body: _number_of(scope, body))

    def _read(self, answer: Answer, wanted: tuple[int, ...], deed: str, reading: Callable[[Table], T]) -> T:
        """The content of a success. Raises what any other answer means."""
        if answer.status not in wanted:
            raise failure(self.name, deed, answer, self._wire.now())
        try:
            return reading(table(answer.body, "the answer"))
        except Unreadable as error:
            raise unreadable(self.name, deed, error) from None


def _dedupe_key(headers: Mapping[str, str], signed: bool, content: Table, body: bytes) -> str:
    """The key that stays the same when GitLab sends a delivery again.

    `webhook-id` is what a signature covers; `Idempotency-Key` (17.4) equals it. Before 17.4 the event's
    UUID must do, which recursive hooks share, so job and status come with it."""
    names = ("webhook-id", "idempotency-key") if signed else ("idempotency-key", "webhook-id")
    for name in names:
        value = headers.get(name, "")
        if _KEY.fullmatch(value):
            return value
    event = headers.get("x-gitlab-event-uuid", "")
    if event:
        told = f"{event}\n{content.get('build_id')}\n{content.get('build_status')}".encode("utf-8", "replace")
        return f"event-{hashlib.sha256(told).hexdigest()[:48]}"
    return f"body-{hashlib.sha256(body).hexdigest()[:48]}"


def _quoted(scope: Scope) -> str:
    """The scope's path as one part of a URL. Raises ForgeRefused for a path that GitLab cannot have."""
    if not (PATH if scope.kind is ScopeKind.REPOSITORY else GROUP).fullmatch(scope.path):
        raise ForgeRefused(f"GitLab has no {scope.kind} of the name {scope.path[:100]!r}.")
    return quote(scope.path, safe="")


def _record(runner_id: str) -> str:
    if not is_identity(runner_id):
        raise ForgeRefused("A GitLab runner's id is a number.")
    return f"/runners/{runner_id}"


def _created(body: Table) -> tuple[str, Secret]:
    key, token = identity(body, "id"), body.get("token")
    if not key or not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise Unreadable("it holds no id or no token")
    return key, Secret(token)


def _number_of(scope: Scope, body: Table) -> int:
    path = words(body, "path_with_namespace" if scope.kind is ScopeKind.REPOSITORY else "full_path", 300)
    key = identity(body, "id")
    if not key or path.casefold() != scope.path.casefold():
        raise Unreadable(f"it is not {scope.path}")
    return int(key)


def _standing(body: Table) -> str:
    """What the token may do. Raises ForgeRefused where it could not serve."""
    name, until = words(body, "name", 100), words(body, "expires_at", 40)
    held = set(labels(body, "scopes") or ())
    if truth(body, "active") is False or truth(body, "revoked"):
        raise ForgeRefused(f"GitLab's token {name} is no longer active.")
    lacking = {"read_api", "create_runner", "manage_runner"} - held
    if "api" not in held and lacking:
        raise ForgeRefused(f"GitLab's token {name} lacks the scopes {', '.join(sorted(lacking))} (or api).")
    return f"the token {name} is good" + (f" until {until}." if until else ".")
