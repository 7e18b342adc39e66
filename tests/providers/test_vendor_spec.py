"""The judge of requests and answers says no to what a description does not have, and why."""

import pytest

from providers.conformance import Missing
from tests.providers.vendor_spec import Spec

OLD = Spec(
    {
        "openapi": "3.0.1",
        "servers": [{"url": "https://api.example.test/v1"}],
        "paths": {
            "/pods": {
                "get": {
                    "parameters": [
                        {"name": "limit", "in": "query", "required": True, "schema": {"type": "integer"}},
                        {"name": "state", "in": "query", "schema": {"type": "array", "items": {"enum": ["on", "off"]}}},
                    ],
                    "responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pods"}}}}},
                },
                "post": {
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pod"}}},
                    },
                    "responses": {"201": {"$ref": "#/components/responses/Made"}, "4XX": {"description": "no"}},
                },
            },
            "/pods/mine": {"get": {"responses": {"204": {"description": "nothing"}}}},
            "/pods/{id}": {
                "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string", "maxLength": 4}}],
                "delete": {"responses": {"204": {"description": "gone"}}},
            },
        },
        "components": {
            "responses": {"Made": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pod"}}}}},
            "schemas": {
                "Pods": {"type": "array", "items": {"$ref": "#/components/schemas/Pod"}},
                "Named": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
                "Pod": {
                    "allOf": [
                        {"$ref": "#/components/schemas/Named"},
                        {
                            "type": "object",
                            "properties": {
                                "size": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
                                "note": {"type": "string", "enum": ["a"], "nullable": True},
                                "free": {"type": "object"},
                                "next": {"$ref": "#/components/schemas/Pod"},
                                "since": {"type": "string", "format": "date-time"},
                            },
                        },
                    ]
                },
            },
        },
    },
    "old.yaml",
)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"name": "a", "size": 1, "note": None, "free": {"any": 1}, "next": {"name": "b"}}, ""),
        ({"name": "a", "since": "2027-03-01T12:00:00Z"}, ""),
        ({"size": 1}, "'name' is a required property"),
        ({"name": "a", "size": 0}, "size: 0 is less than or equal to the minimum"),
        ({"name": "a", "note": "b"}, "note: "),
        ({"name": "a", "shape": 1}, "'shape' was unexpected"),
        ({"name": "a", "next": {"name": "b", "shape": 1}}, "next: .*'shape' was unexpected"),
        ({"name": "a", "since": "yesterday"}, "since: 'yesterday' is not a 'date-time'"),
        (None, "without a body"),
    ],
)
def test_bodies(body: object, reason: str) -> None:
    if not reason:
        OLD.request("POST", "/v1/pods", body=body)
        OLD.response("POST", "/pods", 201, body)
        OLD.response("GET", "/pods", 200, [body])
        return
    with pytest.raises(AssertionError, match=f"old.yaml: POST /pods: .*{reason}"):
        OLD.request("POST", "/v1/pods", body=body)
    with pytest.raises(AssertionError, match=r"POST /pods -> 201"):
        OLD.response("POST", "/v1/pods", 201, body)


@pytest.mark.parametrize(
    ("method", "path", "query", "reason"),
    [
        ("GET", "/pods", {"limit": "3", "state": ["on", "off"]}, ""),
        ("DELETE", "/v1/pods/abcd", {}, ""),
        ("GET", "/pods/mine", {}, ""),
        ("GET", "/pods", {}, "without the query parameter"),
        ("GET", "/pods", {"limit": "few"}, "query parameter limit: 'few' is not of type 'integer'"),
        ("GET", "/pods", {"limit": "3", "state": "idle"}, "query parameter state"),
        ("GET", "/pods", {"limit": "3", "page": "2"}, "unknown query parameter 'page'"),
        ("DELETE", "/pods/abcde", {}, "path parameter id: 'abcde' is too long"),
        ("PUT", "/pods/abcd", {}, "not in the description; that path knows delete"),
        ("GET", "/pads", {}, "not in the description$"),
    ],
)
def test_places(method: str, path: str, query: dict[str, object], reason: str) -> None:
    if not reason:
        OLD.request(method, path, query)
        return
    with pytest.raises(AssertionError, match=reason):
        OLD.request(method, path, query)


def test_answers_without_a_body_and_other_statuses() -> None:
    OLD.response("DELETE", "/pods/abcd", 204)
    OLD.response("DELETE", "/pods/abcd", 503, {"any": "thing"})
    OLD.response("POST", "/pods", 409)
    with pytest.raises(AssertionError, match="is not in the description, which has 204"):
        OLD.response("DELETE", "/pods/abcd", 200)
    with pytest.raises(AssertionError, match="-> 204"):
        OLD.response("DELETE", "/pods/abcd", 204, {"gone": True})
    with pytest.raises(AssertionError, match="takes no body"):
        OLD.request("DELETE", "/pods/abcd", body={"now": True})


def test_known_mistakes_of_a_description_can_be_put_right() -> None:
    better = OLD.amended({"components/schemas/Named/required": [], "paths/~1pods~1mine/get/responses/200": {}})
    better.request("POST", "/pods", body={"size": 1})
    better.response("GET", "/pods/mine", 200)
    with pytest.raises(AssertionError, match="required"):
        OLD.request("POST", "/pods", body={"size": 1})


def test_a_missing_file_is_told() -> None:
    with pytest.raises(Missing, match="beside the repository"):
        Spec.load("acme/acme.openapi.json")


@pytest.mark.parametrize(
    "name",
    [
        "lambda/lambda-cloud.openapi.json",
        "runpod/runpod-rest-v2.openapi.json",
        "shadeform/shadeform.api-evangelist.openapi.yml",
        "shadeform/shadeform.openapi.yaml",
        "vast/vast.openapi.yaml",
    ],
)
def test_every_description_can_be_judged_by(name: str) -> None:
    spec = Spec.needed(name)
    for method, path in spec.operations:
        filled = path.replace("{", "").replace("}", "")
        with pytest.raises(AssertionError):
            spec.request(method, filled, {"no such parameter": "1"})
        with pytest.raises(AssertionError):
            spec.response(method, filled, 200, ["nothing like it"])
