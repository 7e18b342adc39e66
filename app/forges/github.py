"""GitHub (github.com, GHE.com and GitHub Enterprise Server): deliveries in, just-in-time runners out.

A just-in-time runner takes one job of any that match its labels, in its scope; GitHub never pins it
to the job that it was made for. Its config is a secret, works once, and lives for minutes only, so
it is minted when the machine is up (facts: actions/runner #4726, #4248).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from app.core.model import Job, Run, Scope, ScopeKind
from app.forges.answers import OnRate, failure
from app.forges.body_signature import HUB_HEADER, BodySignature, hub_digits
from app.forges.budget import Rank
from app.forges.contract import (
    BadDelivery,
    Credential,
    Delivery,
    DeliveryKind,
    ForgeError,
    ForgeRefused,
    Minted,
    Missed,
    NameTaken,
    Pace,
    RunnerBusy,
    RunnerOrder,
    RunnerView,
)
from app.forges.github_auth import AppKey, GitHubAuth, Purpose
from app.forges.github_calls import Call, GitHubCalls
from app.forges.github_command import command_for, least_of, refuse_old_server
from app.forges.github_payload import ACTIONS, home, job_of_answer, job_of_event, run_of_answer, runner_of_answer
from app.forges.github_polls import GitHubPolls
from app.forges.github_repositories import repositories
from app.forges.github_wire import GitHubWire
from app.forges.payload import LABELS, Table, Unreadable, identity, is_identity, load, part, truth, words
from providers.contract import Secret

CONFIG = "ACTIONS_RUNNER_INPUT_JITCONFIG"  # read by the runner's CommandSettings.cs in place of --jitconfig
READY = "Listening for Jobs"
SERVER = "x-github-enterprise-version"  # a header of every answer of a GitHub Enterprise Server
DEFAULT_GROUP = 1  # of every repository; an organisation's and an enterprise's is looked up

_GUID = re.compile(r"[\x21-\x7e]{1,200}")
_EVENT = re.compile(r"[a-z_]{1,60}")


class GitHubForge:
    """One GitHub, by one App or several, or a personal token. Implements `app.forges.contract.Forge`."""

    kind = "github"
    always_2xx = False
    single_use = True
    pinned = False
    wide = False
    reruns_in_place = False

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        webhook_secret: Secret | None = None,
        webhook_secret_previous: Secret | None = None,
        api_url: str = "https://api.github.com",
        app_id: str = "",
        private_key: Secret | None = None,
        more_apps: Sequence[AppKey] = (),
        token: Secret | None = None,
        hook_url: str = "",
        named: Sequence[str] = (),
        name: str = "github",
        timeout: timedelta = timedelta(seconds=20),
        on_rate: OnRate | None = None,
    ) -> None:
        """The App of `app_id` has the webhook; calls are spread over it and `more_apps`. `hook_url` is where deliveries come.
        `named`: repositories that the settings name in full; with a token, their webhooks are looked into from the start.

        Without a webhook secret no delivery is taken: GitHub is polled only.
        Raises ValueError for a blank webhook secret, or where neither App nor token is given."""
        self.name = name
        self._signature = BodySignature("GitHub", webhook_secret, webhook_secret_previous)
        self._wire = GitHubWire(name, api_url, timeout, now, on_rate)
        if bool(app_id) != bool(private_key):
            raise ValueError("A GitHub App needs both its id and its private key.")
        first = (AppKey(app_id, private_key),) if private_key else ()
        self._auth = GitHubAuth(self._wire, apps=(*first, *more_apps), token=token)
        self._calls = GitHubCalls(self._wire, self._auth)
        self._polls = GitHubPolls(self._calls, hook_url, named)
        self._lock = threading.Lock()
        self._groups: dict[tuple[Scope, str], int] = {}

    def parse(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        """The delivery, or BadSignature (not authentic), or BadDelivery (authentic, and unreadable)."""
        self._signature.judge(HUB_HEADER, hub_digits(headers), body)
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

    def unfit(self, labels: Sequence[str]) -> str:
        return f"A GitHub runner takes at most {LABELS} labels." if len(labels) > LABELS else ""

    def fetch_job(self, job: Job) -> Job | None:
        """The job as GitHub has it now; None once it is gone, or no longer ours to see."""
        deed = f"show job {job.key}"
        if not is_identity(job.key):
            raise ForgeRefused("A GitHub job's key is a number.")
        scope = Scope(ScopeKind.REPOSITORY, job.repository)
        call = Call(scope, Purpose.JOBS, Rank.LOOK, deed, job.installation)
        answer = self._calls.ask(call, "GET", f"{home(scope)}/actions/jobs/{job.key}")
        if answer.status in (404, 410):
            return None
        return self._calls.read(answer, 200, deed, lambda body: job_of_answer(job, body))

    def fetch_run(self, job: Job) -> Run | None:
        """The workflow run; the actor is who set the latest attempt going. A deleted head repository is a fork's."""
        deed = f"show run {job.run_id}"
        if not is_identity(job.run_id):
            raise ForgeRefused("A GitHub run's id is a number.")
        scope = Scope(ScopeKind.REPOSITORY, job.repository)
        call = Call(scope, Purpose.JOBS, Rank.LOOK, deed, job.installation)
        query = {"exclude_pull_requests": "true"}
        answer = self._calls.ask(call, "GET", f"{home(scope)}/actions/runs/{job.run_id}", query=query)
        if answer.status in (404, 410):
            return None
        run = self._calls.read(answer, 200, deed, lambda body: run_of_answer(job, body))
        self._polls.watch(run.repository)
        return run

    def open_jobs(self, place: str, installation: str = "") -> Sequence[Job]:
        return self._polls.open_jobs(place, installation)

    def repositories(self, owner: str, installation: str = "") -> Sequence[str]:
        """Those that our App is installed on; by a personal token those that it is shown. Archived ones are left out."""
        return repositories(self._calls, owner, installation)

    def missed(self, since: datetime) -> Sequence[Missed]:
        return self._polls.missed(since)

    def redeliver(self, missed: Missed) -> None:
        self._polls.redeliver(missed)

    def pace(self) -> Pace:
        return self._auth.pace()

    def mint_runner(self, order: RunnerOrder) -> Minted:
        """A just-in-time runner with exactly the order's labels: GitHub adds none of its own.

        A lost answer (ForgeDown) leaves an offline record behind that nobody can use; minting again
        under the same name is then NameTaken, which tells the record's id where GitHub shows it.
        """
        if not 1 <= len(order.labels) <= LABELS:
            raise ForgeRefused(f"A GitHub runner takes 1 to {LABELS} labels, not {len(order.labels)}.")
        deed = f"register runner {order.name} for {order.scope}"
        command = command_for(order, self._wire.url)
        wanted: dict[str, object] = {
            "name": order.name,
            "runner_group_id": self._group(order),
            "labels": list(order.labels),
            "work_folder": "_work",
        }
        path = f"{home(order.scope)}/actions/runners/generate-jitconfig"
        call = Call(order.scope, Purpose.RUNNERS, Rank.CREDENTIAL, deed, order.installation)
        answer = self._calls.ask(call, "POST", path, body=wanted, creates=True)
        if answer.status == 409:
            raise NameTaken(f"{self.name} has a runner {order.name} already", runner_id=self._holder(order))
        if answer.status in (404, 422):
            with self._lock:  # the group may have been replaced by another of its name
                self._groups.pop((order.scope, order.group), None)
        return self._calls.read(answer, 201, deed, lambda body: self._minted(command, body))

    def _minted(self, command: tuple[str, ...], body: Table) -> Minted:
        key, config = identity(part(body, "runner"), "id"), body.get("encoded_jit_config")
        if not key or not isinstance(config, str) or not config:
            raise Unreadable("it holds no runner or no config")
        least = least_of(command, self._wire.url)
        return Minted(key, Credential(command, {CONFIG: Secret(config)}, ready=READY, least=least))

    def runner(self, scope: Scope, runner_id: str, installation: str = "") -> RunnerView | None:
        deed = f"show runner {runner_id}"
        call = Call(scope, Purpose.RUNNERS, Rank.LOOK, deed, installation)
        answer = self._calls.ask(call, "GET", _record(scope, runner_id))
        return None if answer.status == 404 else self._calls.read(answer, 200, deed, runner_of_answer)

    def runners(self, scope: Scope, prefix: str, installation: str = "") -> Sequence[RunnerView]:
        call = Call(scope, Purpose.RUNNERS, Rank.LOOK, f"list the runners of {scope}", installation)
        found = self._calls.listing(call, f"{home(scope)}/actions/runners", "runners", runner_of_answer)
        return [runner for runner in found if runner.name.startswith(prefix)]

    def job_started(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        """Nothing to do: a just-in-time runner takes one job, and GitHub itself removes it after."""

    def remove_runner(self, scope: Scope, runner_id: str, installation: str = "") -> None:
        """Raises RunnerBusy while GitHub says that the runner has a job (HTTP 422)."""
        deed = f"remove runner {runner_id}"
        call = Call(scope, Purpose.RUNNERS, Rank.REMOVAL, deed, installation)
        answer = self._calls.ask(call, "DELETE", _record(scope, runner_id))
        if answer.status == 422:
            raise RunnerBusy(f"{self.name} keeps runner {runner_id}: {answer.said or 'it has a job'}")
        if answer.status not in (200, 204, 404):
            raise failure(self.name, deed, answer, self._wire.now())

    def light_beacon(self, scope: Scope, labels: tuple[str, ...], known: Credential | None, runner_id: str) -> Minted | None:
        """GitHub keeps a queued job for a day whether or not a runner is online: no beacon is needed."""
        return None

    def check(self) -> str:
        """Signs in as the App, and with the personal token where there is one; is the server new enough?

        Raises ForgeRefused, ForgeDown."""
        told: list[str] = []
        for app in self._auth.apps:
            answer = self._wire.send(app.signed(), Rank.LOOK, "GET", "/app", "sign the App in")
            refuse_old_server(answer.headers.get(SERVER, ""))
            heard = app is self._auth.apps[0]
            told.append(self._calls.read(answer, 200, "sign the App in", lambda body, heard=heard: _standing(body, heard)))
        personal = self._auth.personal
        if personal:
            answer = self._wire.send(personal.signed(), Rank.LOOK, "GET", "/rate_limit", "take the personal token")
            refuse_old_server(answer.headers.get(SERVER, ""))
            if answer.status not in (200, 404):  # 404: a GitHub Enterprise Server without rate limits
                raise failure(self.name, "take the personal token", answer, self._wire.now())
            left = answer.headers.get("x-ratelimit-remaining", "")
            told.append("the personal token is good" + (f", {left} calls left this hour" if is_identity(left) else ""))
        return f"{self.name}: " + "; ".join(told) + "."

    def _group(self, order: RunnerOrder) -> int:
        """The runner group's id. A repository's runners have no groups: GitHub wants 1 there."""
        scope = order.scope
        if scope.kind is ScopeKind.REPOSITORY:
            return DEFAULT_GROUP
        with self._lock:
            known = self._groups.get((scope, order.group))
        if known is not None:
            return known
        call = Call(scope, Purpose.RUNNERS, Rank.CREDENTIAL, f"list the runner groups of {scope}", order.installation)
        groups = self._calls.listing(call, f"{home(scope)}/actions/runner-groups", "runner_groups", _named_group)
        for key, name, is_default in groups:
            if is_default if not order.group else name.casefold() == order.group.casefold():
                with self._lock:
                    self._groups[(scope, order.group)] = key
                return key
        raise ForgeRefused(f"{scope} has no runner group {order.group!r}." if order.group else f"{scope} has no default group.")

    def _holder(self, order: RunnerOrder) -> str:
        """The id of the record that holds the name, if GitHub shows it; looking is a courtesy and never an error."""
        call = Call(order.scope, Purpose.RUNNERS, Rank.LOOK, f"look for runner {order.name}", order.installation)
        path = f"{home(order.scope)}/actions/runners"
        try:
            found = self._calls.listing(call, path, "runners", runner_of_answer, order.name)
        except ForgeError:
            return ""
        return next((runner.runner_id for runner in found if runner.name == order.name), "")


def _record(scope: Scope, runner_id: str) -> str:
    if not is_identity(runner_id):
        raise ForgeRefused("A GitHub runner's id is a number.")
    return f"{home(scope)}/actions/runners/{runner_id}"


def _named_group(row: Table) -> tuple[int, str, bool]:
    key = identity(row, "id")
    if not key:
        raise Unreadable("a runner group without id")
    return int(key), words(row, "name", 200), truth(row, "default") is True


def _standing(body: Table, receives: bool) -> str:
    """What the App may do, and what it lacks; only one App gets the webhook. Raises ForgeRefused where it may do nothing."""
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
    heard = not receives or (isinstance(events, list) and "workflow_job" in events)
    return f"the App {label} signs in" + ("" if heard else ", but is not subscribed to workflow_job")
