"""A vendor's own OpenAPI file as the judge of what a wrapper sends and of what our fake of that vendor answers.

Reads OpenAPI 3.0 and 3.1, as JSON or YAML. Stricter than the files themselves in one way: a field that a file does not
name is a mistake, in a request and in an answer, wherever the file does not say that others may come.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

import jsonschema
import yaml
from jsonschema import exceptions

from providers.conformance import Missing
from tests.parts import lacks

SPECS = Path(__file__).parents[3] / "shared" / "data" / "provider-specs"
PART = "the vendors' API descriptions"
REMEDY = "keep `shared/data/provider-specs` beside the repository"
VALUES = ("items", "additionalProperties", "contains", "propertyNames")
BRANCHES = ("allOf", "anyOf", "oneOf")
NO_BODY = (None, "", b"")
WORDS: Mapping[str, Callable[[str], Any]] = {"integer": int, "number": float, "boolean": {"true": True, "false": False}.get}

Json = dict[str, Any]
T = TypeVar("T")


@contextlib.asynccontextmanager
async def standing(factory: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncGenerator[T, None]:
    """A bench for a test, which is skipped, or fails under REQUIRE, where a description is missing."""
    try:
        stand = factory()
        bench = await stand.__aenter__()
    except Missing:
        lacks(PART, REMEDY)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(stand)
        yield bench


class Spec:
    """One description file. The two judges raise `AssertionError` with a readable reason."""

    def __init__(self, root: Json, name: str) -> None:
        self.name = name
        self._root = root
        self._old = str(root["openapi"]).startswith("3.0")
        self._prefixes = [urlsplit(str(one["url"])).path.rstrip("/") for one in root.get("servers", [])]
        self._paths = sorted(((_pattern(path), path) for path in root["paths"]), key=lambda one: one[1].count("{"))
        components = root.get("components", {})
        schemas = {key: self._schema(one) for key, one in components.get("schemas", {}).items()}
        self._whole = {"components": {**components, "schemas": schemas}}
        self._validators: dict[tuple[str, ...], jsonschema.Draft202012Validator | None] = {}

    @staticmethod
    @cache
    def load(name: str) -> Spec:
        """The description at a path below the vendors' folder. Raises `Missing` where this machine does not have it."""
        path = SPECS / name
        if not path.is_file():
            raise Missing(f"{PART}: {REMEDY}")
        text = path.read_text()
        return Spec(json.loads(text) if path.suffix == ".json" else yaml.load(text, _Plain), name)

    @staticmethod
    def needed(name: str) -> Spec:
        """`load` for a test: it is skipped, or fails under REQUIRE, where the file is missing."""
        try:
            return Spec.load(name)
        except Missing:
            lacks(PART, REMEDY)

    def amended(self, mistakes: Mapping[str, Any]) -> Spec:
        """The same with known mistakes put right: place, as `components/schemas/Pod/required`, -> what belongs there."""
        root = copy.deepcopy(self._root)
        for place, value in mistakes.items():
            *steps, last = [step.replace("~1", "/") for step in place.split("/")]
            node = root
            for step in steps:
                node = node[step]
            node[last] = value
        return Spec(root, self.name)

    @property
    def operations(self) -> Sequence[tuple[str, str]]:
        """Every (method, path template)."""
        verbs = ("get", "put", "post", "delete", "patch")
        return [(verb.upper(), path) for path, item in self._root["paths"].items() for verb in verbs if verb in item]

    @property
    def schemas(self) -> Sequence[str]:
        """The names of all schemas."""
        return list(self._root["components"]["schemas"])

    def schema(self, name: str) -> Json:
        """A named schema as the file has it, for tests that count its values."""
        return self._root["components"]["schemas"][name]

    def request(self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None) -> None:
        """What is sent fits. `query` holds what the URL says: texts, or lists of them."""
        template, operation, found = self._operation(method, path)
        place = f"{self.name}: {method} {template}"
        parameters = self._parameters(template, operation)
        for one in parameters:
            if one["in"] == "path":
                self._parameter(place, one, found[one["name"]])
        known = {one["name"]: one for one in parameters if one["in"] == "query"}
        for name, value in (query or {}).items():
            assert name in known, f"{place}: unknown query parameter {name!r}"
            self._parameter(place, known[name], value)
        absent = [name for name, one in known.items() if one.get("required") and name not in (query or {})]
        assert not absent, f"{place}: without the query parameter {absent}"
        sent = self._resolved(operation.get("requestBody", {}))
        if body in NO_BODY:
            assert not sent.get("required"), f"{place}: without a body"
            return
        assert sent.get("content"), f"{place}: takes no body"
        self._judge(place, (template, method, "request"), sent, body)

    def response(self, method: str, path: str, status: int, body: Any = None) -> None:
        """What is answered fits. Descriptions list few of the errors that can come, so an unlisted one from 400 on passes."""
        template, operation, _ = self._operation(method, path)
        place = f"{self.name}: {method} {template} -> {status}"
        responses = operation["responses"]
        listed = next((key for key in (str(status), f"{status // 100}XX", "default") if key in responses), None)
        if listed is None:
            assert status >= 400, f"{place}: is not in the description, which has {', '.join(responses)}"
            return
        answered = self._resolved(responses[listed])
        if body in NO_BODY:
            assert not answered.get("content"), f"{place}: without a body"
            return
        self._judge(place, (template, method, listed), answered, body)

    def _operation(self, method: str, path: str) -> tuple[str, Json, Mapping[str, str]]:
        tries = [path, *(path.removeprefix(prefix) for prefix in self._prefixes if prefix and path.startswith(prefix + "/"))]
        others: set[str] = set()
        for tried in tries:
            for pattern, template in self._paths:
                match = pattern.fullmatch(tried)
                if match is None:
                    continue
                item = self._root["paths"][template]
                if method.lower() in item:
                    names = re.findall(r"\{([^}]+)\}", template)
                    return template, item[method.lower()], dict(zip(names, map(unquote, match.groups()), strict=True))
                others |= set(item)
        known = f"; that path knows {', '.join(sorted(others))}" if others else ""
        raise AssertionError(f"{self.name}: {method} {path} is not in the description{known}")

    def _parameters(self, template: str, operation: Json) -> list[Json]:
        given = [*self._root["paths"][template].get("parameters", []), *operation.get("parameters", [])]
        return [self._resolved(one) for one in given]

    def _parameter(self, place: str, parameter: Json, value: Any) -> None:
        schema = parameter.get("schema", {})
        words = cast("list[str]", value) if isinstance(value, list) else [str(value)]
        plain = self._resolved(schema)
        many = plain.get("type") == "array"
        inner = self._resolved(plain.get("items", {})) if many else plain
        read = [_read(word, inner) for word in words]
        validator = self._validator((place, parameter["in"], parameter["name"]), lambda: schema)
        _complain(f"{place}: {parameter['in']} parameter {parameter['name']}", validator, read if many else read[0])

    def _judge(self, place: str, key: tuple[str, ...], holder: Json, body: Any) -> None:
        def find() -> Json | None:
            content = holder.get("content", {})
            media = content.get("application/json") or next(iter(content.values()), None)
            return media.get("schema") if media is not None else {"not": {}, "description": "nothing"}

        _complain(place, self._validator(key, find), body)

    def _validator(self, key: tuple[str, ...], find: Callable[[], Json | None]) -> jsonschema.Draft202012Validator | None:
        if key not in self._validators:
            schema = find()
            self._validators[key] = None if schema is None else self._compiled(schema)
        return self._validators[key]

    def _compiled(self, schema: Json) -> jsonschema.Draft202012Validator:
        closed = self._closed(self._schema(schema), schema)
        return jsonschema.Draft202012Validator({"allOf": [closed], **self._whole}, format_checker=FORMATS)

    def _schema(self, value: Any) -> Any:
        """As JSON Schema 2020-12 has it: 3.0's `nullable` and exclusive limits said anew, fields closed where a value is."""
        if not isinstance(value, dict):
            return value
        node = cast("Json", value)
        if self._old and "$ref" in node:
            found: Json = {"$ref": node["$ref"]}  # 3.0: what stands beside a $ref does not count
        else:
            found = dict(node)
        for key in ("properties", "patternProperties"):
            if key in found:
                found[key] = {name: self._closed(self._schema(one), one) for name, one in found[key].items()}
        for key in VALUES:
            if key in found:
                found[key] = self._closed(self._schema(found[key]), found[key])
        for key in BRANCHES:
            if key in found:
                found[key] = [self._schema(one) for one in found[key]]
        for key in ("not", "if", "then", "else"):
            if key in found:
                found[key] = self._schema(found[key])
        return _modern(found, nullable=node.get("nullable") is True) if self._old else found

    def _closed(self, schema: Any, original: Any) -> Any:
        kinds: set[str] = set()
        self._objects(original, kinds, frozenset())
        return {"allOf": [schema], "unevaluatedProperties": False} if kinds == {"named"} else schema

    def _objects(self, schema: Any, kinds: set[str], seen: frozenset[str]) -> None:
        """Whether the objects that a schema speaks of have named fields, or are free."""
        if not isinstance(schema, dict):
            return
        node = cast("Json", schema)
        reference = str(node.get("$ref", ""))
        if reference:
            if reference not in seen:
                self._objects(self._at(reference), kinds, seen | {reference})
            return
        branches = [one for key in BRANCHES for one in node.get(key, [])]
        for one in branches:
            self._objects(one, kinds, seen)
        if node.get("properties"):
            kinds.add("named")
        elif "object" in (node.get("type") or ()) and not branches and node.get("additionalProperties") is not False:
            kinds.add("free")

    def _resolved(self, node: Json) -> Json:
        while "$ref" in node:
            node = self._at(str(node["$ref"]))
        return node

    def _at(self, reference: str) -> Any:
        found: Any = self._root
        for step in reference.removeprefix("#/").split("/"):
            found = found[unquote(step).replace("~1", "/").replace("~0", "~")]
        return found


class _Plain(yaml.CSafeLoader):
    """YAML as JSON would have it: no dates, and `on`, `off`, `yes` and `no` are words."""


_Plain.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in rules
        if tag != "tag:yaml.org,2002:timestamp" and (tag != "tag:yaml.org,2002:bool" or first in "tTfF")
    ]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
FORMATS = jsonschema.FormatChecker(["uuid", "email"])


@FORMATS.checks("date-time", ValueError)
def _is_date_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def _modern(schema: Json, *, nullable: bool) -> Json:
    for limit, flag in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        exclusive = schema.pop(flag, None)
        if exclusive is True and limit in schema:
            schema[flag] = schema.pop(limit)
    return {"anyOf": [schema, {"type": "null"}]} if nullable else schema


def _read(word: str, schema: Json) -> Any:
    """A text of a URL as its schema's type has it; the text itself where it cannot be read so."""
    kinds = schema.get("type", "string")
    for kind in [kinds] if isinstance(kinds, str) else cast("list[str]", kinds):
        try:
            found = WORDS[kind](word) if kind in WORDS else None
        except ValueError:
            continue
        if found is not None:
            return found
    return word


def _complain(place: str, validator: jsonschema.Draft202012Validator | None, value: Any) -> None:
    if validator is None:
        return
    errors = list(cast("Any", validator).iter_errors(value))
    # Where a branch does not fit, none of its fields counts as known: that is the consequence, not the reason.
    reasons = [one for one in errors if one.validator != "unevaluatedProperties"]
    if errors:
        deepest = max(errors, key=lambda one: len(one.absolute_path))
        worst = cast("Any", exceptions).best_match(reasons) if reasons else deepest
        raise AssertionError(": ".join([place, *filter(None, ["/".join(map(str, worst.absolute_path))]), worst.message[:400]]))


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"(\{[^}]+\})", template)
    return re.compile("".join("([^/]+)" if part.startswith("{") else re.escape(part) for part in parts))
