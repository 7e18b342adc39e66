"""What a program's answers mean, in version 1 of the protocol. Nothing in them is believed unseen.

docs/how-to/providers/command.md describes the protocol, and protocol.schema.json beside its example says it as a schema.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar, cast

from providers.contract import (
    Availability,
    Health,
    Instance,
    Need,
    NoCapacity,
    Offer,
    Order,
    Phase,
    ProviderError,
    Reach,
    Refused,
    Throttled,
    Unclear,
    Why,
)

PROTOCOL = 1
MOST_ROWS = 10_000
TEXT = 300  # characters of any text of a program's that is shown
T = TypeVar("T")


class Unreadable(Exception):
    """The answer is not what the protocol says. The message names the place and quotes nothing."""


def question(verb: str, provider: str, settings: Mapping[str, Any], secrets: Mapping[str, str], **more: object) -> bytes:
    content = {"protocol": PROTOCOL, "verb": verb, "provider": provider, "settings": settings, "secrets": secrets, **more}
    return json.dumps(content).encode() + b"\n"


def need_of(need: Need) -> dict[str, Any]:
    """The need, as a hint for what to offer."""
    return {
        "gpu": need.gpu,
        "gpus": need.gpus,
        "gpu_memory_gib": need.gpu_memory_gib,
        "memory_gib": need.memory_gib,
        "disk_gib": need.disk_gib,
        "architecture": need.architecture,
        "regions": sorted(need.regions),
        "spot": need.spot,
        "max_price_per_hour": None if need.max_price_per_hour is None else format(need.max_price_per_hour, "f"),
    }


def order_of(order: Order) -> dict[str, Any]:
    """The order as the protocol has it; the login's password is in it."""
    login = order.login
    return {
        "tag": order.tag,
        "owner": order.owner,
        "key": order.key,
        "offer": order.offer.id,
        "type": order.offer.type,
        "region": order.offer.region,
        "price_per_hour": format(order.offer.price_per_hour, "f"),
        "user_data": order.user_data,
        "ends_at": order.ends_at.isoformat(),
        "image": order.image,
        "login": None
        if login is None
        else {"registry": login.registry, "username": login.username, "password": login.password.reveal()},
    }


def read(output: bytes) -> Mapping[str, Any]:
    """The answer as a table. Raises `Unreadable`."""
    try:
        content: Any = json.loads(output, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Unreadable("the answer is not JSON") from None
    answer = _table(content, "the answer")
    if answer.get("protocol") != PROTOCOL or isinstance(answer.get("protocol"), bool):
        raise Unreadable(f"the answer is not of protocol {PROTOCOL}")
    return answer


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def error_of(answer: Mapping[str, Any], hide: Callable[[str], str], *, creating: bool) -> ProviderError | None:
    """The error that the answer tells; `hide` makes its message safe to show. Raises `Unreadable`."""
    if answer.get("error") is None:
        return None
    error = _table(answer["error"], "error")
    message = hide(_get(error, "message", str, "error", default="")) or "the program gives no reason"
    match _get(error, "kind", str, "error"):
        case "no_capacity":
            return NoCapacity(message, reach=_word(Reach, error.get("reach"), Reach.OFFER, "error.reach"))
        case "refused":
            return Refused(message, why=_word(Why, error.get("why"), Why.REQUEST, "error.why"))
        case "throttled":
            wait = _get(error, "wait_seconds", (int, float), "error", default=30)
            return Throttled(message, wait=timedelta(seconds=min(max(float(wait), 1.0), 3600.0)))
        case "unclear":
            return Unclear(message, maybe_created=creating and error.get("maybe_created") is not False)
        case _:
            raise Unreadable("error.kind is none that the protocol knows")


def instance_of(content: Any, ids: "re.Pattern[str]") -> tuple[Instance, str]:
    """The instance, and its owner. Raises `Unreadable`."""
    row = _table(content, "instance")
    number = _get(row, "id", str, "instance")
    if not ids.fullmatch(number):
        raise Unreadable("instance.id is not of the form that id_pattern says")
    phase = _get(row, "phase", str, "instance")
    instance = Instance(
        id=number,
        tag=_get(row, "tag", str, "instance"),
        phase=Phase(phase) if phase in tuple(Phase) else Phase.UNKNOWN,
        created_at=_time(row.get("created_at"), "instance.created_at"),
        region=line(_get(row, "region", str, "instance", default="")),
        detail=line(_get(row, "detail", str, "instance", default="")) or line(phase),
        key=_get(row, "key", str, "instance", default=""),
        ended_at=_time(row.get("ended_at"), "instance.ended_at"),
        preempted=row.get("preempted") is True,
    )
    return instance, _get(row, "owner", str, "instance")


def instances_of(answer: Mapping[str, Any], ids: "re.Pattern[str]") -> list[tuple[Instance, str]]:
    return [instance_of(row, ids) for row in _rows(answer, "instances")]


def offers_of(answer: Mapping[str, Any], provider: str, currency: str, now: datetime) -> list[Offer]:
    """Raises `Unreadable` for the first that is wrong: prices are not guessed."""
    offers = [_offer(_table(row, "offer"), provider, currency, now) for row in _rows(answer, "offers")]
    if len({offer.id for offer in offers}) != len(offers):
        raise Unreadable("two offers have one id")
    return offers


def health_of(answer: Mapping[str, Any]) -> Health:
    health = _table(answer.get("health"), "health")
    facts = _table(health.get("facts", {}), "health.facts")
    told = {line(name): line(str(value)) for name, value in list(facts.items())[:20]}
    return Health(health.get("ok") is True, line(_get(health, "summary", str, "health")), told)


def _offer(row: Mapping[str, Any], provider: str, currency: str, now: datetime) -> Offer:
    name = _get(row, "id", str, "offer")
    try:
        price = Decimal(_get(row, "price_per_hour", str, "offer"))
    except InvalidOperation:
        raise Unreadable("offer.price_per_hour is no number") from None
    if not name or not price.is_finite() or price < 0:
        raise Unreadable("an offer has an id, and a price that is not negative")
    if row.get("currency", currency) != currency:
        raise Unreadable("an offer is in another currency than the settings say")
    notice = _get(row, "notice_seconds", (int, float), "offer", default=-1)
    return Offer(
        id=name[:200],
        provider=provider,
        region=_get(row, "region", str, "offer"),
        price_per_hour=price,
        currency=currency,
        seen_at=now,
        country=_get(row, "country", str, "offer", default="") or None,
        gpu=_get(row, "gpu", str, "offer", default="") or None,
        gpus=_whole(row, "gpus") or 0,
        gpu_memory_gib=_whole(row, "gpu_memory_gib") or 0,
        memory_gib=_whole(row, "memory_gib"),
        disk_gib=_whole(row, "disk_gib"),
        architecture=_get(row, "architecture", str, "offer", default="amd64"),
        spot=row.get("spot") is True,
        own=row.get("own") is True,
        availability=_word(Availability, row.get("availability"), Availability.UNKNOWN, "offer.availability"),
        title=line(_get(row, "title", str, "offer", default="")) or name[:200],
        type=_get(row, "type", str, "offer", default=""),
        notice=timedelta(seconds=float(notice)) if notice >= 0 else None,
    )


def _rows(answer: Mapping[str, Any], name: str) -> Sequence[Any]:
    rows = answer.get(name)
    if not isinstance(rows, list):
        raise Unreadable(f"{name} is no list")
    found = cast("list[Any]", rows)
    if len(found) > MOST_ROWS:
        raise Unreadable(f"{name} has more than {MOST_ROWS} rows")
    return found


def _table(content: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise Unreadable(f"{name} is no object")
    return cast("dict[str, Any]", content)


def _get(row: Mapping[str, Any], key: str, kind: type[T] | tuple[type[Any], ...], where: str, *, default: Any = None) -> Any:
    value = row.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Unreadable(f"{where}.{key} is missing or of another kind")
    return value


def _whole(row: Mapping[str, Any], key: str) -> int | None:
    value = _get(row, key, int, "offer", default=-1)
    if value < 0 and key in row and row[key] is not None:
        raise Unreadable(f"offer.{key} is negative")
    return value if value >= 0 else None


def _word(kind: type[T], value: object, default: T, where: str) -> T:
    try:
        return default if value is None else kind(value)  # pyright: ignore[reportCallIssue]  an enumeration
    except ValueError:
        raise Unreadable(f"{where} is none that the protocol knows") from None


def _time(value: object, where: str) -> datetime | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        raise Unreadable(f"{where} is no RFC 3339 time") from None
    if found.tzinfo is None:
        raise Unreadable(f"{where} has no time zone")
    return found


def line(text: str) -> str:
    """One short line that can be shown."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:TEXT]
