"""GitHub's paths for repositories, workflow runs and jobs."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from app.demo import owners, shapes
from app.demo.nouns import Job, Repository, Run
from app.demo.office import API, Office, body, paged
from app.demo.owners import api
from app.demo.work import not_found

PERSON = "mona"  # whose the personal token is


def routes(office: Office) -> APIRouter:
    router = APIRouter(prefix=API)
    book, state = office.book, office.state

    def repository(request: Request, permission: str, level: str) -> str:
        """The full name, in its own spelling, once the caller may have it."""
        caller = office.caller(request)
        found = office.repository(request.path_params["owner"], request.path_params["repo"])
        caller.need(permission, level, owner=found.owner, repository=found.full_name)
        return found.full_name

    @router.get("/repos/{owner}/{repo}")
    async def one_repository(request: Request) -> Response:
        return JSONResponse(owners.repository(book, repository(request, "metadata", "read")))

    @router.get("/orgs/{org}")
    async def organization(request: Request, org: str) -> Response:
        office.caller(request)
        account = office.organization(org)
        return JSONResponse(owners.organization(book, account) | {"type": "Organization", "html_url": f"{book.origin}/{org}"})

    def listed(request: Request, found: list[Repository], path: str) -> Response:
        """The oldest first, as whoever asks by `sort=created&direction=asc` wants it; that is the only order here."""
        shown = [owners.repository(book, one.full_name) for one in sorted(found, key=lambda one: (one.created_at, one.id))]
        return paged(request, None, shown, f"{api(book)}{path}")

    def owned(login: str) -> list[Repository]:
        return [one for one in book.repositories.values() if one.owner.lower() == login.lower()]

    @router.get("/orgs/{org}/repos")
    async def organization_repositories(request: Request, org: str) -> Response:
        """Private ones too: the personal token belongs to somebody who may see them. An App asks for its own elsewhere."""
        office.caller(request).need_person()
        return listed(request, owned(office.organization(org).login), f"/orgs/{org}/repos")

    @router.get("/users/{login}/repos")
    async def persons_repositories(request: Request, login: str) -> Response:
        office.caller(request).need_person()
        if login.lower() not in (name.lower() for name in book.accounts):
            raise not_found()
        return listed(request, [one for one in owned(login) if not one.private], f"/users/{login}/repos")

    @router.get("/user/repos")
    async def own_repositories(request: Request) -> Response:
        office.caller(request).need_person()
        return listed(request, owned(PERSON), "/user/repos")

    @router.get("/user")
    async def user(request: Request) -> Response:
        office.caller(request).need_person()
        return JSONResponse(owners.user(book, PERSON))

    @router.get("/repos/{owner}/{repo}/tarball/{sha}")
    async def tarball(request: Request, sha: str) -> Response:
        full_name = repository(request, "contents", "read")
        if office.archive is None:
            raise not_found()
        return Response(office.archive.tarball(full_name, sha), media_type="application/x-gzip")

    @router.get("/repos/{owner}/{repo}/actions/runs")
    async def runs(request: Request) -> Response:
        full_name = repository(request, "actions", "read")
        wanted = request.query_params
        found: list[Run] = []
        for run in reversed(book.runs.values()):
            ends = shapes.verdict(shapes.latest_jobs(book, run.id))
            fits = (
                run.repository == full_name
                and wanted.get("status") in (None, *ends)
                and wanted.get("event") in (None, run.event)
                and wanted.get("branch") in (None, run.branch)
                and wanted.get("head_sha") in (None, run.sha)
            )
            if fits:
                found.append(run)
        shown = [shapes.run(book, one) for one in found[:1000]]  # GitHub shows at most 1,000 of a filtered search
        return paged(request, "workflow_runs", shown, f"{api(book)}/repos/{full_name}/actions/runs")

    @router.get("/repos/{owner}/{repo}/actions/runs/{run_id}")
    async def run(request: Request, run_id: int) -> Response:
        return JSONResponse(shapes.run(book, state.run(repository(request, "actions", "read"), run_id)))

    @router.get("/repos/{owner}/{repo}/actions/runs/{run_id}/jobs")
    async def run_jobs(request: Request, run_id: int) -> Response:
        full_name = repository(request, "actions", "read")
        state.run(full_name, run_id)
        found = [one for one in book.jobs.values() if one.run_id == run_id]
        if request.query_params.get("filter", "latest") != "all":
            found = [one for one in found if not one.superseded]
        address = f"{api(book)}/repos/{full_name}/actions/runs/{run_id}/jobs"
        return paged(request, "jobs", [shapes.job(book, one) for one in found], address)

    @router.post("/repos/{owner}/{repo}/actions/runs/{run_id}/cancel")
    async def cancel(request: Request, run_id: int) -> Response:
        found = state.run(repository(request, "actions", "write"), run_id)
        state.cancel_run(found.id, office.clock.now())
        return JSONResponse({}, 202)

    def again(run_id: int, *, failed: bool) -> Response:
        jobs: list[Job] = shapes.latest_jobs(book, run_id)
        chosen = [one.id for one in jobs if not failed or one.conclusion != "success"]
        state.rerun(chosen, office.clock.now())
        return JSONResponse({}, 201)

    @router.post("/repos/{owner}/{repo}/actions/runs/{run_id}/rerun")
    async def rerun(request: Request, run_id: int) -> Response:
        return again(state.run(repository(request, "actions", "write"), run_id).id, failed=False)

    @router.post("/repos/{owner}/{repo}/actions/runs/{run_id}/rerun-failed-jobs")
    async def rerun_failed(request: Request, run_id: int) -> Response:
        return again(state.run(repository(request, "actions", "write"), run_id).id, failed=True)

    @router.get("/repos/{owner}/{repo}/actions/jobs/{job_id}")
    async def job(request: Request, job_id: int) -> Response:
        return JSONResponse(shapes.job(book, state.job(repository(request, "actions", "read"), job_id)))

    @router.post("/repos/{owner}/{repo}/actions/jobs/{job_id}/rerun")
    async def rerun_job(request: Request, job_id: int) -> Response:
        found = state.job(repository(request, "actions", "write"), job_id)
        await body(request)
        state.rerun([found.id], office.clock.now())
        return JSONResponse({}, 201)

    @router.get("/repos/{owner}/{repo}/actions/jobs/{job_id}/logs")
    async def logs(request: Request, job_id: int) -> Response:
        found = state.job(repository(request, "actions", "read"), job_id)
        return RedirectResponse(f"{shapes.job_page(book, found)}/logs", 302)

    return router
