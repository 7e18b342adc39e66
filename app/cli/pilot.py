"""`provider test NAME --paid`: says what a pilot would rent and cost, asks, waits, and shows what the machine measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import click

from app.cli.client import Client, Json
from app.cli.exits import Exit, Failure
from app.cli.options import Call
from app.cli.output import Column, hint
from app.cli.words import clean, clock, duration, money

LOOK_SECONDS = 1.0
LONGEST_WAIT = 45 * 60.0
"""Seconds: longer than a pilot may live; after it only a destroy can be what is waited for."""
MOST_AWAY = 120.0
"""Seconds that the service may be away meanwhile, as for a restart: the pilot goes on without anybody who waits."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller wants measured."""

    provider: str
    gpu: str | None = None
    region: str | None = None
    pool: str | None = None
    max_price: Decimal | None = None  # an hour; None: the price that is shown
    reason: str = ""


def pilot(call: Call, wish: Wish, yes: bool) -> int:
    """Show, ask, rent, wait, show. The exit code: 0 if the machine was usable, 1 if not. Raises Failure."""
    call.output.only_objects("provider test --paid")
    path = f"providers/{quote(wish.provider, safe='')}/pilot"
    words: dict[str, Any] = {"gpu": wish.gpu, "region": wish.region, "pool": wish.pool}
    with call.client() as api:
        most = None if wish.max_price is None else format(wish.max_price, "f")
        shown = api.get(path, **words, max_price_per_hour=most)
        if shown["offer"] is None:
            raise Failure(Exit.NO_OFFER, str(shown["why"]), f"`sublet offers --provider {wish.provider} --why` tells more.")
        hint(_proposal(shown))
        call.confirm("A machine is rented now, and costs money until it is proven gone.", yes)
        body = {name: value for name, value in words.items() if value is not None}
        body |= {"max_price_per_hour": most or shown["price_per_hour"]["amount"]}
        asked = api.post(path, {**body, "reason": wish.reason or "asked on the command line"})
        try:
            found = _wait(api, str(asked["id"]))
        except KeyboardInterrupt:
            text = f"The pilot {clean(asked['lease'])} goes on and ends by itself."
            raise Failure(Exit.INTERRUPTED, text, f"Look, or end it: sublet lease show {clean(asked['lease'])}") from None
    if call.output.is_text:
        _show(call, found)
    else:
        call.output.value(found)
    return Exit.OK if found["outcome"] == "usable" else Exit.FAILED


def _proposal(shown: Json) -> str:
    """The offer, its price, and what the pilot is expected to cost."""
    what, where = _machine(shown["offer"]), shown["offer"].get("region")
    return (
        f"{what}{f' in {clean(where)}' if where else ''} of {clean(shown['provider'])} at {money(shown['price_per_hour'])}/h: "
        f"about {money(shown['expected'])} for five minutes, at most {money(shown['at_most'])}.\n"
        f"It is measured for at most {duration(shown['lasts_seconds'])} once it is usable, and destroyed; "
        f"whatever happens, it ends {duration(shown['at_most_seconds'])} after its launch."
    )


def _machine(offer: Mapping[str, Any]) -> str:
    """`1 x h100 80 GiB (gpu_1x_h100)`, or the offer's own title."""
    if not offer.get("gpu"):
        return clean(offer.get("title") or offer["id"])
    memory = f" {offer['gpu_memory_gib']} GiB" if offer.get("gpu_memory_gib") else ""
    kind = offer.get("type") or offer["id"]
    return clean(f"{offer.get('gpus') or 1} x {offer['gpu']}{memory} ({kind}{', spot' if offer.get('spot') else ''})")


def _wait(api: Client, identity: str) -> Json:
    """The pilot once it has ended, with a line of progress for each step. Raises Failure when that takes too long."""
    end, said, heard = time.monotonic() + LONGEST_WAIT, "", time.monotonic()
    while True:
        try:
            found = api.get(f"pilots/{quote(identity, safe='')}")
        except Failure as failure:
            if failure.exit is not Exit.UNREACHABLE or time.monotonic() - heard > MOST_AWAY:
                raise
            time.sleep(LOOK_SECONDS)
            continue
        heard = time.monotonic()
        line = f"{clean(found['lease'])} {clean(found['state'])}" + (f": {clean(found['note'])}" if found["note"] else "")
        if line != said:
            hint(line)
            said = line
        if found["ended_at"] is not None and found["gone"]:
            return found
        if heard >= end:
            text = f"{clean(found['lease'])} is still {clean(found['state'])}."
            raise Failure(Exit.TIMED_OUT, text, f"It is not forgotten; look with `sublet lease show {clean(found['lease'])}`.")
        time.sleep(LOOK_SECONDS)


def _show(call: Call, found: Json) -> None:
    columns = [Column("pilot", lambda row: row[0]), Column(clean(found["provider"]), lambda row: row[1])]
    call.output.table(columns, [row for row in _rows(found) if row[1]])


def _rows(found: Json) -> Sequence[tuple[str, str]]:
    """What is told of a pilot that has ended, in the order of its life."""
    report: Mapping[str, Any] = found["report"] or {}
    gpu: Mapping[str, Any] = report.get("gpu") or {}
    offer: Mapping[str, Any] = found["offer"] or {}
    network: Mapping[str, Any] = report.get("network") or {}
    listed: Sequence[Mapping[str, Any]] = network.get("hosts") or []
    hosts = [(f"to {one['host']}", _told(one, "connect_ms", "ms") or str(one.get("problem"))) for one in listed]
    took = [(name, duration(found[f"{key}_seconds"])) for name, key in TIMES]
    sizes = [(name, _told(gpu, key, unit)) for name, key, unit in GPU]
    memory = (
        f"{gpu['memory_mib'] / 1024:.0f} GiB, {gpu.get('free_mib', 0) / 1024:.0f} GiB free" if gpu.get("memory_mib") else ""
    )
    card = " · ".join(str(part) for part in (gpu.get("name"), gpu.get("compute_capability")) if part)
    return [
        ("outcome", str(found["outcome"])),
        ("machine", _machine(offer) if offer else ""),
        ("region", str(found["region"])),
        ("price", f"{money(found['price_per_hour'])}/h" if found["price_per_hour"] else ""),
        *took,
        ("GPU", card + (f" (1 of {gpu['gpus']})" if gpu.get("gpus", 0) > 1 else "")),
        ("GPU memory", memory),
        *sizes,
        ("GPU trouble", str(gpu.get("problem") or "") if offer.get("gpus") else ""),
        ("to the service", _told(network, "connect_ms", "ms")),
        *hosts,
        ("from the service", _told(network, "download_mbps", "Mbit/s")),
        ("network trouble", str(network.get("problem") or "")),
        ("cost", money(found["cost"]) + (" (estimate)" if found["cost"].get("estimate") else "")),
        ("destroyed", f"confirmed gone at {clock(found['ended_at'])} UTC"),
        ("lease", str(found["lease"])),
    ]


TIMES = (("accepted after", "accepted"), ("running after", "running"), ("usable after", "usable"))
GPU = (
    ("to the GPU", "to_device_gbs", "GB/s"),
    ("from the GPU", "from_device_gbs", "GB/s"),
    ("GPU memory moves", "memory_gbs", "GB/s"),
    ("FP32", "fp32_tflops", "TFLOPS"),
)


def _told(view: Mapping[str, Any], key: str, unit: str) -> str:
    """A number with its unit; nothing for none."""
    value = view.get(key)
    return f"{value:g} {unit}" if isinstance(value, int | float) else ""


def price(_context: click.Context, _parameter: click.Parameter, given: str | None) -> Decimal | None:
    """An amount of money as text, so that it stays exact. Raises click.BadParameter."""
    if given is None:
        return None
    try:
        amount = Decimal(given)
    except ArithmeticError:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise click.BadParameter(f"{given!r} is no price: write a number such as 2.50")
    return amount


def options(command: Any) -> Any:
    """What `provider test` takes for a pilot."""
    for option in (
        click.option("-y", "--yes", is_flag=True, help="With --paid: do not ask."),
        click.option("--reason", default="", metavar="TEXT", help="With --paid: why; it goes into the audit."),
        click.option(
            "--max-price", callback=price, metavar="AMOUNT", help="With --paid: most for an hour.  [default: the price shown]"
        ),
        click.option("--pool", metavar="NAME", help="With --paid: run this pool's image, within its limits."),
        click.option("--region", metavar="NAME", help="With --paid: only this region or country."),
        click.option("--gpu", metavar="NAME", help="With --paid: only this GPU.  [default: the cheapest that has one]"),
        click.option("--paid", is_flag=True, help="Rent the cheapest machine for two minutes, measure it, destroy it."),
    ):
        command = option(command)
    return command
