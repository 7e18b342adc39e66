"""Ways out of a guarded job: calls that are written so that the guard does not see them, and a guard that is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.node.guarded import Ward, guarded

# 8 to 11: empty, chunked, another content type, other versions and ways to write the address


def test_bodies_that_the_guard_cannot_see(ward: Ward) -> None:
    body = json.dumps({"Image": ward.image.reference, "HostConfig": {"Privileged": True}}).encode()
    host = "Host: docker\r\nConnection: close\r\n"
    json_type, form = "Content-Type: application/json\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"
    length, chunked = f"Content-Length: {len(body)}\r\n", "Transfer-Encoding: chunked\r\n"
    pieces = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    large = json.dumps({"Image": ward.image.reference, "Labels": {"x": "y" * (1 << 20)}, "HostConfig": {"Privileged": True}})
    create = "POST /containers/create HTTP/1.1\r\n"
    wrong = [
        (create + host + json_type + "Content-Length: 0\r\n\r\n", b""),
        (create + host + json_type + "\r\n", b""),
        (create + host + json_type + chunked + "\r\n", pieces),
        (create + host + json_type + length + chunked + "\r\n", pieces),
        (create + host + "Content-Type: text/plain\r\n" + length + "\r\n", body),
        (create + host + form + length + "\r\n", body),
        (create + host + length + "\r\n", body),
        (create + host + json_type + form + length + "\r\n", body),
        (create + host + form + json_type + length + "\r\n", body),
        (create + host + json_type + f"Content-Length: {len(large)}\r\n\r\n", large.encode()),
        ("POST /containers/create?x=/auth HTTP/1.1\r\n" + host + json_type + length + "\r\n", body),
        ("POST /containers/create?name=/auth HTTP/1.1\r\n" + host + json_type + length + "\r\n", body),
        (create + host + json_type + f"Content-Length: {len(body) + 2}\r\n\r\n", b"{}" + body),
        (create + host + json_type + f"Content-Length: {len(body) + 9}\r\n\r\n", body + b'{"a": 1} '),
        (create + host + json_type + f"Content-Length: {len(body) + 3}\r\n\r\n", b"\xef\xbb\xbf" + body),
        (create + host + json_type + "Content-Length: 4\r\n\r\n", b"null"),
        (create + host + json_type + "Content-Length: 2\r\n\r\n", b"[]"),
        (create + host + json_type + f"Content-Length: {2 * len(body)}\r\n\r\n", body.decode().encode("utf-16-le")),
    ]
    before = len(ward.agent("GET", "/containers/json", all="1").body)
    for head, content in wrong:
        reply = ward.send(head.encode() + content)
        assert reply.refused or reply.status == 400, (head, reply)
    assert len(ward.agent("GET", "/containers/json", all="1").body) == before


def test_a_form_in_the_body_does_not_win_over_the_query(ward: Ward) -> None:
    """The engine reads a form before it reads the query, and shows none of it: such a body is refused."""
    other = ward.push("ci/form", "v1", what="form")
    query = f"/images/create?fromImage={ward.image.repository}&tag={ward.image.digest}"
    ward.allow(ward.image.reference, ward.image)
    body = f"fromImage={other.repository}&tag=v1".encode()
    form, plain = "Content-Type: application/x-www-form-urlencoded\r\n", "Content-Type: text/plain\r\n"
    head = f"POST {query} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n"
    chunks = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    for kind in (form, form + plain, plain + form):
        assert ward.send(f"{head}{kind}Content-Length: {len(body)}\r\n\r\n".encode() + body).refused
        assert ward.send(f"{head}{kind}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks).refused
    assert ward.keeper.engine.image(other.reference) is None
    assert ward.send(f"{head}{plain}Content-Length: 0\r\n\r\n".encode()).status == 200


@pytest.mark.parametrize(
    "address",
    [
        "/v1.12/containers/create",
        "/v1.23/containers/create",
        "/v1.024/containers/create",
        "/v1.41.0/containers/create",
        "/v2/containers/create",
        "/v1.41/v1.41/containers/create",
        "//containers/create",
        "//v1.41/containers/create",
        "/v1.41//containers/create",
        "/v1.41/./containers/create",
        "/v1.41/images/../containers/create",
        "/v1.41/containers/create/",
        "/containers/%2e%2e/containers/create",
        "/containers%2f..%2fcontainers%2fcreate",
        "/containers/create%00",
        "/containers/create%3fname=x",
        "/containers/create?name=a&name=b",
        "/containers/create?name=a;platform=x",
        "/containers/create?anything=1",
        "/CONTAINERS/create",
        "http://docker/containers/create",
        "/\u00e9/containers/create",
    ],
)
def test_addresses_and_versions_with_tricks(ward: Ward, address: str) -> None:
    """A redirect, a 400 and a 404 are the engine's own no; whatever reaches a handler was refused here."""
    body = json.dumps({"Image": ward.image.reference, "HostConfig": {"Privileged": True}}).encode()
    head = f"POST {address} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Type: application/json\r\n"
    before = len(ward.agent("GET", "/containers/json", all="1").body)
    reply = ward.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert reply.refused or reply.status in (301, 400, 404), reply
    assert len(ward.agent("GET", "/containers/json", all="1").body) == before


@pytest.mark.parametrize("version", ["", "/v1.24", "/v1.41"])
def test_a_percent_sign_and_every_version_change_nothing(ward: Ward, version: str) -> None:
    for path in ("/containers/create", "/containers/%63reate", "/%63ontainers/create"):
        body = {"Image": ward.image.reference, "Cmd": ["id"], "HostConfig": {"Privileged": True}}
        assert ward.ask("POST", version + path, body).refused.startswith("Privileged:")
        reply = ward.ask("POST", version + path, {"Image": ward.image.reference, "Cmd": ["id"]})
        assert reply.status == 201
        ward.remove(reply.body["Id"])


def test_a_start_with_rights_in_its_body(ward: Ward) -> None:
    """Old versions of the API took them there; chunked, so that nobody would see."""
    container = ward.made()
    body = json.dumps({"Privileged": True, "Binds": ["/:/host"]}).encode()
    chunks = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    for version in ("", "/v1.12", "/v1.23", "/v1.24"):
        head = f"POST {version}/containers/{container}/start HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n"
        for kind in ("", "Content-Type: application/json\r\n", "Content-Type: text/plain\r\n"):
            assert ward.send(f"{head}{kind}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks).refused
            assert ward.send(f"{head}{kind}Content-Length: {len(body)}\r\n\r\n".encode() + body).refused
    assert ward.ask("GET", f"/containers/{container}/json").body["State"]["Running"] is False
    ward.remove(container)


# The door


def test_http_2_goes_round_the_plugin_in_newer_engines_and_does_not_get_through_the_door(ward: Ward) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    assert ward.send(preface).status == 400
    head = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"
    assert ward.send(head + preface).raw.count(b"SM") == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(10)
        line.connect(str(ward.door))
        line.sendall(head)
        assert line.recv(65536).startswith(b"HTTP/1.1 200")
        line.sendall(preface[:7])
        line.sendall(preface[7:])
        with contextlib.suppress(OSError):
            assert line.recv(65536) == b""
    assert ward.ask("GET", "/_ping").status == 200


def test_the_door_is_for_one_group_and_the_rest_for_root_alone(ward: Ward) -> None:
    assert ward.door.stat().st_mode & 0o777 == 0o660 and ward.door.stat().st_uid == 0
    engine = ward.folder / "engine"
    assert engine.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_uid for path in engine.iterdir()} == {0}
    [plugin] = [path for path in Path("/run/docker/plugins").iterdir() if path.name.startswith("sublet-test-")][:1]
    assert plugin.stat().st_mode & 0o777 == 0o600


# 13 the plugin is killed


def silent(ward: Ward, raw: bytes, door: Path) -> bool:
    """Whether nobody answers there."""
    try:
        return ward.send(raw, door).status == 0
    except OSError:
        return True


def test_without_its_guard_the_engine_ends_and_refuses_everything() -> None:
    """kill -9 on the guard: the kernel takes the engine with it, and nobody answers any more."""
    with guarded() as ward:
        container = ward.started()
        assert ward.keeper.pid is not None
        os.kill(ward.keeper.pid, signal.SIGKILL)
        ward.keeper.poll()
        engine = ward.folder / "engine/engine.sock"
        for call in ("GET /_ping", "POST /containers/create", f"DELETE /containers/{container}?force=1") * 2:
            for door in (ward.door, engine):
                assert silent(ward, f"{call} HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\r\n".encode(), door)
