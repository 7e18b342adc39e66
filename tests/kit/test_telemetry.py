"""Logs without secrets and without forged lines; metrics whose labels cannot grow."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from app.kit.telemetry import Telemetry, bound, logger, setup_logging
from providers.contract import Secret

CANARY = "hunter2-and-more-of-it"


@pytest.fixture(autouse=True)
def usual_logging_afterwards() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(form: str, *, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    setup_logging(level, form, stream)
    return stream


def test_one_event_is_one_json_line_with_a_utc_time_and_its_context() -> None:
    stream = lines("json")
    with bound(lease="brave-otter-41", request_id="r-1"):
        logger("web").info("delivery", forge="github", count=2)
    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert told["timestamp"].endswith("Z") and told["lease"] == "brave-otter-41" and told["count"] == 2
    assert (told["event"], told["level"], told["logger"]) == ("delivery", "info", "web")


def test_a_line_names_the_module_that_wrote_it() -> None:
    stream = lines("json")
    structlog.get_logger().warning("beat failed")
    assert json.loads(stream.getvalue())["logger"] == __name__


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_untrusted_text_cannot_fake_a_line(form: str) -> None:
    stream = lines(form)
    evil = 'main\n{"level": "info", "event": "all is well"}\r\x1b[2J\u2028\u202e'
    logger("web").warning("branch seen", branch=evil, **{"odd\nkey": "x"})
    logging.getLogger("uvicorn.error").warning("bad request line %s", evil)
    text = stream.getvalue()
    assert len(text.splitlines()) == 2 and not set(text) & set("\r\x1b\u2028\u202e")


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "facts",
    [
        {"answer": Secret(CANARY)},
        {"nested": {"deep": [Secret(CANARY)]}},
        {"token": CANARY},
        {"webhook_secret": CANARY},
        {"headers": {"Authorization": f"Bearer {CANARY}", "cookie": CANARY}},
        {"text": "ghs_" + CANARY.replace("-", "_") + "0" * 20},
        {"text": f"GET /login?once={CANARY}"},
        {"url": f"https://user:{CANARY}@example.test/x"},
        {"text": f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY-----"},
        {"raw": CANARY.encode()},
    ],
)
def test_no_secret_is_logged_by_type_by_name_or_by_looks(form: str, facts: dict[str, object]) -> None:
    stream = lines(form)
    logger("web").info("something", **facts)
    assert CANARY not in stream.getvalue() and CANARY.replace("-", "_") not in stream.getvalue()


def test_a_traceback_stays_inside_its_entry() -> None:
    stream = lines("console")
    try:
        raise ValueError("first\n2026-11-21 [info] forged")
    except ValueError:
        logger("web").exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert "failed" in first and rest and all(line.startswith("    ") for line in rest)


def test_long_values_are_cut_and_levels_hold() -> None:
    stream = lines("json", level="warning")
    logger("web").info("not shown")
    logger("web").warning("shown", body="x" * 100_000)
    assert "not shown" not in stream.getvalue() and len(stream.getvalue()) < 5_000


def a_telemetry() -> Telemetry:
    return Telemetry(
        version="1.2.3",
        pools=["rubin"],
        providers=["cloud-a", "cloud-b"],
        gpus=["rubin"],
        forges=["github"],
        phases=["idle", "busy"],
    )


def text_of(telemetry: Telemetry) -> list[str]:
    return telemetry.exposition()[0].decode().splitlines()


def test_series_exist_before_anything_happened() -> None:
    found = text_of(a_telemetry())
    assert 'sublet_deliveries_total{forge="github",result="bad_signature"} 0.0' in found
    assert 'sublet_leases{gpu="none",phase="idle",provider="cloud-b"} 0.0' in found
    assert 'sublet_build_info{currency="USD",version="1.2.3"} 1.0' in found


def test_ten_thousand_jobs_add_no_series() -> None:
    telemetry = a_telemetry()
    for number in range(10_000):
        telemetry.jobs.add(pool=f"pool-{number % 7}", result=f"result-{number}")
        telemetry.job_start.observe(number % 100, pool="rubin", provider=f"cloud-{number}")
        telemetry.leases_ended.add(provider="cloud-a", gpu=f"gpu-{number}", outcome="completed")
        if number == 0:
            few = len(text_of(telemetry))
    assert len(text_of(telemetry)) == few  # pyright: ignore[reportPossiblyUnboundVariable]
    assert 'sublet_jobs_total{pool="other",result="other"} 10000.0' in text_of(telemetry)


def test_gauges_forget_what_is_over() -> None:
    telemetry = a_telemetry()
    telemetry.leases.replace(
        {("busy", "cloud-a", "rubin"): 3, ("busy", "unheard-of", "rubin"): 1, ("busy", "unknown", "rubin"): 1}
    )
    assert 'sublet_leases{gpu="rubin",phase="busy",provider="other"} 2.0' in text_of(telemetry)
    telemetry.leases.replace({})
    assert not [line for line in text_of(telemetry) if line.startswith("sublet_leases{") and not line.endswith(" 0.0")]


def test_a_label_that_a_metric_does_not_have_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        a_telemetry().deliveries.add(forge="github")
