"""The vendor's SDK kept in check: no key, file, certificate or log of its own; and the bench's judge says no."""

import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from providers import vast_account
from providers.contract import Unclear
from tests.providers import vast_bench
from tests.providers.vast_bench import VastBench
from tests.providers.vast_cloud import HANG, KEY
from tests.providers.vendor_spec import standing


@pytest.fixture
async def bench() -> AsyncGenerator[VastBench, None]:
    async with standing(vast_bench.bench) as found:
        yield found


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_the_sdk_reads_no_key_and_no_certificate_and_leaves_the_log_alone(
    bench: VastBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VAST_API_KEY", "of-the-environment")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".vast_api_key").write_text("of-the-home-folder")
    provider = bench.vast()
    await provider.owned("x")
    assert [headers["Authorization"] for headers in bench.cloud.headers] == [f"Bearer {KEY}"]
    assert [path for _, path in bench.cloud.seen] == ["/api/v1/instances"]
    assert names(tmp_path) == [".vast_api_key"]
    assert not logging.getLogger("vastai").handlers


async def test_an_answer_that_is_too_large_is_not_read(bench: VastBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vast_account, "CAP", 1000)
    bench.cloud.trouble("PUT", "/api/v0/asks", 200, b"x" * 100_000)
    with pytest.raises(Unclear, match="larger than 1000 bytes") as caught:
        await bench.vast().create(bench.order())
    assert caught.value.maybe_created


async def test_a_call_without_an_answer_ends_in_time(bench: VastBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vast_account, "CREATE_TIMEOUT", 0.05)
    bench.cloud.trouble("PUT", "/api/v0/asks", HANG)
    with pytest.raises(Unclear, match=r"no answer within 0\.05 s") as caught:
        await bench.vast().create(bench.order())
    assert caught.value.maybe_created


async def test_a_closed_provider_calls_nobody(bench: VastBench) -> None:
    provider = bench.vast()
    await provider.aclose()
    with pytest.raises(Unclear, match="closed"):
        await provider.owned("x")
    assert not bench.cloud.seen


async def test_the_bench_complains_of_what_the_description_does_not_have() -> None:
    with pytest.raises(AssertionError, match="unknown query parameter"):
        async with standing(vast_bench.bench) as bench:
            account = bench.vast()._account  # pyright: ignore[reportPrivateUsage]
            await account._send("GET", "/api/v1/instances/?owner=me&select_filters={}&select_cols=[]&limit=1")  # pyright: ignore[reportPrivateUsage]
