"""What GitHub's webhooks may have missed: jobs that are open now, and deliveries that failed and can be sent again.

Nothing at GitHub lists the queue of an organisation, so each repository is asked for its runs and
each run for its jobs, by conditional requests: what is unchanged costs nothing of the hourly quota.
GitHub never repeats a failed delivery by itself, and forgets it after three days.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import parse_qs, urlsplit

from app.core.model import Job, JobState, Scope, ScopeKind
from app.forges.answers import UNTOLD_WAIT, Answer, failure, unreadable
from app.forges.budget import Rank
from app.forges.contract import ForgeDown, ForgeError, ForgeRefused, HeldBack, Missed
from app.forges.github_auth import Purpose
from app.forges.github_calls import PAGE, Call, GitHubCalls, counted
from app.forges.github_payload import REPOSITORY, home, job_of_listing
from app.forges.payload import Table, Unreadable, identity, moment, part, rows, same_address, whole, word, words

OPEN = ("waiting", "pending", "requested", "queued", "in_progress")
"""In the order in which a run goes through them, so that one that moves on meanwhile is met again and not missed."""
SHOWN = 1000  # runs; GitHub shows no more of a filtered search
RUN_PAGES = 2 * SHOWN // PAGE
JOB_PAGES = 20
DELIVERY_PAGES = 60
TRIES = 6  # attempts after which a delivery is given up: we answer it, and each time with a refusal
HOOKS_KEPT = timedelta(minutes=30)  # webhooks seldom come and go, nor do rights
_WATCHED = 500  # repositories whose webhooks are looked for, where there is no App
_DELIVERY = re.compile(
    r"/(?:app/hook|(?:orgs/[A-Za-z0-9._-]{1,100}|repos/[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100})/hooks/[0-9]{1,19})"
    r"/deliveries/[0-9]{1,19}"
)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One try to deliver."""

    id: str
    guid: str
    at: datetime
    arrived: bool
    event: str


class GitHubPolls:
    """Looks for what did not come. Safe to share between threads."""

    def __init__(self, calls: GitHubCalls, hook_url: str, named: Sequence[str] = ()) -> None:
        """`hook_url` is where deliveries come; without an App, only webhooks with this address are looked into.

        `named`: repositories whose webhooks are looked into before GitHub was asked about them."""
        self._calls, self._hook_url = calls, hook_url
        self._forge = calls.wire.forge
        self._lock = threading.Lock()
        self._watched: OrderedDict[str, None] = OrderedDict.fromkeys(named[:_WATCHED])
        self._hooks: dict[str, tuple[datetime, tuple[str, ...] | ForgeRefused]] = {}

    def open_jobs(self, repository: str, installation: str) -> list[Job]:
        """Every job of the repository that waits or runs; the whole listing, or an error."""
        scope = Scope(ScopeKind.REPOSITORY, repository)
        call = Call(scope, Purpose.JOBS, Rank.POLL, f"list the open jobs of {repository}", installation)
        place = home(scope)
        runs: dict[str, Job] = {}
        for status in OPEN:
            runs |= {run.run_id: run for run in self._runs(call, place, status)}
        found: dict[str, Job] = {}
        for run in runs.values():
            for job in self._jobs(call, f"{place}/actions/runs/{run.run_id}/jobs", run):
                if job.state is not JobState.COMPLETED:
                    found[job.id] = job
        self.watch(repository)
        return list(found.values())

    def watch(self, repository: str) -> None:
        """GitHub has answered about this repository: without an App, its webhooks are to be looked into."""
        with self._lock:
            self._watched[repository] = None
            self._watched.move_to_end(repository)
            while len(self._watched) > _WATCHED:
                self._watched.popitem(last=False)

    def _runs(self, call: Call, place: str, status: str) -> list[Job]:
        """The runs of one status, each as what its jobs have in common."""

        def reading(answer: Answer) -> tuple[int, list[Job]]:
            return counted(answer, "workflow_runs", lambda row: _run(self._forge, call, row))

        found: dict[str, Job] = {}
        for page in range(1, RUN_PAGES + 1):
            query: dict[str, str | int] = {"status": status, "per_page": PAGE, "page": page, "exclude_pull_requests": "true"}
            total, more = self._calls.page(call, f"{place}/actions/runs", query, reading)
            if total > SHOWN:
                raise ForgeDown(
                    f"{self._forge} shows {SHOWN} of {total} {status} runs of {call.scope.path}: the rest is hidden"
                )
            found |= {run.run_id: run for run in more}
            if len(found) >= total:
                return list(found.values())
            if not more:
                break
        raise ForgeDown(f"The {status} runs of {call.scope.path} changed while {self._forge} listed them")

    def _jobs(self, call: Call, path: str, run: Job) -> list[Job]:
        def reading(answer: Answer) -> tuple[int, list[Job]]:
            return counted(answer, "jobs", lambda row: job_of_listing(run, row))

        found: dict[str, Job] = {}
        for page in range(1, JOB_PAGES + 1):
            query: dict[str, str | int] = {"filter": "latest", "per_page": PAGE, "page": page}
            total, more = self._calls.page(call, path, query, reading)
            found |= {job.key: job for job in more}
            if len(found) >= total:
                return list(found.values())
            if not more:
                break
        raise ForgeDown(f"The jobs of run {run.run_id} of {call.scope.path} changed while {self._forge} listed them")

    def missed(self, since: datetime) -> list[Missed]:
        """Of the App's webhook; without an App, of the webhooks of the repositories that are polled and of their owners."""
        since = since.replace(microsecond=0)  # GitHub tells whole seconds
        if self._calls.auth.apps:
            found = self._failed("/app/hook/deliveries", since)
        else:
            found = [one for place in self._own_hooks() for one in self._failed(f"{place}/deliveries", since)]
        return sorted(found, key=lambda one: one.at)

    def redeliver(self, missed: Missed) -> None:
        """One attempt more of a delivery; one that GitHub no longer has is no error."""
        if not _DELIVERY.fullmatch(missed.id):
            raise ForgeRefused("This is no delivery of GitHub's.")
        deed = "send a delivery again"
        answer = self._send("POST", f"{missed.id}/attempts", deed, {}, creates=True)
        if answer.status not in (200, 201, 202, 404):
            raise failure(self._forge, deed, answer, self._calls.wire.now())

    def _failed(self, path: str, since: datetime) -> list[Missed]:
        """The job deliveries of one webhook that failed since then and of which no attempt arrived."""
        attempts = self._attempts(path, since, "failure")
        lost = {one.guid for one in attempts if one.event == "workflow_job"}
        if not lost:
            return []
        oldest = min(one.at for one in attempts if one.guid in lost)
        arrived = {one.guid for one in self._attempts(path, oldest, "success", enough=lost)}
        last: dict[str, _Attempt] = {}
        tries: dict[str, int] = {}
        for one in attempts:
            if one.guid in lost - arrived:
                last[one.guid] = max(one, last.get(one.guid, one), key=lambda attempt: attempt.at)
                tries[one.guid] = tries.get(one.guid, 0) + 1
        return [Missed(f"{path}/{one.id}", guid, one.at) for guid, one in last.items() if tries[guid] < TRIES]

    def _attempts(self, path: str, since: datetime, status: str, enough: set[str] | None = None) -> list[_Attempt]:
        """Attempts since then, newest first; no further than where all guids of `enough` were met.

        A log that is longer than we read is cut: to ask for a delivery that did arrive is harmless."""
        deed = "list the deliveries to our webhook"
        query: dict[str, str | int] = {"status": status, "per_page": PAGE}
        found: list[_Attempt] = []
        for _ in range(DELIVERY_PAGES):
            answer = self._send("GET", path, deed, query)
            if answer.status in (403, 404):
                raise self._out_of_reach(answer)
            if answer.status != 200:
                raise failure(self._forge, deed, answer, self._calls.wire.now())
            try:
                page = [_attempt(row) for row in rows(answer.body, "the answer")]
            except Unreadable as error:
                raise unreadable(self._forge, deed, error) from None
            found += [one for one in page if one.at >= since]
            onward = cursor(answer.headers.get("link", ""))
            done = enough is not None and enough <= {one.guid for one in found}
            if done or not onward or not page or page[-1].at < since:
                break
            query["cursor"] = onward
        return found

    def _own_hooks(self) -> list[str]:
        """The webhooks whose address is ours, as parts of a URL. Raises ForgeRefused where none can be seen."""
        if not self._hook_url:
            raise ForgeRefused("Which webhook is ours cannot be told: the service does not know its own public address.")
        with self._lock:
            watched = list(self._watched)
        if not watched:
            raise HeldBack("Which webhooks to look into is known once GitHub was asked about a repository.", wait=UNTOLD_WAIT)
        owners = dict.fromkeys(Scope(ScopeKind.ORGANIZATION, name.partition("/")[0]) for name in watched)
        places = [*(Scope(ScopeKind.REPOSITORY, name) for name in watched), *owners]
        found: list[str] = []
        refused: ForgeError | None = None
        for scope in places:
            try:
                found += self._hooks_of(home(scope))
            except ForgeRefused as error:
                refused = refused or error
        if not found and refused is not None:
            raise refused
        return found

    def _hooks_of(self, place: str) -> tuple[str, ...]:
        """Our webhooks of a repository or organisation. Raises ForgeRefused, ForgeDown."""
        now = self._calls.wire.now()
        with self._lock:
            at, known = self._hooks.get(place, (now, None))
        if known is None or not timedelta(0) <= now - at < HOOKS_KEPT:
            try:
                known = self._look_for_hooks(place)
            except ForgeRefused as error:
                known = error
            with self._lock:
                if len(self._hooks) > 2 * _WATCHED:
                    self._hooks.clear()
                self._hooks[place] = (now, known)
        if isinstance(known, ForgeRefused):
            raise known.with_traceback(None)
        return known

    def _look_for_hooks(self, place: str) -> tuple[str, ...]:
        deed = f"list the webhooks of {place.partition('/')[2]}"
        answer = self._send("GET", f"{place}/hooks", deed, {"per_page": PAGE})
        if answer.status == 404 and place.startswith("/orgs/"):
            return ()  # the owner is a person, who has no webhooks
        if answer.status in (403, 404):
            raise self._out_of_reach(answer)
        if answer.status != 200:
            raise failure(self._forge, deed, answer, self._calls.wire.now())
        try:
            hooks = rows(answer.body, "the answer")
            ours = [hook for hook in hooks if same_address(words(part(hook, "config"), "url", 500), self._hook_url)]
            return tuple(f"{place}/hooks/{key}" for key in (identity(hook, "id") for hook in ours) if key)
        except Unreadable as error:
            raise unreadable(self._forge, deed, error) from None

    def _send(self, verb: str, path: str, deed: str, query: dict[str, str | int], *, creates: bool = False) -> Answer:
        """By the App itself, whose webhook it is; without one, by the personal token."""
        auth = self._calls.auth
        by = auth.apps[0].signed() if auth.apps else auth.personal.signed() if auth.personal else None
        if by is None or (path.startswith("/app/") and not auth.apps):
            raise ForgeRefused("This delivery belongs to a GitHub App that is no longer configured.")
        return self._calls.wire.send(by, Rank.POLL, verb, path, deed, query=query, creates=creates)

    def _out_of_reach(self, answer: Answer) -> ForgeError:
        trouble = failure(self._forge, "show the deliveries to our webhook", answer, self._calls.wire.now())
        if isinstance(trouble, ForgeDown):
            return trouble
        needs = (
            "the App's own webhook" if self._calls.auth.apps else "a personal token with admin:repo_hook (or webhooks: write)"
        )
        return ForgeRefused(f"{trouble} To send failed deliveries again takes {needs}.")


def _run(forge: str, call: Call, raw: Table) -> Job:
    """What a workflow run says of all its jobs. Raises Unreadable."""
    key, place = identity(raw, "id"), part(raw, "repository")
    if not key:
        raise Unreadable("a run without id")
    return Job(
        id="",
        forge=forge,
        key="",
        repository=whole(place, "full_name", REPOSITORY) or call.scope.path,
        repository_id=identity(place, "id"),
        state=JobState.WAITING,
        run_id=key,
        actor=words(part(raw, "triggering_actor") or part(raw, "actor"), "login", 100),
        installation=call.installation,
    )


def _attempt(raw: Table) -> _Attempt:
    key, guid, at = identity(raw, "id"), words(raw, "guid", 200), moment(raw, "delivered_at")
    if not key or not guid or at is None:
        raise Unreadable("an attempt without id, guid or time")
    return _Attempt(key, guid, at, words(raw, "status", 100) == "OK", word(raw, "event"))


def cursor(links: str) -> str:
    """Where the next page begins, out of a Link header; empty on the last page."""
    for link in links.split(","):
        address, _, rest = link.strip().partition(">")
        if 'rel="next"' in rest:
            found = parse_qs(urlsplit(address.lstrip("<")).query).get("cursor", [""])[0]
            return found if len(found) <= 500 else ""
    return ""
