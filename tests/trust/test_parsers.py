"""References, patterns, challenges and strict JSON, case by case."""

from __future__ import annotations

import pytest

from app.core.images import Refusal
from app.trust import strict
from app.trust.challenge import chosen, token_of
from app.trust.faults import Refused
from app.trust.globs import fits
from app.trust.reference import parse
from app.trust.repository import _next  # pyright: ignore[reportPrivateUsage]

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("written", "host", "repository", "tag", "digest"),
    [
        ("registry.test/ci/gpu:v3", "registry.test", "ci/gpu", "v3", ""),
        ("registry.test:5000/ci/gpu", "registry.test:5000", "ci/gpu", "latest", ""),
        (f"registry.test/ci/gpu@{DIGEST}", "registry.test", "ci/gpu", "", DIGEST),
        (f"registry.test/ci/gpu:v3@{DIGEST}", "registry.test", "ci/gpu", "", DIGEST),
        ("localhost/gpu", "localhost", "gpu", "latest", ""),
        ("localhost:5000/gpu", "localhost:5000", "gpu", "latest", ""),
        ("[::1]:5000/gpu:a", "[::1]:5000", "gpu", "a", ""),
        ("Registry.Test/ci/gpu", "registry.test", "ci/gpu", "latest", ""),
        ("ubuntu", "docker.io", "library/ubuntu", "latest", ""),
        ("ubuntu:22.04", "docker.io", "library/ubuntu", "22.04", ""),
        ("acme/gpu", "docker.io", "acme/gpu", "latest", ""),
        ("docker.io/ubuntu", "docker.io", "library/ubuntu", "latest", ""),
        ("index.docker.io/acme/gpu", "docker.io", "acme/gpu", "latest", ""),
        ("registry.test/a__b/c--d/e.f_g", "registry.test", "a__b/c--d/e.f_g", "latest", ""),
        ("  registry.test/ci/gpu:v3\n", "registry.test", "ci/gpu", "v3", ""),
    ],
)
def test_references(written: str, host: str, repository: str, tag: str, digest: str) -> None:
    found = parse(written)
    assert (found.host, found.repository, found.tag, found.digest) == (host, repository, tag, digest)
    assert found.at(DIGEST) == f"{host}/{repository}@{DIGEST}"


@pytest.mark.parametrize(
    "written",
    [
        *["", " ", "/", ":", "@", "a:", "a@", "a@sha256:", f"{DIGEST}", "a" * 64, "sha256:" + "a" * 12],
        *["registry.test/", "registry.test//gpu", "registry.test/ci/GPU", "registry.test/ci/gpu:v 3", "registry.test/../gpu"],
        *["registry.test/ci/gpu:" + "v" * 129, "registry.test/" + "a/" * 130 + "b", "x" * 1001, "registry.test/ci/gpu:.v"],
        *["registry.test/ci/gpu@sha512:" + "a" * 128, "registry.test/ci/gpu@SHA256:" + "a" * 64, f"a@{DIGEST}@{DIGEST}"],
        *["-registry.test/gpu", "registry.test-/gpu", "registry..test/gpu", "https://registry.test/gpu", "registry.test:x/gpu"],
        *["user@registry.test/gpu", "registry.test/gpu?x=1", "registry.test/gpu#1", "registry.test/gp%75", "registry.test/gpü"],
        *[
            "registry.test/ci/gpu\nx",
            "registry.test/ci/gpu\x00",
            "rëgistry.test/gpu",
            "registry.test/-gpu",
            "registry.test/gpu-",
        ],
    ],
)
def test_no_references(written: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(written)
    assert caught.value.code == Refusal.UNREADABLE


@pytest.mark.parametrize(
    ("pattern", "text", "does"),
    [
        ("", "", True),
        ("", "a", False),
        ("*", "", True),
        ("a*", "a", True),
        ("a*", "ab/c", True),
        ("*a", "ba", True),
        ("*a", "ab", False),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("a.c", "abc", False),
        ("[bot]", "[bot]", True),
        ("[bot]", "b", False),
        ("*[bot]*", "github-actions[bot]@x", True),
        ("a*b*c", "aXbYbZc", True),
        ("a*b*c", "aXbYbZ", False),
        ("A", "a", False),
        ("*?", "", False),
        ("**", "abc", True),
        ("a\nb", "a\nb", True),
    ],
)
def test_patterns(pattern: str, text: str, does: bool) -> None:
    assert fits(pattern, text) is does


def test_a_pattern_that_looks_bad_takes_no_time() -> None:
    assert not fits("*a" * 50 + "b", "a" * 5000)


@pytest.mark.parametrize(
    ("header", "scheme", "realm"),
    [
        ('Bearer realm="https://a.test/token",service="r",scope="x"', "bearer", "https://a.test/token"),
        ("bearer realm=https://a.test/token", "bearer", "https://a.test/token"),
        ('Basic realm="r", Bearer realm="https://a.test/token"', "bearer", "https://a.test/token"),
        ('Basic realm="a, Bearer realm=\\"x\\""', "basic", 'a, Bearer realm="x"'),
        ("Basic", "basic", None),
        ("Bearer", None, None),
        ("Digest realm=x", None, None),
        ("", None, None),
        ("\x00", None, None),
        ('Bearer realm="unclosed', None, None),
    ],
)
def test_challenges(header: str, scheme: str | None, realm: str | None) -> None:
    found = chosen([header])
    assert (found.scheme if found else None) == scheme
    if found is not None:
        assert found.fields.get("realm") == realm


def test_tokens_live_as_long_as_they_say_within_reason() -> None:
    for raw, seconds in (
        (b'{"token":"a"}', 60),
        (b'{"access_token":"a","expires_in":900}', 900),
        (b'{"token":"a","expires_in":-1}', 60),
    ):
        token = token_of(raw)
        assert token is not None and token.seconds == seconds and "***" in repr(token)
    long = token_of(b'{"token":"a","expires_in":99999999}')
    assert long is not None and long.seconds == 3600


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
        rb'{"a":"\ud800"}',
        rb'{"a":["\uDfff\uD800"]}',
        rb'{"\ud800x":1}',
        rb'{"a":"\u0000"}',
    ],
)
def test_json_that_could_be_read_in_two_ways_is_not_read(raw: bytes) -> None:
    with pytest.raises(Refused):
        strict.parse(raw, "thing")


def test_characters_in_two_halves_are_one() -> None:
    raw = rb'{"a":"\ud83d\ude00","b":"\\ud800 \\u0000"}'
    assert strict.parse(raw, "thing") == {"a": "😀", "b": r"\ud800 \u0000"}


def test_names_in_another_case_are_refused_where_go_would_take_them() -> None:
    strict.plain({"mediaType": 1, "other": 2}, ("mediaType",), "thing")
    for odd in ("mediatype", "MEDIATYPE", "mediaTYPE"):
        with pytest.raises(Refused):
            strict.plain({odd: 1}, ("mediaType",), "thing")
    with pytest.raises(Refused):
        strict.plain({"\u017fubject": 1}, ("subject",), "thing")  # Go folds the long s, too


@pytest.mark.parametrize(
    ("header", "following"),
    [
        ('</v2/a/referrers/d?last=1>; rel="next"', "/v2/a/referrers/d?last=1"),
        ("<?last=1>; rel=next", "/v2/a/referrers/d?last=1"),
        ('<https://evil.test/v2/a/referrers/d?x=1>; rel="next"', "/v2/a/referrers/d?x=1"),  # never the host, only the page
        ('</v2/other/referrers/d?last=1>; rel="next"', ""),
        ('</v2/a/referrers/d>; rel="next"', ""),
        ('</v2/a/referrers/d?last=1>; rel="prev"', ""),
        ("<http://[>; rel=next", ""),
        ("", ""),
    ],
)
def test_the_next_page_is_a_page_of_the_same_list(header: str, following: str) -> None:
    assert _next([header], "/v2/a/referrers/d") == following
