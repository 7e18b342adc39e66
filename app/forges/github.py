"""GitHub (github.com, GHE.com and GitHub Enterprise Server): deliveries in, just-in-time runners out.

A just-in-time runner takes one job of any that match its labels, in its scope; GitHub never pins it
to the job that it was made for. Its config is a secret, works once, and lives for minutes only, so
it is minted when the machine is up (facts: actions/runner #4726, #4248).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from app.core.model import Job, Scope, ScopeKind
from app.forges.answers import Answer, OnRate, failure, unreadable
from app.forges.contract import (
    BadDelivery,
    BadSignature,
    Credential,
    Delivery,
    DeliveryKind,
    ForgeDown,
    ForgeError,
    ForgeRefused,
    Minted,
    NameTaken,
    RunnerBusy,
    RunnerOrder,
    RunnerView,
)
from app.forges.github_auth import GitHubAuth, Purpose
from app.forges.github_payload import ACTIONS, OWNER, REPOSITORY, job_of_answer, job_of_event, runner_of_answer
from app.forges.github_wire import GitHubWire
from app.forges.payload import LABELS, Table, Unreadable, identity, is_identity, load, number, part, rows, table, truth, words
from providers.contract import Secret

COMMAND = ("./run.sh",)
CONFIG = "ACTIONS_RUNNER_INPUT_JITCONFIG"  # read by the runner's CommandSettings.cs in place of --jitconfig
READY = "Listening for Jobs"
DEFAULT_GROUP = 1  # of every repository; an organisation's and an enterprise's is looked up
PAGE = 100
PAGES = 200  # a group holds at most 10,000 runners; more pages than this is a listing that never ends

T = TypeVar("T")

_SIGNATURE = re.compile(rb"sha256=[0-9a-f]{64}")
_GUID = re.compile(r"[\x21-\x7e]{1,200}")
_EVENT = re.compile(r"[a-z_]{1,60}")


class GitHubForge:
    """One GitHub, by an App or a personal token. Implements `app.forges.contract.Forge`."""

    kind = "github"
    always_2xx = False

    def __init__(
        self,
        *,
        webhook_secret: Secret,
        now: Callable[[], datetime],
        webhook_secret_previous: Secret | None = None,
        api_url: str = "https://api.github.com",
        app_id: str = "",
        private_key: Secret | None = None,
        token: Secret | None = None,
        name: str = "github",
        timeout: timedelta = timedelta(seconds=20),
        on_rate: OnRate | None = None,
    ) -> None:
        """Raises ValueError for a blank webhook secret, or where neither App nor token is given."""
        secrets = [webhook_secret] + ([] if webhook_secret_previous is None else [webhook_secret_previous])
        if not all(secret.reveal().strip() for secret in secrets):
            raise ValueError("GitHub's webhook secret is blank: anybody could sign deliveries with it.")
        self.name = name
        self._secrets = tuple(secrets)
        self._wire = GitHubWire(name, api_url, timeout, now, on_rate)
        self._auth = GitHubAuth(self._wire, app_id=app_id, private_key=private_key, token=token)
        self._lock = threading.Lock()
        self._groups: dict[tuple[Scope, str], int] = {}

    def parse(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        """The delivery, or BadSignature (not authentic), or BadDelivery (authentic, and unreadable)."""
        self._authenticate(headers.get("x-hub-signature-256", ""), body)
        event, guid = headers.get("x-github-event", ""), headers.get("x-github-delivery", "")
        if not _EVENT.fullmatch(event):
            raise BadDelivery("The delivery has no X-GitHub-Event header that names an event.")
        if not _GUID.fullmatch(guid):
            raise BadDelivery("The delivery has no X-GitHub-Delivery header that identifies it.")
        if event == "ping":
            return Delivery(self.name, guid, DeliveryKind.PING, event, "")
        try:
            content = load(body)
            action = words(content, "action", 60)
            if event != "workflow_job":
                return Delivery(self.name, guid, DeliveryKind.IGNORED, event, action, note=f"{event} is not an event we act on")
            if action not in ACTIONS:
                return Delivery(self.name, guid, DeliveryKind.IGNORED, event, action, note="an action we do not act on")
            job = job_of_event(self.name, ACTIONS[action], content)
        except Unreadable as error:
            hint = " Set the webhook's content type to application/json." if body.startswith(b"payload=") else ""
            raise BadDelivery(f"GitHub's {event} delivery cannot be read: {error}.{hint}") from None
        return Delivery(self.name, guid, DeliveryKind.JOB, event, action, job)

    def _authenticate(self, signature: str, body: bytes) -> None:
        """HMAC-SHA256 over the raw body, by the current secret or the one before it, in constant time."""
        given = signature.encode("utf-8", "replace")
        if not _SIGNATURE.fullmatch(given):
            raise BadSignature("The delivery carries no X-Hub-Signature-256.")
        fits = False
        for secret in self._secrets:
            made = hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest()
            fits |= hmac.compare_digest(b"sha256=" + made.encode(), given)
        if not fits:
            raise BadSignature

    def fetch_job(self, job: Job) -> Job | None:
        """The job as GitHub has it now; None once it is gone, or no longer ours to see."""
        deed = f"show job {job.key}"
        if not is_identity(job.key):
            raise ForgeRefused("A GitHub job's key is a number.")
        scope = Scope(ScopeKind.REPOSITORY, job.repository)
        answer = self._call(scope, Purpose.JOBS, job.installation, "GET", f"{_home(scope)}/actions/jobs/{job.key}", deed)
        if answer.status in (404, 410):
            return None
        return self._read(answer, 200, deed, lambda body: job_of_answer(job, body))

    def mint_runner(self, order: RunnerOrder) -> Minted:
        """A just-in-time runner with exactly the order's labels: GitHub adds none of its own.

        A lost answer (ForgeDown) leaves an offline record behind that nobody can use; minting again
        under the same name is then NameTaken, which tells the record's id where GitHub shows it.
        """
        if not 1 <= len(order.labels) <= LABELS:
            raise ForgeRefused(f"A GitHub runner takes 1 to {LABELS} labels, not {len(order.labels)}.")
        deed = f"register runner {order.name} for {order.scope}"
        wanted: dict[str, object] = {
            "name": order.name,
            "runner_group_id": self._group(order),
            "labels": list(order.labels),
            "work_folder": "_work",
        }
        path = f"{_home(order.scope)}/actions/runners/generate-jitconfig"
        answer = self._call(order.scope, Purpose.RUNNERS, order.installation, "POST", path, deed, body=wanted)
        if answer.status == 409:
            raise NameTaken(f"{self.name} has a runner {order.name} already", runner_id=self._holder(order))
        if answer.status in (404, 422):
            with self._lock:  # the group may have been replaced by another of its name
                self._groups.pop((order.scope, order.group), None)
        return self._read(answer, 201, deed, lambda body: _minted(order, body))

    def runner(self, scope: Scope, runner_id: str, installation: str = "") -> RunnerView | None:
        deed = f"show runner {runner_id}"
        answer = self._call(scope, Purpose.RUNNERS, installation, "GET", _record(scope, runner_id), deed)
        return None if answer.status == 404 else self._read(answer, 200, deed, runner_of_answer)

    def runners(self, scope: Scope, prefix: str, installation: str = "") -> Sequence[RunnerView]:
        deed = f"list the runners of {scope}"
        path = f"{_home(scope)}/actions/runners"
        found = self._listing(scope, installation, path, "runners", deed, runner_of_answer)
        return [runner for runner in found if runner.name.startswith(prefix)]

    def job_started(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        """Nothing to do: a just-in-time runner takes one job, and GitHub itself removes it after."""

    def remove_runner(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        """Raises RunnerBusy while GitHub says that the runner has a job (HTTP 422)."""
        deed = f"remove runner {runner_id}"
        answer = self._call(scope, Purpose.RUNNERS, installation, "DELETE", _record(scope, runner_id), deed)
        if answer.status == 422:
            raise RunnerBusy(f"{self.name} keeps runner {runner_id}: {answer.said or 'it has a job'}")
        if answer.status not in (200, 204, 404):
            raise failure(self.name, deed, answer, self._wire.now())

    def light_beacon(self, scope: Scope, labels: tuple[str, ...], known: Credential | None, runner_id: str) -> Minted | None:
        """GitHub keeps a queued job for a day whether or not a runner is online: no beacon is needed."""
        return None

    def check(self) -> str:
        """Signs in as the App, and with the personal token where there is one. Raises ForgeRefused, ForgeDown."""
        told: list[str] = []
        app, personal = self._auth.app(), self._auth.personal()
        if app:
            answer = self._wire.send(app, "GET", "/app", "sign the App in")
            told.append(self._read(answer, 200, "sign the App in", _standing))
        if personal:
            answer = self._wire.send(personal, "GET", "/rate_limit", "take the personal token")
            if answer.status not in (200, 404):  # 404: a GitHub Enterprise Server without rate limits
                raise failure(self.name, "take the personal token", answer, self._wire.now())
            left = answer.headers.get("x-ratelimit-remaining", "")
            told.append("the personal token is good" + (f", {left} calls left this hour" if is_identity(left) else ""))
        return f"{self.name}: " + "; ".join(told) + "."

    def _call(
        self,
        scope: Scope,
        purpose: Purpose,
        installation: str,
        verb: str,
        path: str,
        deed: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> Answer:
        """One request; once more with a fresh token where GitHub no longer takes the one we kept."""
        auth = self._auth.narrow(scope, purpose, installation)
        answer = self._wire.send(auth, verb, path, deed, query=query, body=body)
        if answer.status == 401 and self._auth.forget(scope, purpose, installation):
            auth = self._auth.narrow(scope, purpose, installation)
            answer = self._wire.send(auth, verb, path, deed, query=query, body=body)
        return answer

    def _read(self, answer: Answer, wanted: int, deed: str, reading: Callable[[Table], T]) -> T:
        """The content of a success. Raises what any other answer means."""
        if answer.status != wanted:
            raise failure(self.name, deed, answer, self._wire.now())
        try:
            return reading(table(answer.body, "the answer"))
        except Unreadable as error:
            raise unreadable(self.name, deed, error) from None

    def _listing(
        self, scope: Scope, installation: str, path: str, key: str, deed: str, reading: Callable[[Table], T], name: str = ""
    ) -> list[T]:
        """Every page of a listing, or an error: half a listing is none."""
        found: list[T] = []
        for page in range(1, PAGES + 1):
            query: dict[str, str | int] = {"per_page": PAGE, "page": page, **({"name": name} if name else {})}
            answer = self._call(scope, Purpose.RUNNERS, installation, "GET", path, deed, query=query)
            total, more = self._read(answer, 200, deed, lambda body: _page(body, key, reading))
            found += more
            if not more or len(found) >= total:  # a server may give shorter pages than asked for
                return found
        raise ForgeDown(f"{self.name} gave more than {PAGES} pages when asked to {deed}")

    def _group(self, order: RunnerOrder) -> int:
        """The runner group's id. A repository's runners have no groups: GitHub wants 1 there."""
        scope = order.scope
        if scope.kind is ScopeKind.REPOSITORY:
            return DEFAULT_GROUP
        with self._lock:
            known = self._groups.get((scope, order.group))
        if known is not None:
            return known
        deed = f"list the runner groups of {scope}"
        groups = self._listing(
            scope, order.installation, f"{_home(scope)}/actions/runner-groups", "runner_groups", deed, _named_group
        )
        for key, name, is_default in groups:
            if is_default if not order.group else name.casefold() == order.group.casefold():
                with self._lock:
                    self._groups[(scope, order.group)] = key
                return key
        raise ForgeRefused(f"{scope} has no runner group {order.group!r}." if order.group else f"{scope} has no default group.")

    def _holder(self, order: RunnerOrder) -> str:
        """The id of the record that holds the name, if GitHub shows it; looking is a courtesy and never an error."""
        deed = f"look for runner {order.name}"
        path = f"{_home(order.scope)}/actions/runners"
        try:
            found = self._listing(order.scope, order.installation, path, "runners", deed, runner_of_answer, order.name)
        except ForgeError:
            return ""
        return next((runner.runner_id for runner in found if runner.name == order.name), "")


def _home(scope: Scope) -> str:
    """The scope's part of a URL. Raises ForgeRefused for a path that GitHub cannot have."""
    if not (REPOSITORY if scope.kind is ScopeKind.REPOSITORY else OWNER).fullmatch(scope.path):
        raise ForgeRefused(f"GitHub has no {scope.kind} of the name {scope.path[:100]!r}.")
    kinds = {ScopeKind.REPOSITORY: "repos", ScopeKind.ORGANIZATION: "orgs", ScopeKind.ENTERPRISE: "enterprises"}
    return f"/{kinds[scope.kind]}/{scope.path}"


def _record(scope: Scope, runner_id: str) -> str:
    if not is_identity(runner_id):
        raise ForgeRefused("A GitHub runner's id is a number.")
    return f"{_home(scope)}/actions/runners/{runner_id}"


def _page(body: Table, key: str, reading: Callable[[Table], T]) -> tuple[int, list[T]]:
    total = number(body, "total_count")
    if total is None:
        raise Unreadable("it does not say how many there are")
    return total, [reading(row) for row in rows(body.get(key), key)]


def _named_group(row: Table) -> tuple[int, str, bool]:
    key = identity(row, "id")
    if not key:
        raise Unreadable("a runner group without id")
    return int(key), words(row, "name", 200), truth(row, "default") is True


def _minted(order: RunnerOrder, body: Table) -> Minted:
    key, config = identity(part(body, "runner"), "id"), body.get("encoded_jit_config")
    if not key or not isinstance(config, str) or not config:
        raise Unreadable("it holds no runner or no config")
    return Minted(key, Credential(order.command or COMMAND, {CONFIG: Secret(config)}, ready=READY))


def _standing(body: Table) -> str:
    """What the App may do, and what it lacks. Raises ForgeRefused where it could not register any runner."""
    held = part(body, "permissions")
    label = words(body, "slug", 100) or words(body, "name", 100)
    if "write" not in (held.get("administration"), held.get("organization_self_hosted_runners")):
        raise ForgeRefused(
            f"The App {label} may register no runner: it needs repository administration: write, "
            "or organization_self_hosted_runners: write."
        )
    if held.get("actions") not in ("read", "write"):
        raise ForgeRefused(f"The App {label} may not read jobs: it needs actions: read.")
    events = body.get("events")
    heard = isinstance(events, list) and "workflow_job" in events
    return f"the App {label} signs in" + ("" if heard else ", but is not subscribed to workflow_job")
