"""The REST API of the fake Forgejo: paths and shapes of `/api/v1` for what Sublet calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from tests.fakes.forgejo_state import FakeJob, FakeOwner, FakeRepository, FakeRun, FakeRunner, ForgejoState
from tests.fakes.loopback import Reply, Request

NOT_FOUND = Reply(404, {"message": "The target couldn't be found.", "url": "https://forgejo.test/api/swagger", "errors": []})
NEVER = "1970-01-01T00:00:00Z"
CATEGORIES = {"repos": "repository", "repositories": "repository", "orgs": "organization", "users": "user", "user": "user"}


class ForgejoApi:
    """Answers requests out of a state. `base` gives the server's own address for links."""

    def __init__(self, state: ForgejoState, token: str, base: Callable[[], str]) -> None:
        self.state, self.token, self._base = state, token, base
        self.version = "16.0.1+gitea-1.22.0"
        self.tells_runs = True  # 15 shows neither a job's run nor a run's jobs
        self.expired = False
        self.scopes = {"write:repository", "write:organization", "write:admin", "read:user"}
        self.closed: set[str] = set()  # owners whose runners are not ours to see
        self.most = 50  # MAX_RESPONSE_ITEMS
        self.login = "sublet-bot"

    def answer(self, request: Request) -> Reply:
        parts = request.parts[2:]  # after api, v1
        if parts == ["version"]:
            return Reply(200, {"version": self.version})
        if self.expired or request.headers.get("authorization") != f"token {self.token}":
            return _said(401, "user does not exist [uid: 0, name: ]")
        category = CATEGORIES.get(parts[0] if parts else "", "admin")
        writes = f"write:{category}"
        if writes not in self.scopes and (request.verb != "GET" or f"read:{category}" not in self.scopes):
            needed = f"read:{category}" if request.verb == "GET" else writes
            return _said(403, f"token does not have at least one of required scope(s): [{needed}]")
        match parts:
            case ["user"]:
                return Reply(200, self._user(self.login))
            case ["repositories", key]:
                found = self.state.repositories.get(int(key)) if key.isdigit() else None
                return NOT_FOUND if found is None else Reply(200, self.repository(found))
            case ["repos", owner, name, "actions", *rest]:
                return self._in_repository(request, f"{owner}/{name}", rest)
            case ["orgs" | "users", name, *rest]:
                return self._of_owner(request, name, rest, person=parts[0] == "users")
            case ["admin", "actions", "runners", *rest]:
                return self._runners(request, None, rest)
            case _:
                return NOT_FOUND

    def _in_repository(self, request: Request, path: str, rest: list[str]) -> Reply:
        found = self.state.repository(path)
        if found is None:
            moved = self.state.moved.get(path.casefold())
            if moved is None:
                return NOT_FOUND
            there = request.path.replace(f"/repos/{path}/", f"/repos/{moved.path}/", 1)
            return Reply(307, None, {"Location": self._base() + quote(there)})
        if rest[:1] == ["runners"]:
            if found.owner.name in self.closed:
                return _said(403, "user should be an owner or a collaborator with admin write of a repository")
            return self._runners(request, found, rest[1:])
        if rest == ["runs"]:
            return self._runs(request, found)
        if rest[:1] == ["runs"] and rest[1].isdigit():
            run = self.state.runs.get(int(rest[1]))
            if run is None or run.repository is not found:
                return NOT_FOUND
            if rest[2:] == []:
                return Reply(200, self.run(run))
            if rest[2:] == ["jobs"] and self.tells_runs:
                return Reply(200, [self.job(one) for one in self.state.latest(run)])
        return NOT_FOUND

    def _of_owner(self, request: Request, name: str, rest: list[str], *, person: bool) -> Reply:
        found = self.state.owners.get(name.casefold())
        if found is None or found.person != person:
            return NOT_FOUND
        if rest == ["repos"]:
            mine = [one for one in self.state.repositories.values() if one.owner is found]
            return self._page(request, [self.repository(one) for one in mine])
        if not person and rest[:2] == ["actions", "runners"]:
            if found.name in self.closed:
                return _said(403, "Must be an organization owner")
            return self._runners(request, found, rest[2:])
        return NOT_FOUND

    def _runners(self, request: Request, place: FakeRepository | FakeOwner | None, rest: list[str]) -> Reply:
        if rest == ["jobs"]:
            return self._open_jobs(request, place)
        if not rest and request.verb == "POST":
            body = request.body
            if not body.get("name"):
                return _said(422, "[Name]: Required")
            made = self.state.create_runner(
                body["name"], place, description=body.get("description", ""), ephemeral=body.get("ephemeral", False)
            )
            return Reply(201, {"id": made.id, "uuid": made.uuid, "token": made.token})
        if not rest:
            mine = [one for one in self.state.runners.values() if one.place is place]
            return self._page(request, [self.runner(one) for one in mine])
        runner = self.state.runners.get(int(rest[0])) if rest[0].isdigit() else None
        if runner is None or (place is not None and runner.place is not place):
            return NOT_FOUND
        if request.verb == "DELETE":
            self.state.remove_runner(runner)
            return Reply(204)
        return Reply(200, self.runner(runner))

    def _open_jobs(self, request: Request, place: FakeRepository | FakeOwner | None) -> Reply:
        """Jobs that wait or run, newest first, without pages; nothing is null; with labels some servers always say so."""
        if "labels" in request.query:
            return Reply(200, None, raw=b"null")
        found = [
            self.job(one)
            for one in reversed(self.state.latest())
            if one.status in ("waiting", "running")
            and (place is None or place in (one.run.repository, one.run.repository.owner))
        ]
        return Reply(200, found) if found else Reply(200, None, raw=b"null")

    def _runs(self, request: Request, home: FakeRepository) -> Reply:
        asked = set(filter(None, request.query.get("status", "").split(",")))
        mine = [run for run in self.state.runs.values() if run.repository is home]
        found = [run for run in reversed(mine) if not asked or self.state.status_of(run) in asked]
        return Reply(200, {"total_count": len(found), "workflow_runs": self._cut(request, [self.run(run) for run in found])})

    def _page(self, request: Request, found: Sequence[dict[str, Any]]) -> Reply:
        return Reply(200, self._cut(request, found), {"X-Total-Count": str(len(found))})

    def _cut(self, request: Request, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        size = min(int(request.query.get("limit", "30")), self.most)
        page = int(request.query.get("page", "1"))
        return list(found[(page - 1) * size : page * size])

    def job(self, job: FakeJob) -> dict[str, Any]:
        names = {one.id: one.name for one in self.state.latest(job.run)}
        shown: dict[str, Any] = {
            "id": job.id,
            "attempt": job.attempt,
            "handle": job.handle,
            "repo_id": job.run.repository.id,
            "owner_id": job.run.repository.owner.id,
            "run_id": job.run.id,
            "name": job.name,
            "needs": [names[key] for key in job.needs] or None,
            "runs_on": list(job.labels),
            "task_id": job.task_id,
            "status": job.status,
        }
        if not self.tells_runs:
            del shown["run_id"]
        return shown

    def run(self, run: FakeRun) -> dict[str, Any]:
        jobs = self.state.latest(run)
        begun = [one.started_at for one in jobs if one.started_at is not None]
        return {
            "id": run.id,
            "title": "A change",
            "repository": self.repository(run.repository),
            "workflow_id": "train.yml",
            "index_in_repo": run.index,
            "trigger_user": self._user(run.actor),
            "ScheduleID": 0,
            "prettyref": f"#{run.index}" if run.fork else "main",
            "is_ref_deleted": False,
            "commit_sha": "c" * 40,
            "is_fork_pull_request": run.fork,
            "need_approval": run.need_approval,
            "approved_by": 0,
            "event": run.event,
            "event_payload": "{}",
            "trigger_event": run.event,
            "status": self.state.status_of(run),
            "started": stamp(min(begun, default=None)),
            "stopped": NEVER,
            "created": stamp(run.created),
            "updated": stamp(run.updated),
            "duration": 0,
            "html_url": f"{self._base()}/{run.repository.path}/actions/runs/{run.index}",
        }

    def repository(self, one: FakeRepository) -> dict[str, Any]:
        return {
            "id": one.id,
            "owner": self._user(one.owner.name),
            "name": one.path.partition("/")[2],
            "full_name": one.path,
            "html_url": f"{self._base()}/{one.path}",
            "has_actions": one.has_actions,
        }

    def runner(self, runner: FakeRunner) -> dict[str, Any]:
        return {
            "id": runner.id,
            "uuid": runner.uuid,
            "name": runner.name,
            "description": runner.description,
            "ephemeral": runner.ephemeral,
            "labels": list(runner.labels),
            "owner_id": runner.place.id if isinstance(runner.place, FakeOwner) else 0,
            "repo_id": runner.place.id if isinstance(runner.place, FakeRepository) else 0,
            "status": self.state.runner_status(runner),
            "version": "v13.2.0" if runner.contacted_at else "",
        }

    def _user(self, login: str) -> dict[str, Any]:
        return {"id": 7, "login": login, "full_name": login.title(), "html_url": f"{self._base()}/{login}"}


def stamp(when: datetime | None) -> str:
    return NEVER if when is None else when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _said(status: int, message: str) -> Reply:
    return Reply(status, {"message": message, "url": "https://forgejo.test/api/swagger"})
