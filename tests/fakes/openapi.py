"""A vendor's own API description, as a judge of what is sent and what is answered.

Reads OpenAPI 3.0 and Swagger 2.0. Null is allowed wherever the description forgets to say so only
if the caller asks for it (`lenient`), and known mistakes of the description are passed as `amend`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

DATA = Path(__file__).parents[3] / "shared" / "data" / "forges"


class Description:
    """One description file. Every method returns a list of complaints."""

    def __init__(
        self,
        path: Path,
        prefix: str = "",
        *,
        lenient: bool = False,
        amend: Mapping[str, Any] | None = None,
        queries: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        """`queries` are query parameters that the description leaves out, by the end of the path."""
        self._root: dict[str, Any] = _convert(json.loads(path.read_text()), lenient)
        for place, value in (amend or {}).items():
            _put(self._root, place.split("/"), value)
        self._prefix, self._queries = prefix, queries or {}
        self._paths = [(_pattern(template), template) for template in self._root["paths"]]

    def operation(self, verb: str, path: str) -> dict[str, Any] | None:
        plain = self._prefix + path
        for pattern, template in self._paths:
            if pattern.fullmatch(plain):
                found = self._root["paths"][template].get(verb.lower())
                if found is not None:
                    return found
        return None

    def request(self, verb: str, path: str, query: Mapping[str, str], body: Any) -> list[str]:
        operation = self.operation(verb, path)
        if operation is None:
            return [f"{verb} {path} is not in the description"]
        parameters = [self._resolve(one) for one in operation.get("parameters", [])]
        known = {one["name"] for one in parameters if one["in"] == "query"}
        for end, names in self._queries.items():
            known |= names if path.endswith(end) else set()
        asked = [name.removesuffix("[]") for name in query]
        complaints = [f"{verb} {path}: unknown query parameter {name}" for name in asked if name not in known]
        schema = self._request_schema(operation, parameters)
        if body is not None and schema is None:
            complaints.append(f"{verb} {path}: takes no body")
        if schema is not None and body is not None:
            complaints += self._check(f"{verb} {path}", schema, body, closed=True)
        return complaints

    def response(self, verb: str, path: str, status: int, body: Any) -> list[str]:
        operation = self.operation(verb, path)
        if operation is None:
            return [f"{verb} {path} is not in the description"]
        responses = operation["responses"]
        if str(status) not in responses:
            documented = status >= 400  # descriptions list few of the errors that can come
            return [] if documented else [f"{verb} {path}: {status} is not documented"]
        answer = self._resolve(responses[str(status)])
        schema = answer.get("schema") or next((one.get("schema") for one in answer.get("content", {}).values()), None)
        if schema is None or status >= 400 or status == 204:
            return []
        if isinstance(body, list) and "$ref" in schema:  # Swagger of GitLab names the entity of one row
            schema = {"type": "array", "items": schema}
        return self._check(f"{verb} {path} -> {status}", schema, body, closed=False)

    def _request_schema(self, operation: dict[str, Any], parameters: list[dict[str, Any]]) -> dict[str, Any] | None:
        for one in parameters:
            if one["in"] == "body":
                return one["schema"]
        content = operation.get("requestBody", {}).get("content", {})
        return content.get("application/json", {}).get("schema")

    def _check(self, place: str, schema: dict[str, Any], value: Any, *, closed: bool) -> list[str]:
        resolved = self._resolve(schema)
        whole = {key: self._root[key] for key in ("components", "definitions") if key in self._root}
        validator = jsonschema.Draft7Validator({"allOf": [schema], **whole})
        complaints = [
            f"{place}: {'/'.join(map(str, error.absolute_path))}: {error.message[:300]}"
            for error in validator.iter_errors(value)  # pyright: ignore[reportUnknownMemberType]
        ]
        properties = resolved.get("properties")
        if closed and properties and isinstance(value, dict):
            complaints += [f"{place}: unknown field {name}" for name in value if name not in properties]  # pyright: ignore[reportUnknownVariableType]
        return complaints

    def _resolve(self, value: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in value:
            found: Any = self._root
            for step in value["$ref"].removeprefix("#/").split("/"):
                found = found[step.replace("~1", "/")]
            value = found
        return value


@cache
def github() -> Description:
    return Description(DATA / "github" / "openapi-github-runners-subset.json")


@cache
def github_enterprise() -> Description:
    return Description(DATA / "github" / "openapi-ghec-enterprise-runners-subset.json")


@cache
def gitlab() -> Description:
    """GitLab's description says `string` of much that is none, requires both group and project of a runner, and
    leaves out keyset pages."""
    anything: dict[str, Any] = {}
    details = "definitions/API_Entities_Ci_RunnerDetails/properties"
    wrong = ("tag_list", "run_untagged", "locked", "maximum_timeout", "projects", "groups")
    return Description(
        DATA / "gitlab" / "openapi-gitlab-runners-jobs-subset.json",
        "/api/v4",
        lenient=True,
        amend={
            "definitions/postApiV4UserRunners/required": ["runner_type"],
            "definitions/API_Entities_Ci_RunnerRegistrationDetails/properties/id": {"type": "integer"},
            **{f"{details}/{name}": anything for name in wrong},
            "definitions/API_Entities_ProjectHook/properties/id": {"type": "integer"},
            "definitions/API_Entities_ProjectHook/properties/project_id": {"type": "integer"},
        },
        queries={"/jobs": frozenset({"pagination", "order_by", "sort", "cursor"})},  # doc/api/rest/_index.md
    )


@cache
def gitea() -> Description:
    """Gitea's description leaves out that a listing of runners has pages (routers/api/v1/shared/runners.go: ListRunners)."""
    return _kin("gitea")


@cache
def forgejo() -> Description:
    return _kin("forgejo")


def _kin(name: str) -> Description:
    """Gitea and Forgejo describe themselves alike: Swagger 2.0, made by the same tool, which never says that null can come."""
    path = DATA / name / f"openapi-{name}-actions-runners-subset.json"
    return Description(path, lenient=True, queries={"/actions/runners": frozenset({"page", "limit"})})


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(
        "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{[^}]+\})", template))
    )


def _convert(value: Any, lenient: bool) -> Any:
    """OpenAPI's `nullable` as JSON Schema says it; formats are left out."""
    if isinstance(value, list):
        return [_convert(one, lenient) for one in value]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {key: _convert(one, lenient) for key, one in value.items() if key not in ("nullable", "example")}  # pyright: ignore[reportUnknownVariableType]
    kind = found.get("type")
    if (value.get("nullable") or lenient) and isinstance(kind, str):  # pyright: ignore[reportUnknownMemberType]
        found["type"] = [kind, "null"]
        if isinstance(found.get("enum"), list):
            found["enum"] = [*found["enum"], None]
    return found


def _put(root: dict[str, Any], steps: list[str], value: Any) -> None:
    for step in steps[:-1]:
        root = root[step]
    root[steps[-1]] = value
