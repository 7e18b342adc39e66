"""What Forgejo tells when it is asked: open jobs of an owner or a repository, one job, the run behind it.

Jobs carry the number of their repository; its name is asked for and kept for a quarter of an hour, so that a renamed one is
found out. Forgejo 15 shows neither the run of a job nor the jobs of a run (both came with 16): there, a job is looked for
among the open ones, and its run is judged by what all runs that it could belong to have in common, or not at all.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast

from app.core.model import Job, Run
from app.forges.answers import Answer, unreadable
from app.forges.budget import Rank
from app.forges.contract import ForgeRefused
from app.forges.forgejo_payload import HANDLE, OWNER, PATH, RUN_UNTOLD, changed_since, job_of_row, run_of_answer
from app.forges.gitea_wire import GiteaWire
from app.forges.payload import Table, Unreadable, identity, is_identity, number, rows, table, truth, whole
from app.forges.remembered import Remembered

NAME_KEPT = timedelta(minutes=15)
NAMES = 4000
RUNS = 500  # that are looked through for one job
SHOWN_RUNS = ("waiting", "running", "failure", "cancelled", "waiting", "running")
"""What a run can be while one of its jobs waits or runs: a failed job makes the run a failure at once
(models/actions/run_job.go: AggregateJobStatus). Asked in the order of a run's life, and the first two once more: a job that is
run again meanwhile takes its run back there."""
CHANGED = timedelta(days=7)
"""A run changes when a job of it begins to wait (UpdateRunJobWithoutNotification), and no job waits for longer than
ABANDONED_JOB_TIMEOUT, a day unless the admin says otherwise."""


class ForgejoPolls:
    """Looks for jobs and their runs. Safe to share between threads."""

    def __init__(self, wire: GiteaWire) -> None:
        self._wire, self._pages = wire, Remembered()
        self._lock = threading.Lock()
        self._names: OrderedDict[str, tuple[datetime, str]] = OrderedDict()

    def open_jobs(self, place: str) -> list[Job]:
        """Every job that waits or runs, of one repository or of all of an owner's; the whole listing, or an error."""
        if PATH.fullmatch(place):
            found = self._listed(Rank.POLL, f"/repos/{place}", place)
            if found is None:
                raise ForgeRefused(f"Forgejo has no repository {place}, or shows its queue not to our token.")
            return self._named(found, place)
        if not OWNER.fullmatch(place):
            raise ForgeRefused(f"Forgejo has no repository or owner of the name {place[:100]!r}.")
        refused: ForgeRefused | None = None
        try:
            found = self._listed(Rank.POLL, f"/orgs/{place}", place)
        except ForgeRefused as error:  # its repositories may still be open to us
            found, refused = None, error
        if found is not None:
            return self._named(found, place)
        jobs: dict[str, Job] = {}
        asked = 0
        paths = self.repositories(place)
        for path in paths:  # a person's, one by one
            try:
                found = self._listed(Rank.POLL, f"/repos/{path}", path)
            except ForgeRefused as error:
                refused = error
                continue
            if found is not None:
                asked += 1
                jobs.update((job.id, job) for job in self._named(found, path))
        if refused is not None and not asked:
            raise refused
        return list(jobs.values())

    def repositories(self, owner: str) -> list[str]:
        """Full paths of the owner's repositories that have Actions; the whole listing, or an error."""
        if not OWNER.fullmatch(owner):
            raise ForgeRefused(f"Forgejo has no owner of the name {owner[:100]!r}.")
        deed = f"list the repositories of {owner}"
        for kind in ("orgs", "users"):
            # Hidden: private ones that our user may not see are left out after they were counted, and after the page was
            # cut (routers/api/v1/user/repo.go: listUserRepos).
            found = self._wire.listing(Rank.POLL, f"/{kind}/{owner}/repos", deed, _paths, hidden=True)
            if found is not None:
                return list(dict.fromkeys(path for path in found if path))
        raise ForgeRefused(f"Forgejo has no owner {owner}, or shows them not to our token.")

    def fetch_job(self, job: Job) -> Job | None:
        """This attempt of the job as Forgejo has it now; None once the run is gone, or another attempt has taken its place."""
        deed = f"show job {job.key}"
        if not HANDLE.fullmatch(job.key):
            raise ForgeRefused("This is no handle of a Forgejo job.")
        if not is_identity(job.run_id):
            return self._among_open(job)
        path, answer = self._in_repository(job, f"/actions/runs/{job.run_id}/jobs", deed)
        if answer.status == 404:
            return None
        listed = self._wire.content(answer, (200,), deed, lambda body: _rows(body))
        return self._same(job, listed, path, deed)

    def fetch_run(self, job: Job) -> Run | None:
        """The job's run; None once it is gone. One call; on Forgejo 15 several."""
        if RUN_UNTOLD.fullmatch(job.run_id):
            return self._common(job)
        if not is_identity(job.run_id):
            raise ForgeRefused("A Forgejo run's id is a number.")
        deed = f"show run {job.run_id}"
        _, answer = self._in_repository(job, f"/actions/runs/{job.run_id}", deed)
        if answer.status == 404:
            return None
        return self._wire.read(answer, (200,), deed, lambda body: self._run(job, body))

    def _run(self, job: Job, body: Table) -> Run:
        if identity(body, "id") != job.run_id:
            raise Unreadable("the answer is about another run")
        return run_of_answer(job, body)

    def _among_open(self, job: Job) -> Job | None:
        """The job among those of its repository that wait or run; None: it is over, and nobody tells how it ended."""
        deed = f"show job {job.key}"
        path, answer = self._in_repository(job, "/actions/runners/jobs", deed)
        if answer.status == 404:
            return None
        return self._same(job, self._wire.content(answer, (200,), deed, _rows), path, deed)

    def _same(self, job: Job, listed: list[Table], path: str, deed: str) -> Job | None:
        """The row of this attempt, with what only the delivery said kept."""
        for row in listed:
            if row.get("handle") != job.key:
                continue
            try:
                fresh = job_of_row(job.forge, row, path, job.run_id)
            except Unreadable as error:
                raise unreadable(self._wire.forge, deed, error) from None
            if fresh is None or (job.repository_id and fresh.repository_id not in ("", job.repository_id)):
                return None
            return replace(
                job,
                repository=path,
                repository_id=fresh.repository_id or job.repository_id,
                state=fresh.state,
                run_id=fresh.run_id,
                attempt=fresh.attempt,
                labels=fresh.labels,
                name=fresh.name or job.name,
                conclusion=fresh.conclusion,
            )
        return None

    def _common(self, job: Job) -> Run | None:
        """What all runs that the job could belong to have in common. Raises ForgeRefused where they differ."""
        fresh = self._among_open(job)
        if fresh is None:
            return None
        if is_identity(fresh.run_id):  # the server was upgraded since
            told = self.fetch_run(fresh)
            return None if told is None else replace(told, id=job.run_id)
        deed = f"list the runs of {fresh.repository}"
        since = self._wire.now() - CHANGED
        told_runs: set[Run] = set()
        for status in SHOWN_RUNS:
            told_runs.update(self._runs(fresh, status, since, deed))
        if len(told_runs) == 1:
            return told_runs.pop()
        why = "and the runs it could belong to differ in their event, their actor or where their code comes from"
        if not told_runs:
            why = "and no run is there that it could belong to"
        raise ForgeRefused(f"Forgejo 15 does not say which run a job belongs to, {why}. Forgejo 16 says it.")

    def _runs(self, job: Job, status: str, since: datetime, deed: str) -> list[Run]:
        """All runs with this status that changed lately. Raises ForgeRefused where there are too many to look through."""

        def page(body: object) -> list[Run | None]:
            told = table(body, "the answer")
            total = number(told, "total_count")
            if total is None:
                raise Unreadable("it does not say how many runs there are")
            if total > RUNS:
                raise ForgeRefused(
                    f"Forgejo 15 does not say which run a job belongs to, and {job.repository} has more than {RUNS} runs "
                    f"with the status {status} to look through. Forgejo 16 says it."
                )
            shown = _rows(told.get("workflow_runs"))
            return [run_of_answer(job, row) if changed_since(row, since) else None for row in shown]

        path, query = f"/repos/{job.repository}/actions/runs", {"status": status}
        return [run for run in self._wire.listing(Rank.LOOK, path, deed, page, query) or [] if run is not None]

    def _listed(self, rank: Rank, place: str, shown: str) -> list[Table] | None:
        """Jobs that wait or run there; None where there is no such place.

        Never asked by labels: with them some servers answer null whatever waits."""
        deed, path = f"list the open jobs of {shown}", f"{place}/actions/runners/jobs"
        etag, known = self._pages.find(path)
        answer = self._wire.send(rank, "GET", path, deed, etag=etag)
        if answer.status == 304 and etag:
            return cast("list[Table]", known)
        if answer.status == 404:
            return None
        found = self._wire.content(answer, (200,), deed, _rows)
        self._pages.keep(path, answer.headers.get("etag", ""), found)
        return found

    def _named(self, listed: Sequence[Table], place: str) -> list[Job]:
        """The rows as jobs. A row that cannot be read is left out, unless none can."""
        found: dict[str, Job] = {}
        problem: Unreadable | None = None
        for row in listed:
            try:
                job = self._job(row, place)
            except Unreadable as error:
                problem = error
                continue
            if job is not None:
                found[job.id] = job
        if problem is not None and not found:
            raise unreadable(self._wire.forge, f"list the open jobs of {place}", problem)
        if listed and not any(row.get("handle") for row in listed):
            raise ForgeRefused(f"{self._wire.forge} tells no handles of its jobs: Forgejo 15 or later is needed.")
        return list(found.values())

    def _job(self, row: Table, place: str) -> Job | None:
        home = identity(row, "repo_id")
        if not home:
            raise Unreadable("a job without repository")
        job = job_of_row(self._wire.forge, row, "")
        if job is None:
            return None
        path = self._name(home, Rank.POLL)
        if f"{path}/".casefold().startswith(f"{place}/".casefold()):
            return replace(job, repository=path)
        path = self._name(home, Rank.POLL, fresh=True)  # it has moved, or was called otherwise when we last asked
        return replace(job, repository=path) if path else None

    def _name(self, key: str, rank: Rank, *, fresh: bool = False) -> str:
        """The full path of the repository of this number; empty: it is gone."""
        now = self._wire.now()
        with self._lock:
            at, known = self._names.get(key, (now, ""))
        if known and not fresh and timedelta(0) <= now - at < NAME_KEPT:
            return known
        deed = f"tell the name of repository {key}"
        answer = self._wire.send(rank, "GET", f"/repositories/{key}", deed)
        told = "" if answer.status == 404 else self._wire.read(answer, (200,), deed, lambda body: _path(key, body))
        with self._lock:
            self._names.pop(key, None)
            if told:
                self._names[key] = (now, told)
                while len(self._names) > NAMES:
                    self._names.popitem(last=False)
        return told

    def _in_repository(self, job: Job, rest: str, deed: str) -> tuple[str, Answer]:
        """The answer, and the path that the job's repository has now: one that is not found there may have been renamed."""
        if not PATH.fullmatch(job.repository):
            raise ForgeRefused(f"Forgejo has no repository of the name {job.repository[:100]!r}.")
        answer = self._wire.send(Rank.LOOK, "GET", f"/repos/{job.repository}{rest}", deed)
        if (answer.status == 404 or 300 <= answer.status < 400) and is_identity(job.repository_id):
            path = self._name(job.repository_id, Rank.LOOK, fresh=True)
            if path and path.casefold() != job.repository.casefold():
                return path, self._wire.send(Rank.LOOK, "GET", f"/repos/{path}{rest}", deed)
        return job.repository, answer


def _rows(body: object) -> list[Table]:
    """A listing that is empty may be null: Go writes so."""
    return [] if body is None else rows(body, "the answer")


def _paths(body: object) -> list[str]:
    """One page of repositories; empty for one without Actions, so that a page keeps its length."""
    return ["" if truth(row, "has_actions") is False else whole(row, "full_name", PATH) for row in _rows(body)]


def _path(key: str, body: Table) -> str:
    told = table(body, "the answer")
    path = whole(told, "full_name", PATH)
    if identity(told, "id") != key or not path:
        raise Unreadable(f"it is not repository {key}")
    return path
