"""What went wrong, said once for every reader: a page for people, an object with the CLI's exit code for programs."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from app.store.db import UNREACHABLE

EXITS: Mapping[str, int] = {"failed": 1, "usage": 2, "not_found": 3, "not_allowed": 4, "conflict": 5}
"""Error codes and the exit codes the CLI ends with (docs/reference: exit codes)."""

CODES: Mapping[int, str] = {401: "not_allowed", 403: "not_allowed", 404: "not_found", 409: "conflict", 429: "failed"}
PROGRAM_PATHS = ("/api/", "/hooks/", "/node/", "/metrics", "/healthz", "/readyz", "/openapi.json", "/live/")


class Problem(HTTPException):
    """A refusal with a sentence for people and, where there is one, what to do next."""

    def __init__(self, status: int, message: str, *, hint: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message, dict(headers) if headers else None)
        self.message, self.hint = message, hint


class LoginNeeded(Problem):
    """Nobody is logged in, and the page is for people who are."""

    def __init__(self) -> None:
        super().__init__(
            401,
            "Not logged in.",
            hint="Send `Authorization: Bearer TOKEN`, or open a login link from `sublet login`.",
            headers={"www-authenticate": 'Bearer realm="sublet"'},
        )


class TooLarge(Problem):
    """The body is larger than what this address takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            413, f"The body is larger than the {size(limit)} that this address takes.", headers={"connection": "close"}
        )


class TooSlow(Problem):
    """The body does not come to its end."""

    def __init__(self) -> None:
        super().__init__(408, "The body took too long.", headers={"connection": "close"})


def size(octets: int) -> str:
    """`64 KiB`, `25 MiB`."""
    return f"{octets // 1024} KiB" if octets < 1024 * 1024 else f"{octets // (1024 * 1024)} MiB"


def code_of(status: int) -> str:
    return CODES.get(status, "usage" if status < 500 else "failed")


def wants_page(request: Request) -> bool:
    """Whether a person with a browser asks, who should see a page and not an object."""
    path = request.url.path
    if path.endswith(".json") or path.startswith(PROGRAM_PATHS):
        return False
    return "text/html" in request.headers.get("accept", "")


def explain(error: Exception) -> Problem:
    """Any error as a `Problem`; nothing of an unexpected one is told, its request id leads to the log."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        return Problem(422, _first_mistake(error))
    if isinstance(error, HTTPException):
        sentences = {404: "There is nothing at this address.", 405: "This address does not take that method."}
        message = sentences.get(error.status_code) or error.detail or HTTPStatus(error.status_code).phrase
        return Problem(error.status_code, message, headers=error.headers)
    if isinstance(error, UNREACHABLE):
        hint = "Jobs wait meanwhile; everything goes on by itself when it is back."
        return Problem(503, "The database does not answer.", hint=hint, headers={"retry-after": "5"})
    return Problem(
        500, "Something failed here, and it is not your request.", hint="The log has the cause under this request id."
    )


def _first_mistake(error: RequestValidationError) -> str:
    """Where the input is wrong and why, without repeating what was sent."""
    mistakes: list[dict[str, Any]] = [dict(mistake) for mistake in error.errors()]
    if not mistakes:
        return "The request cannot be read."
    place = ".".join(str(part) for part in mistakes[0].get("loc", ()) if part not in ("body", "query", "path"))[:100]
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    return f"{place or 'The request'}: {str(mistakes[0].get('msg', 'wrong'))[:200]}{more}"


def reply(problem: Problem, request_id: str) -> JSONResponse:
    """The object for programs."""
    code = code_of(problem.status_code)
    error = {"code": code, "exit": EXITS[code], "message": problem.message, "hint": problem.hint, "request_id": request_id}
    return JSONResponse({"schema_version": 1, "error": error}, problem.status_code, headers=problem.headers)
