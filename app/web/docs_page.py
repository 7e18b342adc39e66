"""/docs: our own page over our own OpenAPI description, drawn on the server; no script of anybody else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import JSONResponse, Response

from app.web.auth import Gate
from app.web.pages import Pages

METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    place: str  # "path", "query", "body"
    kind: str
    required: bool
    text: str


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: str
    name: str
    text: str
    fields: tuple[Field, ...]
    answers: tuple[tuple[str, str, tuple[Field, ...]], ...]  # status, words, fields
    example: str


@dataclass(frozen=True, slots=True)
class Chapter:
    title: str
    operations: tuple[Operation, ...]


class Description:
    """The OpenAPI document as chapters of operations."""

    def __init__(self, document: Mapping[str, Any], base: str) -> None:
        self._document, self._base = document, base

    def chapters(self) -> tuple[Chapter, ...]:
        found: dict[str, list[Operation]] = {}
        for path, item in self._document.get("paths", {}).items():
            for method in METHODS:
                if method in item:
                    operation = item[method]
                    tag = str((operation.get("tags") or ["service"])[0])
                    found.setdefault(tag, []).append(self._operation(method, path, operation))
        return tuple(Chapter(tag[:1].upper() + tag[1:], tuple(operations)) for tag, operations in found.items())

    def _operation(self, method: str, path: str, operation: Mapping[str, Any]) -> Operation:
        fields = [
            Field(
                str(parameter["name"]),
                str(parameter["in"]),
                self._kind(parameter.get("schema", {})),
                bool(parameter.get("required")),
                str(parameter.get("description") or parameter.get("schema", {}).get("description") or ""),
            )
            for parameter in operation.get("parameters", ())
        ]
        body = self._json(operation.get("requestBody", {}))
        fields += self._fields(body, "body")
        answers = [
            (str(status), str(answer.get("description", "")), tuple(self._fields(self._json(answer), "")))
            for status, answer in operation.get("responses", {}).items()
            if str(status) != "422"
        ]
        text = str(operation.get("description") or operation.get("summary") or "")
        return Operation(method.upper(), path, str(operation.get("summary", "")), text, tuple(fields), tuple(answers),
                         self._example(method, path, body))  # fmt: skip

    def _json(self, holder: Mapping[str, Any]) -> Mapping[str, Any]:
        return holder.get("content", {}).get("application/json", {}).get("schema", {})

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        reference = schema.get("$ref", "")
        if not reference:
            return schema
        name = str(reference).rpartition("/")[2]
        return self._document.get("components", {}).get("schemas", {}).get(name, {})

    def _fields(self, schema: Mapping[str, Any], place: str) -> list[Field]:
        whole = self._resolved(schema)
        required = set(cast("list[str]", whole.get("required", [])))
        return [
            Field(name, place, self._kind(part), name in required, str(part.get("description", "")))
            for name, part in whole.get("properties", {}).items()
        ]

    def _kind(self, schema: Mapping[str, Any]) -> str:
        if "$ref" in schema:
            return str(schema["$ref"]).rpartition("/")[2]
        if "anyOf" in schema:
            return " or ".join(self._kind(part) for part in schema["anyOf"])
        if "enum" in schema:
            return " | ".join(str(value) for value in schema["enum"])
        if "const" in schema:
            return str(schema["const"])
        kind = str(schema.get("type", "any"))
        if kind == "array":
            return f"list of {self._kind(schema.get('items', {}))}"
        return f"{kind} ({schema['format']})" if "format" in schema else kind

    def _example(self, method: str, path: str, body: Mapping[str, Any]) -> str:
        address = f"{self._base}{path.replace('{', '').replace('}', '').replace('/ref', '/brave-otter-41')}"
        if not path.startswith("/api/"):
            return ""
        words = ["curl", "-H", '"Authorization: Bearer $SUBLET_TOKEN"']
        if method != "get":
            names = [field.name for field in self._fields(body, "body") if field.required]
            words += ["-X", method.upper()]
            if names:
                words += ["--json", f"'{json.dumps(dict.fromkeys(names, '…'), ensure_ascii=False)}'"]
        return " ".join([*words, address])


def router(app: FastAPI, gate: Gate, pages: Pages, public_url: str) -> APIRouter:
    """/docs and /openapi.json; both are open, for they tell nothing that is not in the source."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/openapi.json")
    async def description() -> Response:
        return JSONResponse(app.openapi())

    @routes.get("/docs")
    async def page(request: Request) -> Response:
        visitor = await gate.visitor(request)
        chapters = Description(app.openapi(), public_url).chapters()
        return pages.page(request, "docs.html", visitor, chapters=chapters, twin="/openapi.json")

    return routes
