"""Every repository of one owner on GitHub, as far as it is ours to see, page by page and by conditional requests.

An App is shown what it was installed on. A personal token asks for the organisation, or else for the person: GitHub
lists a person's public repositories to anybody, and the private ones only to the person's own token, elsewhere.
Repositories that are archived or that GitHub has disabled run no workflows, and are left out.
"""

from __future__ import annotations

from app.core.model import Scope, ScopeKind
from app.forges.answers import Answer
from app.forges.budget import Rank
from app.forges.contract import ForgeDown, ForgeRefused
from app.forges.github_auth import Purpose
from app.forges.github_calls import PAGE, PAGES, Call, GitHubCalls, counted
from app.forges.github_payload import REPOSITORY, home
from app.forges.payload import Table, Unreadable, rows, truth, whole

Found = dict[str, bool]  # full name -> whether workflows run in it


def repositories(calls: GitHubCalls, owner: str, installation: str) -> list[str]:
    """Full names. Raises ForgeRefused where GitHub shows no such owner; ForgeDown."""
    scope = Scope(ScopeKind.ORGANIZATION, owner)
    home(scope)  # an owner's name, and no other part of a URL
    call = Call(scope, Purpose.JOBS, Rank.POLL, f"list the repositories of {owner}", installation)
    found = _installed(calls, call) if calls.auth.apps else _visible(calls, call)
    return sorted(name for name, lives in found.items() if lives and name.partition("/")[0].casefold() == owner.casefold())


def _installed(calls: GitHubCalls, call: Call) -> Found:
    """What the App is installed on."""

    def reading(answer: Answer) -> tuple[int, list[tuple[str, bool]]]:
        return counted(answer, "repositories", _repository)

    found: Found = {}
    for page in range(1, PAGES + 1):
        total, more = calls.page(call, "/installation/repositories", {"per_page": PAGE, "page": page}, reading)
        found |= dict(more)
        if len(found) >= total:
            return found
        if not more:
            break
    raise ForgeDown(f"The repositories of {call.scope.path} changed while {calls.wire.forge} listed them")


def _visible(calls: GitHubCalls, call: Call) -> Found:
    """What the personal token is shown of an organisation, or else of a person."""
    owner = call.scope.path
    found = _listed(calls, call, f"/orgs/{owner}/repos", "type", "all")
    if found is not None:
        return found
    found = _listed(calls, call, f"/users/{owner}/repos", "type", "owner")
    if found is None:
        raise ForgeRefused(f"GitHub has no organisation or person {owner}, or shows it not to our token.")
    own = _listed(calls, call, "/user/repos", "affiliation", "owner,collaborator")
    return found | (own or {})


def _listed(calls: GitHubCalls, call: Call, path: str, choice: str, chosen: str) -> Found | None:
    """Every page of a listing without a count; None: there is no such owner."""
    found: Found = {}
    for page in range(1, PAGES + 1):
        # The oldest first, so that one that is made meanwhile moves no other to a page that was read.
        query: dict[str, str | int] = {choice: chosen, "sort": "created", "direction": "asc", "per_page": PAGE, "page": page}
        more = calls.page(call, path, query, _page, (200, 404))
        if more is None:
            return None
        found |= dict(more[0])
        if not more[1]:
            return found
    raise ForgeDown(f"{calls.wire.forge} gave more than {PAGES} pages when asked to {call.deed}")


def _page(answer: Answer) -> tuple[list[tuple[str, bool]], bool] | None:
    """Those of one page, and whether to ask for a next one. Raises Unreadable.

    After a full page always: an ETag may stand for the body alone, and so a 304 would hide that others follow by now."""
    if answer.status == 404:
        return None
    found = [_repository(row) for row in rows(answer.body, "the answer")]
    return found, len(found) >= PAGE or 'rel="next"' in answer.headers.get("link", "")


def _repository(row: Table) -> tuple[str, bool]:
    name = whole(row, "full_name", REPOSITORY)
    if not name:
        raise Unreadable("a repository without name")
    return name, not truth(row, "archived") and not truth(row, "disabled")
