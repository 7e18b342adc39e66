"""What the guard makes of requests that somebody wrote to be misread: it never fails, and never lets a host's rights through.

`go` reads a body as the engine does, by rules of its own: names in any case, the last of two wins, objects are merged.
"""

from __future__ import annotations

import base64
import json
import posixpath
import random
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.node.agent import guard_request, guard_table
from app.node.agent.engine import HEADER, Engine
from app.node.agent.guard import Guard
from app.node.agent.guard_images import Images, Verdict, canonical
from app.node.agent.guard_request import Refused

JOB = "/var/lib/sublet/runner"
ID = "sha256:" + "a" * 64
WORD = "a-word-that-no-job-has-seen"


@dataclass
class StillEngine(Engine):
    """An engine with one verified image and nothing else."""

    found: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def find(self, path: str) -> dict[str, Any] | None:
        return self.found.get(path)

    def image(self, name: str) -> dict[str, Any] | None:
        return {"Id": ID}


def guard(said: list[str] | None = None, builds: bool = False) -> Guard:
    engine = StillEngine()
    images = Images(engine, lambda name: Verdict(False, "nobody has signed it."), [ID], f"r.example/x@{ID}", now=lambda: 0.0)
    limits: dict[str, Any] = {"folders": [JOB], "read_only": [], "sockets": [], "gpus": 1, "runtimes": ["sublet"]}
    return Guard(engine, images, word=WORD, builds=builds, say=(said if said is not None else []).append, **limits)


def message(method: str, uri: str, body: bytes = b"", **headers: str) -> bytes:
    told = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    encoded = base64.b64encode(body).decode()
    return json.dumps({"RequestMethod": method, "RequestUri": uri, "RequestBody": encoded, "RequestHeaders": told}).encode()


def create(body: bytes) -> bytes:
    return message("POST", "/v1.41/containers/create", body, Content_Type="application/json")


# --- how the engine reads


class Pairs(list[tuple[str, Any]]):
    """A JSON object with everything that was written in it."""


def folded(name: str) -> str:
    return name.replace("\u017f", "s").replace("\u212a", "k").lower()


def go(value: Any, into: Any = None) -> Any:
    if not isinstance(value, Pairs):
        return [go(one) for one in cast("list[Any]", value)] if isinstance(value, list) else value
    struct = cast("dict[str, Any]", into if isinstance(into, dict) else {})
    for name, inner in value:
        if inner is not None:
            struct[folded(name)] = go(inner, struct.get(folded(name)))
    return struct


def harmful(body: dict[str, Any]) -> bool:
    """Whether a create call asks for anything of the host; the settings lie in HostConfig or beside it."""
    inner = body.get("hostconfig")
    for host in (body, cast("dict[str, Any]", inner if isinstance(inner, dict) else {})):
        if host.get("privileged") or host.get("capadd") or host.get("devices") or host.get("devicecgrouprules"):
            return True
        if any(host.get(name) not in (None, "") for name in ("pidmode", "ipcmode", "utsmode", "usernsmode", "cgroupparent")):
            return True
        if host.get("networkmode") not in (None, "", "none", "bridge") or host.get("securityopt") or host.get("sysctls"):
            return True
        if host.get("maskedpaths") is not None or host.get("readonlypaths") is not None or host.get("runtime"):
            return True
        for bind in cast("list[Any]", host.get("binds") or []):
            place = str(bind).partition(":")[0]
            if place.startswith("/") and not (posixpath.normpath(place) + "/").startswith(JOB + "/"):
                return True
        for mount in cast("list[dict[str, Any]]", host.get("mounts") or []):
            if mount.get("type") == "bind" and not (posixpath.normpath(str(mount.get("source"))) + "/").startswith(JOB + "/"):
                return True
    return False


# --- bodies

HARMFUL: dict[str, list[Any]] = {
    "Privileged": [True, False, None, 1, "true"],
    "CapAdd": [["SYS_ADMIN"], [], None],
    "Binds": [["/:/host"], [f"{JOB}:/w"], [f"{JOB}/../..:/w"], [f"{JOB}/a/../../../../etc:/w"], [], None, "x"],
    "NetworkMode": ["host", "none", "", "container:x", None],
    "PidMode": ["host", ""],
    "IpcMode": ["host", ""],
    "SecurityOpt": [["seccomp=unconfined"], []],
    "MaskedPaths": [[], None],
    "Devices": [[{"PathOnHost": "/dev/sda"}], []],
    "Runtime": ["runc", ""],
    "Sysctls": [{"a": "b"}, {}],
}
MOUNTS = [
    [Pairs([("Type", "bind"), ("Source", "/"), ("Target", "/x")])],
    [Pairs([("Type", "volume"), ("type", "bind"), ("Source", "/"), ("Target", "/x")])],
    [Pairs([("Type", "bind"), ("Source", JOB), ("source", "/etc"), ("Target", "/x")])],
    [Pairs([("Type", "bind"), ("Source", JOB), ("Target", "/x")])],
]


def written(value: Any) -> str:
    """JSON, with everything twice that was twice."""
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(name)}: {written(inner)}" for name, inner in value) + "}"
    return "[" + ", ".join(map(written, cast("list[Any]", value))) + "]" if isinstance(value, list) else json.dumps(value)


@st.composite
def names(draw: st.DrawFn, name: str) -> str:
    """The name in some case; now and then with a letter that folds onto a plain one."""
    letters = [draw(st.sampled_from((one, one, one.upper(), one.lower()))) for one in name]
    word = "".join(letters)
    if draw(st.integers(0, 9)) == 0:
        word = word.replace("s", "\u017f", 1).replace("k", "\u212a", 1)
    return word


@st.composite
def settings_of(draw: st.DrawFn) -> Pairs:
    chosen = Pairs()
    for name in draw(st.lists(st.sampled_from([*HARMFUL, "Mounts"]), max_size=4)):
        values = MOUNTS if name == "Mounts" else HARMFUL[name]
        chosen.append((draw(names(name)), draw(st.sampled_from(cast("list[Any]", values)))))
    return chosen


@st.composite
def bodies(draw: st.DrawFn) -> Pairs:
    body = Pairs([("Image", "busybox"), ("Cmd", ["id"]), *draw(settings_of())])
    for _ in range(draw(st.integers(0, 2))):
        body.append((draw(names("HostConfig")), draw(settings_of())))
    if draw(st.booleans()):
        random.Random(draw(st.integers(0, 99))).shuffle(body)
    return body


GUARD = guard()


@settings(max_examples=150, deadline=None)
@given(bodies())
@example(Pairs([("Image", "x"), ("HostConfig", Pairs([("Privileged", False), ("privileged", True)]))]))
@example(Pairs([("Image", "x"), ("HostConfig", Pairs([])), ("Ho\u017ftConfig", Pairs([("Privileged", True)]))]))
@example(Pairs([("Image", "x"), ("HostConfig", Pairs([("NetworkMode", "host"), ("NetworkMode", None)]))]))
def test_nothing_harmful_is_ever_allowed(body: Pairs) -> None:
    raw = written(body).encode()
    allowed = GUARD.question(create(raw)) == ""
    assert not (allowed and harmful(go(body)))


def test_the_other_way_round_harmless_bodies_are_allowed() -> None:
    """Or a guard that refuses everything would pass."""
    for body in (
        Pairs([("Image", "x"), ("Cmd", ["id"])]),
        Pairs([("image", "x"), ("hostCONFIG", Pairs([("BINDS", [f"{JOB}/_work:/w"]), ("Privileged", False)]))]),
    ):
        assert GUARD.question(create(written(body).encode())) == ""


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*HARMFUL, "Mounts", "Type", "Name"]) | st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
PATHS = st.sampled_from(
    ["/containers/create", "/containers/x/exec", "/exec/x/start", "/networks/create", "/networks/x/connect", "/volumes/create"]
)


@settings(max_examples=150, deadline=None)
@given(PATHS, JUNK, st.sampled_from(["HostConfig", "NetworkingConfig", "IPAM", "Mounts", "Env", "Labels"]))
def test_strange_shapes_are_answered_with_a_sentence(path: str, junk: Any, name: str) -> None:
    said: list[str] = []
    body: dict[str, Any] = {"Image": "x", name: junk, **cast("dict[str, Any]", junk if isinstance(junk, dict) else {})}
    problem = guard(said).question(message("POST", path, json.dumps(body).encode(), Content_Type="application/json"))
    assert "could not judge" not in problem
    assert bool(problem) == bool(said)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
@example(b"")
@example(b"null")
@example(b"[" * 100_000)
@example(b'{"RequestUri": "/_ping", "RequestMethod": "GET", "RequestBody": "%%%"}')
@example(b'{"RequestUri": {"a": 1}, "RequestMethod": 7, "RequestHeaders": []}')
def test_messages_that_are_none(raw: bytes) -> None:
    assert GUARD.question(raw) != ""
    assert isinstance(GUARD.answer(raw), str)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120))
@example(b"[" * 100_000)
@example(b'{"Image": "\\ud800"}')
@example(b'{"Image": NaN}')
@example(b'{"Image": "x", "Image": "y"}')
@example(b"\xff\xfe{\x00}\x00")
def test_bodies_that_are_none(raw: bytes) -> None:
    assert GUARD.question(create(raw)) != ""


TRICKS = "/ // . .. %2e %2f %00 % %25 v1.41 v1.12 ? & ; # = : @ + %c3%a9 %ff \u00e9 http:"
WORDS = "containers create json x fromImage images prune _ping exec start archive auth"
PIECES = [" ", *TRICKS.split(), *WORDS.split()]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "DELETE", "HEAD", "PUT", "get", "PRI", ""]), st.lists(st.sampled_from(PIECES), max_size=9)
)
@example("GET", ["/", "containers", "/", "x", "/", "json"])
@example("POST", ["/", "images", "/", "x", "%2f", "..", "%2f", "load"])
def test_only_addresses_in_their_plain_form_are_found(method: str, pieces: list[str]) -> None:
    uri = "".join(pieces)
    if GUARD.question(message(method, uri)):
        return
    path = unquote(uri.partition("?")[0])
    plain = path.removeprefix("/v1.41")
    assert posixpath.normpath(path) == path and "%" not in path and "\0" not in path
    assert any(row.path.fullmatch(plain) and row.method == method for row in guard_table.ROWS)


def test_no_call_that_changes_something_takes_a_body_that_is_not_looked_at() -> None:
    """`/auth` alone: its body holds a login, which the engine keeps to itself."""
    unseen = [row.path.pattern for row in guard_table.ROWS if row.body == guard_request.UNSEEN]
    assert unseen == ["/auth"]
    assert {row.method for row in guard_table.ROWS} == {"GET", "HEAD", "POST", "DELETE"}
    for row in guard_table.ROWS:
        assert not row.check or hasattr(Guard, "_may_" + row.check)


def test_builds_are_for_pools_that_allow_them() -> None:
    """And their network is never the host's."""
    calls = ("/build?t=x&version=2&session=s", "/session", "/grpc", "/images/r.example/x/push?tag=1", "/build/prune")
    for builds, uri in ((builds, uri) for builds in (True, False) for uri in calls):
        assert (guard(builds=builds).question(message("POST", uri)) == "") is builds, uri
    for query in ("networkmode=host", "networkmode=container:x", "securityopt=x", "cgroupparent=/", "fromSrc=-"):
        assert guard(builds=True).question(message("POST", f"/build?{query}")) != ""
    assert "Builds are not allowed in this pool" in guard().question(message("POST", "/build"))


def test_the_agents_word_opens_and_another_does_not() -> None:
    body = json.dumps({"Image": "x", "HostConfig": {"Privileged": True}}).encode()
    for word, allowed in ((WORD, True), (WORD + "x", False), ("", False), (WORD.upper(), False)):
        asked = message("POST", "/containers/create", body, Content_Type="application/json", **{HEADER.replace("-", "_"): word})
        assert (GUARD.question(asked) == "") is allowed


def test_an_answer_about_an_image_is_kept_for_a_minute_and_then_asked_for_again() -> None:
    """So that a revocation counts in the middle of a job, and a service that is away is no yes."""
    now, asked = [0.0], list[str]()
    answers: list[Verdict | Refused] = [Verdict(True, "", frozenset({ID})), Verdict(False, "it was revoked."), Refused("away")]

    def ask(name: str) -> Verdict:
        asked.append(name)
        answer = answers.pop(0)
        if isinstance(answer, Refused):
            raise answer
        return answer

    images = Images(StillEngine(), ask, ["sha256:" + "b" * 64], "r.example/pool@sha256:" + "b" * 64, lambda: now[0])
    for second in (0.0, 59.0):
        now[0] = second
        images.for_create("r.example/x:1")
    assert asked == ["r.example/x:1"] and images.verified(ID)
    now[0] = 61.0
    for _ in range(2):
        with pytest.raises(Refused, match="it was revoked"):
            images.for_create("r.example/x:1")
    assert len(asked) == 2
    with pytest.raises(Refused, match="away"):
        images.verified("sha256:" + "b" * 64)  # the pool's own image, too


@pytest.mark.parametrize(
    ("given_", "whole"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
        ("acme/train", "docker.io/acme/train:latest"),
        ("localhost/train:1", "localhost/train:1"),
        ("127.0.0.1:5000/ci/gpu", "127.0.0.1:5000/ci/gpu:latest"),
        ("registry.acme.example/ci/gpu:v3", "registry.acme.example/ci/gpu:v3"),
        ("index.docker.io/acme/x", "docker.io/acme/x:latest"),
        (f"ci/gpu@{ID}", f"docker.io/ci/gpu@{ID}"),
        (f"registry.acme.example/ci/gpu:v3@{ID}", f"registry.acme.example/ci/gpu@{ID}"),
    ],
)
def test_names_are_completed_as_the_engine_completes_them(given_: str, whole: str) -> None:
    assert canonical(given_) == whole


@pytest.mark.parametrize(
    "wrong", ["", "/x", "x/", "UPPER", "a b", "a:b:c", "x@sha256:1", "x@md5:" + "a" * 32, "../x", "x\n", "a" * 600]
)
def test_what_is_no_name_is_refused(wrong: str) -> None:
    with pytest.raises(Refused):
        canonical(wrong)
