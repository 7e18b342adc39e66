"""The REST API of the fake GitLab: paths and shapes of `/api/v4` for what a runner and an autoscaler call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from tests.fakes.gitlab_hooks import Hooks
from tests.fakes.gitlab_state import FakeJob, FakePipeline, FakeProject, FakeRunner, GitLabState
from tests.fakes.loopback import Reply, Request

NOT_FOUND = Reply(404, {"message": "404 Not found"})
FORBIDDEN = Reply(403, {"message": "403 Forbidden"})


class GitLabApi:
    """Answers requests out of a state. `base` gives the server's own address for links."""

    def __init__(self, state: GitLabState, token: str, base: Callable[[], str], hooks: Hooks) -> None:
        self.state, self.token, self._base, self.hooks = state, token, base, hooks
        self.quota = 2000  # calls a minute
        self.quota_taken = 0.0  # share of each minute's quota that somebody else has used up
        self.stale_lists = False  # lists of jobs stay as they were when each was first asked for after this began
        self._stale: dict[str, Reply] = {}
        self._minute, self._used = 0, 0
        self.scopes = ["create_runner", "manage_runner", "read_api"]
        self.page_cap = 100
        self.tells_execution = True  # job_execution_status came with a later version
        self.version = "19.4.0-ee"
        self.etags = True
        self.bare_304 = False  # somebody on the way keeps no more than the ETag of an answer without content

    def answer(self, request: Request) -> Reply:
        """The reply, with what is left of the minute's quota; a refusal where nothing is."""
        seconds = int(self.state.now().timestamp())
        if seconds // 60 != self._minute:
            self._minute, self._used = seconds // 60, 0
        self._used += 1
        left = int(self.quota * (1 - self.quota_taken)) - self._used
        limits = {"RateLimit-Limit": str(self.quota), "RateLimit-Remaining": str(max(0, left))}
        limits["RateLimit-Reset"] = str(60 * (self._minute + 1))
        if left < 0:
            return Reply(429, {"message": "Retry later"}, {**limits, "Retry-After": str(60 - seconds % 60)})
        reply = self._conditional(request, self._route(request))
        return Reply(reply.status, reply.body, {**limits, **reply.headers}, reply.raw)

    def _conditional(self, request: Request, reply: Reply) -> Reply:
        """Rack::ETag and Rack::ConditionalGet: a weak ETag over the body alone; a 304 keeps every other header."""
        if request.verb != "GET" or reply.status != 200 or not self.etags:
            return reply
        etag = f'W/"{hashlib.sha256(json.dumps(reply.body).encode()).hexdigest()[:32]}"'
        unchanged = request.headers.get("if-none-match") == etag
        if unchanged and self.bare_304:
            return Reply(304, None, {"ETag": etag})
        return Reply(304 if unchanged else 200, None if unchanged else reply.body, {**reply.headers, "ETag": etag}, reply.raw)

    def _route(self, request: Request) -> Reply:
        parts = request.parts[2:]  # after api, v4
        if parts == ["runners", "verify"]:
            return self._verify(request)
        if parts == ["jobs", "request"]:
            return self._job_request(request)
        if parts[:1] == ["jobs"] and len(parts) == 2 and request.verb == "PUT":
            return self._job_update(request, parts[1])
        if request.headers.get("private-token") != self.token:
            return Reply(401, {"message": "401 Unauthorized"})
        match parts:
            case ["version"]:
                return Reply(200, {"version": self.version, "revision": "abc"})
            case ["personal_access_tokens", "self"]:
                return Reply(200, self._own_token())
            case ["user", "runners"] if request.verb == "POST":
                return self._create_runner(request)
            case ["runners", "all"]:
                return self._page(request, list(self.state.runners.values()))
            case ["runners", key, *rest]:
                return self._runner(request, key, rest)
            case ["users", name, "projects"]:
                own = [one for one in self.state.projects.values() if one.path.rpartition("/")[0] == name]
                return self._projects(request, own) if name in self.state.people else NOT_FOUND
            case ["groups", key, *rest]:
                return self._group(request, key, rest)
            case ["projects", key, *rest]:
                project = self._project_of(key)
                return NOT_FOUND if project is None else self._in_project(request, project, rest)
            case _:
                return NOT_FOUND

    def _project_of(self, key: str) -> FakeProject | None:
        return next((one for one in self.state.projects.values() if key in (str(one.id), one.path)), None)

    def _in_project(self, request: Request, project: FakeProject, rest: list[str]) -> Reply:
        if not rest:
            web = f"{self._base()}/{project.path}"
            return Reply(200, {"id": project.id, "path_with_namespace": project.path, "web_url": web})
        if rest == ["runners"]:
            return self._page(request, [one for one in self.state.runners.values() if one.project_id == project.id])
        if rest == ["jobs"]:
            return self._jobs(request, project)
        if rest[0] == "hooks":
            return self.hooks.answer(request, ("projects", project.id), rest[1:])
        if len(rest) == 2 and rest[0] == "pipelines" and rest[1].isdigit():
            pipeline = self.state.pipelines.get(int(rest[1]))
            return Reply(200, self.pipeline(pipeline)) if pipeline and pipeline.project_id == project.id else NOT_FOUND
        if len(rest) == 2 and rest[0] == "merge_requests" and rest[1].isdigit():
            if (project.id, int(rest[1])) not in self.state.merge_requests:
                return NOT_FOUND
            source = self.state.merge_requests[project.id, int(rest[1])]
            return Reply(200, {"iid": int(rest[1]), "source_project_id": source, "target_project_id": project.id})
        if len(rest) == 2 and rest[0] == "jobs" and rest[1].isdigit():
            job = self.state.jobs.get(int(rest[1]))
            return Reply(200, self.job(job)) if job and job.project_id == project.id else NOT_FOUND
        return NOT_FOUND

    def _jobs(self, request: Request, project: FakeProject) -> Reply:
        """By keyset: the next page is asked for with the cursor of the Link header."""
        scopes = [scope for scope in request.query.get("scope[]", "").split(",") if scope]
        after = int(request.query.get("cursor", "0"))
        found = [
            one for one in self.state.jobs.values() if one.project_id == project.id and (not scopes or one.status in scopes)
        ]
        found = sorted((one for one in found if not after or one.id < after), key=lambda one: -one.id)
        page = found[: min(int(request.query.get("per_page", "20")), self.page_cap)]
        where = f"{self._base()}/api/v4/projects/{project.id}/jobs?cursor={page[-1].id if page else 0}"
        links = {"Link": f'<{where}>; rel="next"'} if len(page) < len(found) else {}
        reply = Reply(200, [self.job(one) for one in page], links)
        if not self.stale_lists:
            self._stale.clear()
            return reply
        return self._stale.setdefault(f"{project.id} {sorted(request.query.items())}", reply)

    def _group(self, request: Request, key: str, rest: list[str]) -> Reply:
        found = next((one for one, path in self.state.groups.items() if key in (str(one), path)), None)
        if found is None:
            return NOT_FOUND
        if rest == ["runners"]:
            return self._page(request, [one for one in self.state.runners.values() if one.group_id == found])
        if rest[:1] == ["hooks"]:
            return self.hooks.answer(request, ("groups", found), rest[1:])
        if rest == ["projects"]:
            deep = request.query.get("include_subgroups") == "true"
            shared = request.query.get("with_shared") != "false"
            under = f"{self.state.groups[found]}/"
            inside = [
                one
                for one in self.state.projects.values()
                if one.group_id == found or (deep and one.path.startswith(under)) or (shared and found in one.shared_with)
            ]
            return self._projects(request, inside)
        return Reply(200, {"id": found, "full_path": self.state.groups[found]})

    def _projects(self, request: Request, found: list[FakeProject]) -> Reply:
        """By pages that are counted; the newest first unless `sort` says otherwise."""
        archived = request.query.get("archived")
        kept = sorted((one for one in found if archived in (None, str(one.archived).lower())), key=lambda one: one.id)
        kept = kept if request.query.get("sort") == "asc" else kept[::-1]
        size = min(int(request.query.get("per_page", "20")), self.page_cap)
        page = int(request.query.get("page", "1"))
        others = urlencode({**request.query, "page": str(page + 1)})
        where = f"{self._base()}/{request.path.lstrip('/')}?{others}"
        told = {"X-Total": str(len(kept))}
        links = {"Link": f'<{where}>; rel="next"', **told} if len(kept) > page * size else told
        shown = [{"id": one.id, "path_with_namespace": one.path} for one in kept[(page - 1) * size : page * size]]
        return Reply(200, shown, links)

    def _create_runner(self, request: Request) -> Reply:
        body = request.body
        kind = body["runner_type"]
        if kind == "project_type" and body.get("project_id") not in self.state.projects:
            return Reply(403, {"message": "403 Forbidden - Insufficient permissions"})
        if kind == "group_type" and body.get("group_id") not in self.state.groups:
            return Reply(403, {"message": "403 Forbidden - Insufficient permissions"})
        tags = tuple(dict.fromkeys(body.get("tag_list", [])))
        if not tags and not body.get("run_untagged", True):
            return Reply(400, {"message": "Tags list can not be empty when runner is not allowed to pick untagged jobs"})
        if len(tags) > 50:
            return Reply(400, {"message": "Tags list Too many tags specified. Please limit the number of tags to 50"})
        limit = body.get("maximum_timeout")
        if limit is not None and limit < 600:
            return Reply(400, {"message": "Maximum timeout needs to be at least 10 minutes"})
        runner = self.state.create_runner(
            description=body.get("description", ""),
            runner_type=kind,
            project_id=body.get("project_id"),
            group_id=body.get("group_id"),
            tags=tags,
            run_untagged=body.get("run_untagged", True),
            locked=body.get("locked", False),
            paused=body.get("paused", False),
            maximum_timeout=limit,
            note=body.get("maintenance_note", ""),
        )
        return Reply(201, {"id": runner.id, "token": runner.token, "token_expires_at": None})

    def _runner(self, request: Request, key: str, rest: list[str]) -> Reply:
        runner = self.state.runners.get(int(key)) if key.isdigit() else None
        if runner is None:
            return Reply(404, {"message": "404 Runner Not Found"})
        if rest == ["jobs"]:
            wanted = request.query.get("status")
            jobs = [one for one in self.state.jobs.values() if one.runner_id == runner.id and wanted in (None, one.status)]
            return Reply(200, [self.job(one) for one in jobs])
        if request.verb == "DELETE":
            self.state.remove_runner(runner)
            return Reply(204)
        if request.verb == "PUT":
            runner.paused = request.body.get("paused", runner.paused)
        return Reply(200, {**self.runner(runner), **self._details(runner)})

    def _verify(self, request: Request) -> Reply:
        runner = self.state.by_token(request.body.get("token"))
        if runner is None:
            return FORBIDDEN
        return Reply(200, {"id": runner.id, "token": runner.token, "token_expires_at": None})

    def _job_request(self, request: Request) -> Reply:
        runner = self.state.by_token(request.body.get("token"))
        if runner is None:
            return FORBIDDEN
        job = self.state.request_job(runner.token)
        if job is None:
            return Reply(204)
        return Reply(201, {"id": job.id, "token": job.token, "job_info": {"name": job.name, "project_id": job.project_id}})

    def _job_update(self, request: Request, key: str) -> Reply:
        job = self.state.jobs.get(int(key))
        if job is None or request.body.get("token") != job.token or job.status != "running":
            return FORBIDDEN
        if request.body.get("state") in ("success", "failed"):
            self.state.finish_job(job, request.body["state"])
        return Reply(200)

    def _page(self, request: Request, runners: list[FakeRunner]) -> Reply:
        kind = request.query.get("type")
        found = [self.runner(one) for one in runners if kind in (None, one.runner_type)]
        size = min(int(request.query.get("per_page", "20")), self.page_cap)
        page = int(request.query.get("page", "1"))
        onward = str(page + 1) if len(found) > page * size else ""
        headers = {"X-Page": str(page), "X-Next-Page": onward, "X-Per-Page": str(size), "X-Total": str(len(found))}
        return Reply(200, found[(page - 1) * size : page * size], headers)

    def runner(self, runner: FakeRunner) -> dict[str, Any]:
        online = self.state.online(runner)
        shown: dict[str, Any] = {
            "id": runner.id,
            "description": runner.description,
            "ip_address": None,
            "active": not runner.paused,
            "paused": runner.paused,
            "is_shared": runner.runner_type == "instance_type",
            "runner_type": runner.runner_type,
            "name": "gitlab-runner",
            "online": online,
            "created_at": stamp(runner.created_at),
            "status": "online" if online else "never_contacted" if runner.contacted_at is None else "offline",
        }
        if self.tells_execution:
            shown["job_execution_status"] = "active" if self.state.busy(runner) else "idle"
        return shown

    def _details(self, runner: FakeRunner) -> dict[str, Any]:
        return {
            "tag_list": list(runner.tags),
            "run_untagged": runner.run_untagged,
            "locked": runner.locked,
            "maximum_timeout": runner.maximum_timeout,
            "access_level": "not_protected",
            "maintenance_note": runner.note,
            "contacted_at": stamp(runner.contacted_at),
        }

    def job(self, job: FakeJob) -> dict[str, Any]:
        project = self.state.projects[job.project_id]
        runner = self.state.runners.get(job.runner_id or 0)
        return {
            "id": job.id,
            "status": job.status,
            "stage": job.stage,
            "name": job.name,
            "ref": job.ref,
            "tag": False,
            "allow_failure": False,
            "created_at": stamp(job.created_at),
            "started_at": stamp(job.started_at),
            "finished_at": stamp(job.finished_at),
            "queued_duration": self._queued(job),
            "user": {"id": 3, "username": job.user, "name": job.user.title()},
            "commit": {"id": job.sha, "short_id": job.sha[:8], "title": "A change"},
            "pipeline": {"id": job.pipeline_id, "project_id": project.id, "sha": job.sha, "ref": job.ref, "status": job.status},
            "failure_reason": job.failure_reason if job.status == "failed" else None,
            "web_url": f"{self._base()}/{project.path}/-/jobs/{job.id}",
            "runner": self.runner(runner) if runner else None,
            "tag_list": list(job.tags),
        }

    def _queued(self, job: FakeJob) -> float | None:
        """Seconds as pending, until now or until it was started (lib/api/entities/ci/job_basic.rb)."""
        if job.queued_at is None:
            return None
        return ((job.started_at or job.finished_at or self.state.now()) - job.queued_at).total_seconds()

    def pipeline(self, pipeline: FakePipeline) -> dict[str, Any]:
        project = self.state.projects[pipeline.project_id]
        statuses = [job.status for job in self.state.jobs.values() if job.pipeline_id == pipeline.id]
        return {
            "id": pipeline.id,
            "iid": 1,
            "project_id": project.id,
            "sha": "c" * 40,
            "ref": pipeline.ref,
            "status": statuses[0] if statuses else "created",
            "source": pipeline.source,
            "web_url": f"{self._base()}/{project.path}/-/pipelines/{pipeline.id}",
            "user": {"id": 3, "username": pipeline.user, "name": pipeline.user.title()},
        }

    def _own_token(self) -> dict[str, Any]:
        return {
            "id": 1,
            "name": "sublet",
            "revoked": False,
            "active": True,
            "scopes": self.scopes,
            "user_id": 3,
            "expires_at": "2027-01-31",
        }


def stamp(when: datetime | None) -> str | None:
    return None if when is None else when.strftime("%Y-%m-%dT%H:%M:%S.000Z")
