"""GitHub's paths for self-hosted runners: of a repository, an organisation, an enterprise."""

from __future__ import annotations

import base64
import json

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.demo import shapes
from app.demo.nouns import Book
from app.demo.office import API, Office, body, paged, words
from app.demo.owners import api
from app.demo.state import Minted
from app.demo.work import Refusal, not_found


def jit_config(book: Book, minted: Minted) -> str:
    """What generate-jitconfig hands out: base64 of a JSON object of file name -> base64 of the file. A secret."""
    runner = minted.runner
    settings = {
        "agentId": runner.id,
        "agentName": runner.name,
        "poolId": runner.group_id,
        "poolName": "Default",
        "ephemeral": True,
        "disableUpdate": True,
        "serverUrl": f"{book.origin}/_runner",
        "gitHubUrl": f"{book.origin}/{runner.scope.partition('/')[2]}",
        "workFolder": runner.work_folder,
    }
    credentials = {"scheme": "OAuthAccessToken", "data": {"accessToken": minted.token}}
    files = {".runner": settings, ".credentials": credentials}
    packed = {name: base64.b64encode(json.dumps(value).encode()).decode() for name, value in files.items()}
    return base64.b64encode(json.dumps(packed).encode()).decode()


def routes(office: Office) -> APIRouter:
    router = APIRouter(prefix=API)

    def scope_of(request: Request, level: str) -> str:
        """The scope that the path names, in its own spelling, once the caller may have it."""
        caller, where = office.caller(request), request.path_params
        if "repo" in where:
            found = office.repository(where["owner"], where["repo"])
            caller.need("administration", level, owner=found.owner, repository=found.full_name)
            return f"repos/{found.full_name}"
        if "org" in where:
            account = office.organization(where["org"])
            caller.need("organization_self_hosted_runners", level, owner=account.login)
            return f"orgs/{account.login}"
        caller.need_person()  # an App cannot manage an enterprise's runners
        for account in office.book.accounts.values():
            if account.enterprise and account.enterprise.lower() == where["enterprise"].lower():
                return f"enterprises/{account.enterprise}"
        raise not_found()

    async def create(request: Request) -> Response:
        scope, asked = scope_of(request, "write"), await body(request)
        try:
            group = int(asked["runner_group_id"])
            name, folder = str(asked["name"]), str(asked.get("work_folder", "_work"))
        except (KeyError, TypeError, ValueError):
            raise Refusal(422, "Invalid request.", "name and runner_group_id are required") from None
        labels = words(asked.get("labels"), "labels")
        minted = office.state.register(scope, name, labels, group, office.clock.now(), folder)
        answer = {"runner": shapes.runner(minted.runner, online=False), "encoded_jit_config": jit_config(office.book, minted)}
        return JSONResponse(answer, 201)

    async def listing(request: Request) -> Response:
        scope, now = scope_of(request, "read"), office.clock.now()
        named = request.query_params.get("name")
        found = [one for one in office.book.runners.values() if one.scope == scope]
        if named is not None:
            found = [one for one in found if one.name.lower() == named.lower()]
        shown = [shapes.runner(one, online=office.state.online(one, now)) for one in found]
        return paged(request, "runners", shown, f"{api(office.book)}/{scope}/actions/runners")

    async def one(request: Request, runner_id: int) -> Response:
        found = office.state.runner(scope_of(request, "read"), runner_id)
        return JSONResponse(shapes.runner(found, online=office.state.online(found, office.clock.now())))

    async def remove(request: Request, runner_id: int) -> Response:
        office.state.remove(scope_of(request, "write"), runner_id)
        return Response(status_code=204)

    async def groups(request: Request) -> Response:
        scope = scope_of(request, "read")
        shown = [shapes.group(office.book, one) for one in office.state.groups(scope)]
        return paged(request, "runner_groups", shown, f"{api(office.book)}/{scope}/actions/runner-groups")

    async def group(request: Request, group_id: int) -> Response:
        for found in office.state.groups(scope_of(request, "read")):
            if found.id == group_id:
                return JSONResponse(shapes.group(office.book, found))
        raise not_found()

    for where in ("/repos/{owner}/{repo}", "/orgs/{org}", "/enterprises/{enterprise}"):
        runners = f"{where}/actions/runners"
        router.add_api_route(f"{runners}/generate-jitconfig", create, methods=["POST"])
        router.add_api_route(runners, listing, methods=["GET"])
        router.add_api_route(f"{runners}/{{runner_id}}", one, methods=["GET"])
        router.add_api_route(f"{runners}/{{runner_id}}", remove, methods=["DELETE"])
        if not where.startswith("/repos"):
            router.add_api_route(f"{where}/actions/runner-groups", groups, methods=["GET"])
            router.add_api_route(f"{where}/actions/runner-groups/{{group_id}}", group, methods=["GET"])
    return router
