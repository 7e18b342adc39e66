"""What GitLab's webhooks may have missed: pipelines behind jobs, jobs that are open now, deliveries that can be sent again.

Polls are conditional requests where GitLab sends an ETag: what is unchanged then comes without content.
A project's log of deliveries has no times and shows no more than twenty a page; what it tells of when
a delivery was sent is the job's own times. A resend is made at once, while we wait for its answer,
and GitLab allows five of them a minute for each project or group. Webhooks of groups are for
paying customers; elsewhere GitLab says that there is no such address.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar, cast
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from app.core.model import Job, Run
from app.forges.answers import UNTOLD_WAIT, Answer, failure, unreadable
from app.forges.budget import Rank, Sliding
from app.forges.contract import ForgeDown, ForgeError, ForgeRefused, HeldBack, Missed
from app.forges.gitlab_payload import GROUP, MERGE_REQUEST, PATH, job_of_listing, project_of, run_of_answer
from app.forges.gitlab_wire import GitLabWire
from app.forges.payload import (
    Table,
    Unreadable,
    identity,
    is_identity,
    moment,
    part,
    rows,
    same_address,
    table,
    whole,
    words,
)
from app.forges.remembered import Remembered

OPEN = ("waiting_for_callback", "waiting_for_resource", "preparing", "pending", "running", "canceling")
"""Jobs that only wait for an earlier stage or a person (`created`, `manual`, `scheduled`) are left out: no machine
follows from them, and old pipelines keep them for ever."""
PAGE = 100
PAGES = 100
EVENTS_PAGE = 20  # GitLab shows no more of a webhook's log at once
EVENT_PAGES = 15
RESENDS = 5  # a minute, for each project or group
TRIES = 6
HOOKS_KEPT = timedelta(minutes=30)  # webhooks seldom come and go, nor do rights
_WATCHED = 500
_EVENT = re.compile(r"/((?:projects|groups)/[0-9]{1,19})/hooks/[0-9]{1,19}/events/[0-9]{1,19}")

Query = dict[str, str | int | Sequence[str]]
T = TypeVar("T")


class GitLabPolls:
    """Looks for what did not come. Safe to share between threads."""

    def __init__(self, wire: GitLabWire, hook_url: str, named: Sequence[str] = ()) -> None:
        """`named`: projects whose webhooks are looked into before GitLab was asked about them."""
        self._wire, self._hook_url, self._pages = wire, hook_url, Remembered()
        self._lock = threading.Lock()
        self._watched: OrderedDict[str, None] = OrderedDict.fromkeys(named[:_WATCHED])
        self._hooks: dict[str, tuple[datetime, tuple[str, ...] | ForgeRefused]] = {}
        self._resends: dict[str, Sliding] = {}

    def fetch_run(self, job: Job) -> Run | None:
        """The pipeline; of a merge request's pipeline also where its code comes from, which is a second call."""
        deed = f"show pipeline {job.run_id}"
        if not is_identity(job.run_id):
            raise ForgeRefused("A GitLab pipeline's id is a number.")
        project = project_of(job)
        answer = self._wire.send(Rank.LOOK, "GET", f"/projects/{project}/pipelines/{job.run_id}", deed)
        if answer.status in (404, 410):
            return None
        request = MERGE_REQUEST.fullmatch(self._read(answer, deed, lambda body: words(body, "ref", 255)))
        source = self._source_of(project, request[1]) if request else None
        run = self._read(answer, deed, lambda body: run_of_answer(job, self._wire.url, body, source))
        self._watch(run.repository)
        return run

    def _source_of(self, project: str, request: str) -> str | None:
        """The id of the project that a merge request comes from; None where it is gone, or not ours to see."""
        deed = f"show merge request {request}"
        answer = self._wire.send(Rank.LOOK, "GET", f"/projects/{project}/merge_requests/{request}", deed)
        if answer.status in (403, 404, 410) and not isinstance(self._failure(answer, deed), ForgeDown):
            return None
        return self._read(answer, deed, lambda body: identity(body, "source_project_id")) or None

    def open_jobs(self, repository: str) -> list[Job]:
        """Every job of the project that is queued or runs, with its tags; the whole listing, or an error."""
        deed = f"list the open jobs of {repository}"
        if not PATH.fullmatch(repository):
            raise ForgeRefused(f"GitLab has no project of the name {repository[:100]!r}.")
        path = f"/projects/{quote(repository, safe='')}/jobs"
        query: Query = {"scope[]": OPEN, "per_page": PAGE, "pagination": "keyset", "order_by": "id", "sort": "desc"}
        forge, base, now = self._wire.forge, self._wire.url, self._wire.now()
        found = self._listing(path, query, deed, lambda row: job_of_listing(forge, base, repository, row, now))
        self._watch(repository)
        return list({job.id: job for job in found}.values())

    def repositories(self, owner: str) -> list[str]:
        """Every project of a group with its subgroups, or of a person. Raises ForgeRefused where there is neither."""
        deed = f"list the projects of {owner}"
        if not GROUP.fullmatch(owner):
            raise ForgeRefused(f"GitLab has no group or person of the name {owner[:100]!r}.")
        # The oldest first, so that one that is made meanwhile moves no other to a page that was read.
        query: Query = {"archived": "false", "simple": "true", "order_by": "id", "sort": "asc", "per_page": PAGE}
        inside: Query = {**query, "include_subgroups": "true", "with_shared": "false"}
        try:
            found = self._listing(f"/groups/{quote(owner, safe='')}/projects", inside, deed, _path_of)
        except _Absent:
            try:
                found = self._listing(f"/users/{quote(owner, safe='')}/projects", query, deed, _path_of)
            except _Absent:
                raise ForgeRefused(f"GitLab has no group or person {owner}, or shows it not to our token.") from None
        return sorted({path for path in found if path.casefold().startswith(f"{owner.casefold()}/")})

    def _listing(self, path: str, query: Query, deed: str, reading: Callable[[Table], T]) -> list[T]:
        """Every page of a poll, or an error: half a listing is none. Raises _Absent for a place that is not there."""
        found: list[T] = []
        totals: set[str] = set()  # keyset pages tell none, and need none: nothing moves from one to another
        for _ in range(PAGES):
            more, onward, total = self._page(path, query, deed, reading)
            found += more
            totals |= {total} - {""}
            if len(totals) > 1:
                raise ForgeDown(f"What {self._wire.forge} lists changed when asked to {deed}")
            if not onward:
                return found
            query = {**query, **onward}
        raise ForgeDown(f"{self._wire.forge} gave more than {PAGES} pages when asked to {deed}")

    def _page(self, path: str, query: Query, deed: str, reading: Callable[[Table], T]) -> tuple[list[T], dict[str, str], str]:
        """One page of a poll, what the next one is asked with, and how many there are in all if the answer says so now.

        An unchanged page tells again what it told before. Its ETag stands for the body, which the link to a next page is
        no part of: a 304's own link wins, and a page that was full and the last is read anew, as others may follow by now.
        """
        question = (path, tuple(sorted(query.items())))
        etag, known = self._pages.find(question)
        answer = self._wire.send(Rank.POLL, "GET", path, deed, query=query, etag=etag)
        links, total = answer.headers.get("link", ""), answer.headers.get("x-total", "")
        if answer.status == 304 and etag:
            rows_before, onward = cast("tuple[list[T], dict[str, str]]", known)
            return rows_before, next_query(links) or onward, total
        if answer.status == 404:
            trouble = self._failure(answer, deed)
            raise trouble if isinstance(trouble, ForgeDown) else _Absent(str(trouble))
        found, onward = self._rows(answer, deed, reading), next_query(links)
        settled = bool(onward) or len(found) < cast(int, query["per_page"])
        self._pages.keep(question, answer.headers.get("etag", "") if settled else "", (found, onward))
        return found, onward, total

    def _watch(self, repository: str) -> None:
        """GitLab has answered about this project: its webhooks are to be looked into."""
        with self._lock:
            self._watched[repository] = None
            self._watched.move_to_end(repository)
            while len(self._watched) > _WATCHED:
                self._watched.popitem(last=False)

    def missed(self, since: datetime) -> list[Missed]:
        """Job deliveries to us, by webhooks of the polled projects and of their groups, of which no attempt was answered.

        Raises ForgeRefused where no webhook of ours can be seen, and one of the projects is closed to us."""
        if not self._hook_url:
            raise ForgeRefused("Which webhook is ours cannot be told: the service does not know its own public address.")
        with self._lock:
            projects = list(self._watched)
        if not projects:
            raise HeldBack("Which webhooks to look into is known once GitLab was asked about a project.", wait=UNTOLD_WAIT)
        groups = {path.rsplit("/", up)[0] for path in projects for up in range(1, path.count("/") + 1)}
        hooks: list[str] = []
        refused: ForgeRefused | None = None
        for place in (
            *(f"/projects/{quote(path, safe='')}" for path in projects),
            *(f"/groups/{quote(path, safe='')}" for path in sorted(groups)),
        ):
            try:
                hooks += self._hooks_of(place)
            except ForgeRefused as error:
                refused = refused or (error if place.startswith("/projects/") else None)
        if refused is not None and not hooks:
            raise refused
        found = {one.guid: one for hook in dict.fromkeys(hooks) for one in self._failed(hook, since)}
        return sorted(found.values(), key=lambda one: one.at)

    def redeliver(self, missed: Missed) -> None:
        """One attempt more; one that GitLab no longer has is no error. Raises HeldBack after five a minute in one place."""
        place = _EVENT.fullmatch(missed.id)
        if place is None:
            raise ForgeRefused("This is no delivery of GitLab's.")
        now, deed = self._wire.now(), "send a delivery again"
        with self._lock:
            if len(self._resends) > _WATCHED:
                self._resends.clear()
            used = self._resends.setdefault(place[1], Sliding())
            wait = used.wait(1, RESENDS, now)
            if wait is not None:
                raise HeldBack(f"{self._wire.forge} sends {RESENDS} deliveries again in a minute, and no more", wait=wait)
            used.add(1, now)
        answer = self._wire.send(Rank.POLL, "POST", f"{missed.id}/resend", deed)
        if answer.status not in (200, 201, 202, 404, 422):  # 422: it was sent, and not answered with a success
            raise self._failure(answer, deed)

    def _hooks_of(self, place: str) -> tuple[str, ...]:
        """The webhooks of a project or group whose address is ours, as parts of a URL. Raises ForgeRefused, ForgeDown."""
        now, deed = self._wire.now(), f"list the webhooks of {unquote(place).partition('/')[2]}"
        with self._lock:
            at, known = self._hooks.get(place, (now, None))
        if known is None or not timedelta(0) <= now - at < HOOKS_KEPT:
            try:
                shown, *_ = self._page(f"{place}/hooks", {"per_page": PAGE}, deed, self._own_hook)
                known = tuple(hook for hook in shown if hook)
            except ForgeRefused as error:
                known = error
            with self._lock:
                if len(self._hooks) > 4 * _WATCHED:
                    self._hooks.clear()
                self._hooks[place] = (now, known)
        if isinstance(known, ForgeRefused):
            raise known.with_traceback(None)
        return known

    def _own_hook(self, row: Table) -> str:
        key, project, group = identity(row, "id"), identity(row, "project_id"), identity(row, "group_id")
        if not key or not same_address(words(row, "url", 500), self._hook_url):
            return ""
        return f"/projects/{project}/hooks/{key}" if project else f"/groups/{group}/hooks/{key}" if group else ""

    def _failed(self, hook: str, since: datetime) -> list[Missed]:
        """Newest first, as GitLab lists them; a log that is longer than we read is cut."""
        deed = "list the deliveries to our webhook"
        last: dict[str, Missed] = {}
        tries: dict[str, int] = {}
        arrived: set[str] = set()
        for page in range(1, EVENT_PAGES + 1):
            query: Query = {"per_page": EVENTS_PAGE, "page": page}
            events, *_ = self._page(f"{hook}/events", query, deed, lambda row: _event(hook, row))
            told = [one for one in events if one is not None]
            for missed, ok in told:
                if ok:
                    arrived.add(missed.guid)
                tries[missed.guid] = tries.get(missed.guid, 0) + 1
                last.setdefault(missed.guid, missed)
            if len(events) < EVENTS_PAGE or (told and all(missed.at < since for missed, _ in told)):
                break
        return [one for guid, one in last.items() if guid not in arrived and one.at >= since and tries[guid] < TRIES]

    def _rows(self, answer: Answer, deed: str, reading: Callable[[Table], T]) -> list[T]:
        if answer.status != 200:
            raise self._failure(answer, deed)
        try:
            return [reading(row) for row in rows(answer.body, "the answer")]
        except Unreadable as error:
            raise unreadable(self._wire.forge, deed, error) from None

    def _read(self, answer: Answer, deed: str, reading: Callable[[Table], T]) -> T:
        if answer.status != 200:
            raise self._failure(answer, deed)
        try:
            return reading(table(answer.body, "the answer"))
        except Unreadable as error:
            raise unreadable(self._wire.forge, deed, error) from None

    def _failure(self, answer: Answer, deed: str) -> ForgeError:
        return failure(self._wire.forge, deed, answer, self._wire.now())


class _Absent(ForgeRefused):
    """GitLab has no such place, or shows it not to our token."""


def _path_of(row: Table) -> str:
    path = whole(row, "path_with_namespace", PATH)
    if not path:
        raise Unreadable("a project without path")
    return path


def _event(hook: str, row: Table) -> tuple[Missed, bool] | None:
    """A delivery of a job, and whether it arrived; None for another kind, or where the log no longer says which job's."""
    key = identity(row, "id")
    if not key:
        raise Unreadable("a delivery without id")
    told = part(row, "request_data")
    if words(told, "object_kind", 60) != "build":
        return None
    times = [moment(told, f"build_{what}_at") for what in ("finished", "started", "created")]
    at = max((time for time in times if time is not None), default=None)
    if at is None:
        return None
    guid = words(part(row, "request_headers"), "Idempotency-Key", 200) or f"log-{key}"
    return Missed(f"{hook}/events/{key}", guid, at), words(row, "response_status", 60).startswith("2")


def next_query(links: str) -> dict[str, str]:
    """What the next page of a keyset listing is asked with, out of a Link header; empty on the last page."""
    for link in links.split(","):
        address, _, rest = link.strip().partition(">")
        if 'rel="next"' in rest:
            asked = dict(parse_qsl(urlsplit(address.lstrip("<")).query)[:40])
            return {key: value for key, value in asked.items() if key in ("cursor", "id_before", "page") and len(value) < 1000}
    return {}
