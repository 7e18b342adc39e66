"""The one HTTP client: what is repeated, what is not, what each answer becomes, and what is never shown."""

import logging
from datetime import timedelta
from pathlib import Path

import pytest

from providers.contract import ProviderError, Refused, Secret, Throttled, Unclear
from providers.http import Api, said_by_vendor, table, tables
from tests.providers.benches import ManualClock
from tests.providers.wire import HANG, reply, wire

KEY = "sk-live-0123456789"


def api(url: str, **rest: object) -> Api:
    headers = {"Authorization": Secret(f"Bearer {KEY}")}
    return Api(url, title="vendor", headers=headers, clock=ManualClock(), **rest)  # pyright: ignore[reportArgumentType]


async def test_a_read_is_repeated_after_an_error_of_the_vendor_and_after_a_broken_line() -> None:
    async with wire(reply(503), b"", reply(200, b'{"ok": true}')) as line:
        client = api(line.url)
        assert (await client.read("/things")).json() == {"ok": True}
        assert len(line.requests) == 3
        await client.aclose()


async def test_a_read_gives_up_after_three_tries_and_nothing_was_created() -> None:
    async with wire(reply(500, b'{"message": "out of order"}')) as line:
        client = api(line.url)
        with pytest.raises(Unclear, match="out of order") as caught:
            await client.read("/things")
        assert not caught.value.maybe_created
        assert len(line.requests) == 3
        await client.aclose()


@pytest.mark.parametrize(
    "answer", [reply(500), reply(503, Retry_After="1"), reply(302, Location="/x"), reply(408), b"", b"junk\r\n"]
)
async def test_a_create_is_sent_once_and_whatever_is_unexpected_may_have_happened(answer: bytes) -> None:
    async with wire(answer) as line:
        client = api(line.url)
        with pytest.raises(Unclear) as caught:
            await client.write("POST", "/machines", content={"size": 1}, creates=True)
        assert caught.value.maybe_created
        assert len(line.requests) == 1
        assert line.requests[0].endswith(b'{"size": 1}')
        await client.aclose()


async def test_a_create_without_an_answer_in_time_may_have_happened() -> None:
    async with wire(HANG) as line:
        client = api(line.url)
        with pytest.raises(Unclear, match=r"no answer within 0\.2 s|ReadTimeout") as caught:
            await client.write("POST", "/machines", creates=True, timeout=0.2)
        assert caught.value.maybe_created
        assert len(line.requests) == 1
        await client.aclose()


async def test_a_create_that_never_left_this_machine_did_not_happen(tmp_path: Path) -> None:
    async with wire(reply(200)) as line:
        gone = line.url
    for client in (api(gone), api("http://docker", socket=tmp_path / "no.sock")):
        with pytest.raises(Unclear, match="cannot connect") as caught:
            await client.write("POST", "/machines", creates=True)
        assert not caught.value.maybe_created
        await client.aclose()


async def test_a_delete_may_be_repeated() -> None:
    async with wire(reply(502), reply(204)) as line:
        client = api(line.url)
        assert (await client.write("DELETE", "/machines/1", repeatable=True)).status == 204
        assert line.lines == ["DELETE /machines/1 HTTP/1.1"] * 2
        await client.aclose()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Refused), (401, Refused), (402, Refused), (403, Refused), (404, Refused), (422, Refused), (429, Throttled)],
)
async def test_a_definite_no_is_sorted_by_what_to_do_next(status: int, kind: type[ProviderError]) -> None:
    async with wire(reply(status, b'{"errors": [{"detail": "because"}]}')) as line:
        client = api(line.url)
        with pytest.raises(kind, match=f"vendor: POST /machines: {status}: because"):
            await client.write("POST", "/machines", creates=True)
        await client.aclose()


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("17", 17),
        ("0", 1),
        ("999999", 3600),
        ("Mon, 01 Mar 2027 12:00:45 GMT", 45),
        ("Mon, 01 Mar 2021 12:00:00 GMT", 1),
        ("soon", 30),
        ("", 30),
    ],
)
async def test_retry_after_is_obeyed_as_seconds_and_as_a_date(told: str, seconds: int) -> None:
    async with wire(reply(429, Retry_After=told)) as line:
        client = api(line.url)
        with pytest.raises(Throttled) as caught:
            await client.read("/things")
        assert caught.value.wait == timedelta(seconds=seconds)
        assert len(line.requests) == 1, "a throttled read is not repeated behind the engine's back"
        await client.aclose()


async def test_an_accepted_status_is_the_callers_to_judge() -> None:
    async with wire(reply(404)) as line:
        client = api(line.url)
        assert (await client.read("/things/1", accept=(404,))).status == 404
        await client.aclose()


async def test_an_answer_over_the_cap_is_cut_off() -> None:
    async with wire(reply(200, b"x" * 5000)) as line:
        client = api(line.url, cap=1000)
        with pytest.raises(Unclear, match="larger than 1000 bytes"):
            await client.read("/things")
        await client.aclose()


async def test_what_is_not_json_is_unclear() -> None:
    async with wire(reply(201, b"<html>welcome</html>")) as line:
        client = api(line.url)
        answer = await client.write("POST", "/machines", creates=True)
        with pytest.raises(Unclear, match="not JSON") as caught:
            answer.json()
        assert caught.value.maybe_created
        await client.aclose()


async def test_a_unix_socket_is_spoken_to(tmp_path: Path) -> None:
    async with wire(reply(200, b"[]"), socket=tmp_path / "engine.sock") as line:
        client = api("http://docker", socket=tmp_path / "engine.sock")
        assert (await client.read("/containers/json", params={"all": 1})).json() == []
        assert line.lines == ["GET /containers/json?all=1 HTTP/1.1"]
        await client.aclose()


async def test_secrets_are_sent_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f'{{"message": "key {KEY} is no good\\u0000\\u001b[31m, Bearer {KEY} neither"}}'
    async with wire(reply(403, echo.encode())) as line:
        client = api(line.url)
        with pytest.raises(Refused) as caught:
            await client.read("/things")
        assert f"Authorization: Bearer {KEY}".encode() in line.requests[0]
        assert "key *** is no good [31m, *** neither" in str(caught.value)
        assert KEY not in caplog.text
        assert KEY not in repr(client)
        await client.aclose()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"error": {"message": "inner"}}', "inner"),
        (b'{"error": "flat"}', "flat"),
        (b'["first", "second"]', "first"),
        (b'{"code": 3}', '{"code": 3}'),
        (b"", ""),
        (b"[]", "[]"),
        (b"plain", "plain"),
    ],
)
def test_the_vendors_sentence_is_found_in_the_usual_shapes(body: bytes, sentence: str) -> None:
    assert said_by_vendor(body) == sentence


def test_json_of_another_shape_is_a_type_error() -> None:
    assert table({"a": 1}) == {"a": 1}
    assert tables([{"a": 1}]) == [{"a": 1}]
    for no_object in (None, "text", 3):
        with pytest.raises(TypeError):
            table(no_object)
    for no_array in ("text", [1]):
        with pytest.raises(TypeError):
            tables(no_array)
