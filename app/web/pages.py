"""Templates -> HTML: the reader's taste (times, theme, keys), the words of values, and nothing that is not escaped."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import jinja2
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.core.model import SERVED, Reason
from app.core.states import State
from app.kit.words import SIGNS, money
from app.web.errors import Problem
from app.web.hearing import ways
from app.web.offers_words import brief_price, card, gib, gpu_card, measured
from app.web.parts import WebParts
from app.web.schema import LeaseView, Money
from app.web.why import answered, place_of, ruled, story
from app.web.words import LOOKS, Look, TimeStyle, because, duration, known_zone, rate, stamped, visible

if TYPE_CHECKING:
    from app.web.auth import Visitor

HERE = Path(__file__).parent
NAV = (
    ("/", "Overview", "o"), ("/queue", "Queue", "q"), ("/leases", "Leases", "l"), ("/offers", "Offers", "f"),
    ("/health-page", "Health", "h"),
)  # fmt: skip
BELOW = {"/providers": "/offers"}
"""Pages that belong to one of the bar, though their address does not say so."""
TYPES: Mapping[str, str] = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
MARKED = re.compile(r"\b(?P<name>[a-z]+-[a-z]+-\d{2,})\b|`(?P<code>[^`]{1,80})`")
_STATES = frozenset(str(state) for state in State)
CHARGES: Mapping[str, str] = {
    "before_job": "Before the job",
    "job": "The job",
    "after_job": "After the job",
    "rounding": "Rounding",
}
YEAR_SECONDS = 31_536_000


@dataclass(frozen=True, slots=True)
class Taste:
    """How one reader likes pages; out of cookies, so that the server writes them right the first time."""

    times: TimeStyle
    theme: str
    keys: bool

    @classmethod
    def of(cls, request: Request) -> Taste:
        cookies = request.cookies
        zone = cookies.get("zone", "").replace("%2F", "/")[:60]
        form, theme = cookies.get("times", "utc"), cookies.get("theme", "system")
        return cls(
            TimeStyle(form if form in ("utc", "local", "relative") else "utc", zone if known_zone(zone) else ""),
            theme if theme in ("light", "dark") else "system",
            cookies.get("keys") != "off",
        )


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    media_type: str
    version: str


def local_path(path: str) -> str:
    """The path if it is one of ours, else the first page: a link must not lead to another site after a login."""
    if not path.startswith("/") or path.startswith(("//", "/\\")) or any(ord(char) < 33 or char == "\\" for char in path):
        return "/"
    return path[:500]


class Pages:
    """The templates and static files, read once."""

    def __init__(self, parts: WebParts) -> None:
        self._parts = parts
        self.assets = {path.name: _asset(path) for path in sorted((HERE / "static").iterdir()) if path.suffix in TYPES}
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            finalize=finalize,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        filters: dict[str, Any] = {
            "took": duration, "because": because, "look": look, "failed": failed, "machine": machine, "cash": cash,
            "rate": price, "charge_word": charge_word, "sum2": total, "cut": cut, "act": act, "stamp": rfc3339,
            "answered": answered, "place": place_of, "story": story, "card": gpu_card, "size": gib, "brief": brief_price,
            "measured": measured, "ruled": ruled,
            "when": jinja2.pass_context(_when),
            "clock": jinja2.pass_context(_clock), "linked": linked, "ticking": ticking,
        }  # fmt: skip
        known: dict[str, Any] = {
            "asset": self._asset_path,
            "version": parts.settings.version,
            "demo": parts.settings.demo,
            "public_url": parts.settings.public_url,
            "ways": ways(parts.forges, parts.listening, parts.settings.public_url),
        }
        self._templates.filters.update(filters)
        self._templates.globals.update(known)

    def _asset_path(self, name: str) -> str:
        return f"/static/{name}?v={self.assets[name].version}"

    def context(self, request: Request, visitor: Visitor | None) -> dict[str, Any]:
        """What every template may count on."""
        path = request.url.path
        back = local_path(path + (f"?{request.url.query}" if request.url.query else ""))
        return {
            "now": self._parts.clock.now(), "taste": Taste.of(request), "visitor": visitor, "nav": NAV,
            "here": _here(path),
            "back": back, "stream": "", "poll": 0, "live_page": False, "twin": "", "cli": "", "said": "",
            "csrf": visitor.csrf if visitor else "",
        }  # fmt: skip

    def render(self, template: str, context: Mapping[str, Any]) -> str:
        return self._templates.get_template(template).render(context)

    def page(self, request: Request, template: str, visitor: Visitor | None, status: int = 200, **more: Any) -> HTMLResponse:
        """One whole page."""
        return HTMLResponse(self.render(template, {**self.context(request, visitor), **more}), status)

    def listed(self, request: Request, template: str, visitor: Visitor, digest: str, **more: Any) -> Response:
        """A list that the browser asks for every few seconds: 304 while neither its rows nor the quarter minute changed.

        The quarter minute is in it because ages and costs go on while no row changes."""
        context = {**self.context(request, visitor), **more}
        quarter = int(context["now"].timestamp()) // 15
        seed = repr((digest, quarter, context["taste"], visitor, request.url.query))
        etag = f'W/"{hashlib.sha256(seed.encode()).hexdigest()[:24]}"'
        headers = {"etag": etag, "vary": "cookie"}
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return HTMLResponse(self.render(template, context), headers=headers)

    def trouble(self, request: Request, problem: Problem, request_id: str) -> Response:
        """The page for an error; whoever is not logged in is led to where they can."""
        path = request.url.path
        if problem.status_code == 401:
            return RedirectResponse("/login" if path == "/" else f"/login?{urlencode({'next': local_path(path)})}", 303)
        visitor: Visitor | None = getattr(request.state, "visitor", None)
        retry = local_path(path) if problem.status_code >= 500 and request.method == "GET" else ""
        answer = self.page(
            request, "error.html", visitor, problem.status_code, problem=problem, request_id=request_id, retry=retry
        )
        answer.headers.update(problem.headers or {})
        return answer


def _here(path: str) -> str:
    """The page of the bar that this address belongs to; empty: none of them."""
    if path == "/":
        return path
    at = next((bar for start, bar in BELOW.items() if path.startswith(start)), path)
    return next((bar for bar, _, _ in NAV[1:] if at.startswith(bar)), "")


def _asset(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:12])


# --- filters


def finalize(value: Any) -> Any:
    """What every value passes on its way into a page; one that is HTML already passed it before."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def look(state: str) -> Look:
    return LOOKS[State(state)]


def failed(lease: LeaseView) -> bool:
    return lease.reason is not None and lease.reason not in {str(reason) for reason in SERVED | {Reason.SHUTDOWN}}


def machine(lease: LeaseView) -> str:
    """`1×H100 80 GB`, or the offer's own title; before there is an offer, what the pool asks for is on its way."""
    offer = lease.offer
    if offer is None:
        return "no machine yet" if not lease.gone else "no machine"
    if not offer.get("gpu"):
        return str(offer.get("title") or offer.get("id") or "machine without GPU")[:100]
    return card(str(offer["gpu"]), offer.get("gpus") or 1, offer.get("gpu_memory_gib") or 0)


def cash(value: Money) -> str:
    amount = Decimal(value.amount)
    return money(amount, value.currency, 4 if abs(amount) < 100 else 2)


def cut(text: str, most: int = 30) -> str | Markup:
    """A short cell stays short: the rest of a long value is under the pointer, and in the JSON."""
    if len(text) <= most:
        return text
    text = visible(text)
    return Markup('<span title="{}">{}…</span>').format(text[:1000], text[: most - 1])


def total(value: Money) -> str:
    return money(Decimal(value.amount), value.currency, 2)


def act(action: str) -> str:
    """`lease.busy` -> `running`, `lease.drain_asked` -> `drain asked`, `node.join_reused` -> `join reused`."""
    word = action.partition(".")[2] or action
    return LOOKS[State(word)].word if action.startswith("lease.") and word in _STATES else word.replace("_", " ")


def price(value: Money | None) -> str:
    return "–" if value is None else rate(Decimal(value.amount), value.currency)


def charge_word(kind: str) -> str:
    return CHARGES.get(kind, kind)


def rfc3339(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _when(context: jinja2.runtime.Context, at: datetime) -> Markup:
    style: TimeStyle = context["taste"].times
    now: datetime = context["now"]
    return Markup('<time datetime="{}" title="{}">{}</time>').format(rfc3339(at), style.hint(at, now), style.text(at, now))


def _clock(context: jinja2.runtime.Context, at: datetime) -> str:
    """Only the clock, for log lines; relative times would all be wrong a moment later."""
    return clock_text(context["taste"].times, at)


def clock_text(style: TimeStyle, at: datetime) -> str:
    zone = known_zone(style.zone) if style.form == "local" and style.zone else None
    return stamped(at, at, zone).rsplit(" ", 1)[0] if zone else f"{at:%H:%M:%S}"


def linked(sentence: str, live: Container[str]) -> Markup:
    """The sentence with the names of live leases as links, and what stands in backticks as code."""
    pieces: list[str | Markup] = []
    sentence, last = visible(sentence), 0
    for found in MARKED.finditer(sentence):
        name, code = found.group("name"), found.group("code")
        if name is not None and name not in live:
            continue
        pieces.append(sentence[last : found.start()])
        if name is not None:
            pieces.append(Markup('<a href="/leases/{}">{}</a>').format(quote(name), name))
        else:
            pieces.append(Markup("<code>{}</code>").format(code))
        last = found.end()
    return Markup("").join([*pieces, sentence[last:]])


def ticking(lease: LeaseView) -> Markup:
    """The cost so far; a browser counts on between two words of the server where money runs by the second."""
    text = cash(lease.cost)
    billing = lease.billing
    running = billing.since is not None and not lease.gone and lease.price_per_hour is not None
    if not running or lease.price_per_hour is None or billing.granularity_seconds > 1 or not _past_minimum(lease):
        return Markup('<span class="amount">{}</span>').format(text)
    sign = SIGNS.get(lease.cost.currency)
    form = f"{sign}#" if sign else f"# {lease.cost.currency}"
    return Markup('<span class="amount" data-amount="{}" data-rate="{}" data-form="{}">{}</span>').format(
        lease.cost.amount, lease.price_per_hour.amount, form, text
    )


def _past_minimum(lease: LeaseView) -> bool:
    """Before the provider's minimum is used up the cost stands still."""
    if lease.price_per_hour is None:
        return False
    least = (
        Decimal(lease.price_per_hour.amount) * Decimal(timedelta(seconds=lease.billing.minimum_seconds).total_seconds()) / 3600
    )
    return Decimal(lease.cost.amount) > least
