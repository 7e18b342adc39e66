"""GitHub's paths for the App: itself, its installations and their tokens, its webhook's deliveries, the rate limit."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.demo import owners, shapes
from app.demo.nouns import Account, Delivery
from app.demo.office import API, Office, body, number, paged
from app.demo.work import Refusal, not_found


def routes(office: Office) -> APIRouter:
    router = APIRouter(prefix=API)
    book = office.book

    def app_only(request: Request) -> None:
        office.caller(request).need_app()

    @router.get("/app")
    async def app(request: Request) -> Response:
        app_only(request)
        return JSONResponse(shapes.integration(book))

    @router.get("/app/installations")
    async def installations(request: Request) -> Response:
        app_only(request)
        shown = [shapes.installation(book, one) for one in book.accounts.values()]
        return paged(request, None, shown, f"{owners.api(book)}/app/installations")

    def installed(installation_id: int) -> Account:
        for account in book.accounts.values():
            if account.installation_id == installation_id:
                return account
        raise not_found()

    @router.get("/app/installations/{installation_id}")
    async def installation(request: Request, installation_id: int) -> Response:
        app_only(request)
        return JSONResponse(shapes.installation(book, installed(installation_id)))

    @router.post("/app/installations/{installation_id}/access_tokens")
    async def access_token(request: Request, installation_id: int) -> Response:
        app_only(request)
        answer = office.door.issue(installed(installation_id), await body(request))
        if "repositories" in answer:
            answer["repositories"] = [owners.repository(book, name) for name in answer["repositories"]]
        return JSONResponse(answer, 201)

    @router.get("/repos/{owner}/{repo}/installation")
    async def repository_installation(request: Request, owner: str, repo: str) -> Response:
        app_only(request)
        return JSONResponse(shapes.installation(book, book.accounts[office.repository(owner, repo).owner]))

    def account_of(login: str) -> Account:
        for account in book.accounts.values():
            if account.login.lower() == login.lower():
                return account
        raise not_found()

    @router.get("/orgs/{org}/installation")
    async def organization_installation(request: Request, org: str) -> Response:
        app_only(request)
        return JSONResponse(shapes.installation(book, office.organization(org)))

    @router.get("/users/{login}/installation")
    async def person_installation(request: Request, login: str) -> Response:
        app_only(request)
        return JSONResponse(shapes.installation(book, account_of(login)))

    @router.get("/installation/repositories")
    async def repositories(request: Request) -> Response:
        caller = office.caller(request)
        if caller.kind != "installation":
            raise Refusal(403, "You must authenticate with an installation access token in order to list repositories")
        own = [one.full_name for one in book.repositories.values() if one.owner == caller.account]
        shown = [owners.repository(book, one) for one in own if caller.repositories is None or one in caller.repositories]
        return paged(request, "repositories", shown, f"{owners.api(book)}/installation/repositories")

    @router.get("/app/hook/deliveries")
    async def deliveries(request: Request) -> Response:
        app_only(request)
        found, wanted = office.state.outbox.log(), request.query_params.get("status")
        if wanted in ("success", "failure"):
            found = [one for one in found if (200 <= one.status_code < 400) == (wanted == "success")]
        size = number(request, "per_page", 30, 100)
        cursor = request.query_params.get("cursor", "")
        start = next((place + 1 for place, one in enumerate(found) if str(one.id) == cursor), 0)
        page, rest = found[start : start + size], found[start + size :]
        url = f"{owners.api(book)}/app/hook/deliveries"
        headers = {"Link": f'<{url}?per_page={size}&cursor={page[-1].id}>; rel="next"'} if rest else None
        return JSONResponse([shapes.delivery_item(one) for one in page], headers=headers)

    def tried(delivery_id: int) -> Delivery:
        found = office.state.outbox.get(delivery_id)
        if found is None:
            raise not_found()
        return found

    @router.get("/app/hook/deliveries/{delivery_id}")
    async def delivery(request: Request, delivery_id: int) -> Response:
        app_only(request)
        return JSONResponse(shapes.delivery(tried(delivery_id)))

    @router.post("/app/hook/deliveries/{delivery_id}/attempts")
    async def attempt(request: Request, delivery_id: int) -> Response:
        app_only(request)
        office.state.outbox.again(tried(delivery_id).id, office.clock.now())
        office.state.changed()
        return JSONResponse({}, 202)

    @router.get("/app/hook/config")
    async def config(request: Request) -> Response:
        app_only(request)
        return JSONResponse({"content_type": "json", "insecure_ssl": "0", "secret": "********", "url": book.hook_url})

    @router.get("/rate_limit")
    async def rate_limit(request: Request) -> Response:
        rate = office.door.rate(office.caller(request), spend=0)
        core: dict[str, Any] = {name: rate[name] for name in ("limit", "used", "remaining", "reset")}
        registrations = core | {"limit": 10_000, "used": 0, "remaining": 10_000}
        few = core | {"limit": 30, "used": 0, "remaining": 30}
        resources = {"core": core, "search": few, "graphql": core, "actions_runner_registration": registrations}
        return JSONResponse({"resources": resources, "rate": core})

    return router
