"""What Gitea's webhooks may have missed: open jobs of a repository or an owner, its repositories, the run behind a job."""

from __future__ import annotations

from app.core.model import Job, Run, Scope, ScopeKind
from app.forges.answers import failure
from app.forges.budget import Rank
from app.forges.contract import ForgeDown, ForgeRefused
from app.forges.gitea_payload import (
    OPEN,
    OWNER,
    Head,
    full_name,
    head_of,
    home,
    job_of_answer,
    job_of_listing,
    pull_of,
    run_of_answer,
)
from app.forges.gitea_wire import GiteaWire, Query
from app.forges.payload import Table, identity, is_identity, part, rows, table, truth


class GiteaPolls:
    """Looks for what did not come. Safe to share between threads."""

    def __init__(self, wire: GiteaWire) -> None:
        self._wire = wire

    def fetch_job(self, job: Job) -> Job | None:
        """The job as Gitea has it now; None once it is gone, or no longer ours to see."""
        deed = f"show job {job.key}"
        if not is_identity(job.key):
            raise ForgeRefused("A Gitea job's key is a number.")
        path = f"{home(Scope(ScopeKind.REPOSITORY, job.repository))}/actions/jobs/{job.key}"
        answer = self._wire.send(Rank.LOOK, "GET", path, deed)
        if answer.status in (404, 410):
            return None
        return self._wire.read(answer, (200,), deed, lambda body: job_of_answer(job, body))

    def fetch_run(self, job: Job) -> Run | None:
        """The run; of a pull request's run also where its code comes from, which is a second call."""
        deed = f"show run {job.run_id}"
        if not is_identity(job.run_id):
            raise ForgeRefused("A Gitea run's id is a number.")
        place = home(Scope(ScopeKind.REPOSITORY, job.repository))
        answer = self._wire.send(Rank.LOOK, "GET", f"{place}/actions/runs/{job.run_id}", deed)
        if answer.status in (404, 410):
            return None
        ours, pull = self._wire.read(answer, (200,), deed, _origin)
        head = self._head(place, ours, pull) if pull else None
        return self._wire.read(answer, (200,), deed, lambda body: run_of_answer(job, body, head))

    def _head(self, place: str, ours: str, pull: str) -> Head | None:
        """Where a pull request's code comes from; None where it is gone, or not ours to see."""
        deed = f"show pull request {pull}"
        answer = self._wire.send(Rank.LOOK, "GET", f"{place}/pulls/{pull}", deed)
        if answer.status in (403, 404, 410) and not isinstance(
            failure(self._wire.forge, deed, answer, self._wire.now()), ForgeDown
        ):
            return None
        return self._wire.read(answer, (200,), deed, lambda body: head_of(ours, pull, body))

    def open_jobs(self, place: str) -> list[Job]:
        """Every job of the repository or owner that waits, is queued or runs, with its labels; all of them, or an error.

        Of a long queue that drains while it is read, one may be missing, and one that just ended may be among them."""
        if "/" in place:
            found = self._jobs(home(Scope(ScopeKind.REPOSITORY, place)), place, place)
            if found is None:
                raise ForgeRefused(f"Gitea has no repository {place}, shows it not to our token, or it has no Actions.")
            return found
        return self._of_owner(place)

    def _of_owner(self, owner: str) -> list[Job]:
        """By one listing of the organisation; of a person, repository by repository: there is no listing of theirs.

        So too where it answers HTTP 500, as the first servers of 1.24 do to this listing as soon as there is a job: they
        look for a repository of id 0 (routers/api/v1/shared/action.go: ListJobs)."""
        found = self._jobs(home(Scope(ScopeKind.ORGANIZATION, owner)), owner, "", absent=(404, 500))
        if found is not None:
            return found
        jobs: dict[str, Job] = {}
        for repository, actions in self._repositories(owner):
            if actions:
                more = self._jobs(home(Scope(ScopeKind.REPOSITORY, repository)), repository, repository)
                jobs |= {job.id: job for job in more or ()}  # none: the repository is gone since
        return list(jobs.values())

    def _jobs(self, place: str, title: str, repository: str, absent: tuple[int, ...] = (404,)) -> list[Job] | None:
        deed, base = f"list the open jobs of {title}", self._wire.url

        def reading(body: object) -> list[Job]:
            return [
                job_of_listing(self._wire.forge, base, repository, row)
                for row in rows(table(body, "the answer").get("jobs"), "jobs")
            ]

        query: Query = {"status": OPEN}
        # With gaps: a long queue that drains is never twice the same, and would be heard of only once it has drained. A job
        # that this misses is not taken for over: the engine asks one by one for every known job that a listing lacks, and
        # finds a new one by the next. One that several readings show is told as the last of them has it.
        found = self._wire.listing(Rank.POLL, f"{place}/actions/jobs", deed, reading, query, absent, gaps=True)
        return None if found is None else list({job.id: job for job in found}.values())

    def repositories(self, owner: str) -> list[str]:
        """Full paths of every repository of the organisation or person that our token may see; all of them, or an error."""
        return [path for path, _ in self._repositories(owner)]

    def _repositories(self, owner: str) -> list[tuple[str, bool]]:
        """Their paths, and whether they may have Actions."""
        if not OWNER.fullmatch(owner):
            raise ForgeRefused(f"Gitea has no owner of the name {owner[:100]!r}.")
        deed = f"list the repositories of {owner}"

        def reading(body: object) -> list[tuple[str, bool]]:
            return [(full_name(row), truth(row, "has_actions") is not False) for row in rows(body, "the answer")]

        for place in (f"/orgs/{owner}/repos", f"/users/{owner}/repos"):
            # Hidden: private ones that our user may not see are left out after they were counted, and after the page was
            # cut (routers/api/v1/user/repo.go: listUserRepos).
            found = self._wire.listing(Rank.POLL, place, deed, reading, hidden=True)
            if found is not None:
                return sorted(set(found))
        raise ForgeRefused(f"Gitea has no owner {owner}, or shows it not to our token.")


def _origin(run: Table) -> tuple[str, str]:
    """The id of a run's repository, and the number of the pull request behind it, empty where there is none."""
    return identity(part(run, "repository"), "id"), pull_of(run)[1]
