"""What the API, the pages and their JSON twins all answer with: one function for each, so that they cannot disagree."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal

from app.core.cooling import FIRST_REST, cooldowns
from app.core.model import Lease
from app.core.verdicts import digests, revoked_since, verdict_on
from app.store import board, decisions, images, jobs, leaks, leases, nodes, standings
from app.store.situation import Situation, situation
from app.web import schema, views
from app.web.doctor import examine
from app.web.errors import Problem
from app.web.image_views import digests_of, revoked_ones
from app.web.parts import WebParts
from app.web.providers_views import troubles
from app.web.sweep_views import SweepReply, sweep_views
from app.web.why import closed_views, cooldown_view, tried_views

Which = Literal["live", "past", "all"]
Tab = Literal["waiting", "started", "not_ours"]
LOG_PAGE = 1_000
NAME = re.compile(r"\b[a-z]+-[a-z]+-\d{2,}\b")
"""How leases are named (app.core.names)."""


class Reads:
    """Reads rows through the store's lane and turns them into views."""

    def __init__(self, parts: WebParts) -> None:
        self._parts = parts

    @property
    def _notes(self) -> Mapping[str, str]:
        return {name: pool.note for name, pool in self._parts.pools.items()}

    def now(self) -> datetime:
        return self._parts.clock.now()

    async def find(self, ref: str) -> Lease:
        """By name, id, start of an id, or the address of its job. Raises Problem (404)."""
        found = await self._parts.lane(leases.find, self._parts.db, ref[:1000])
        if found is None:
            raise Problem(
                404, f"There is no lease {ref[:100]}.", hint="A name, an id, four characters of an id, or a job's address."
            )
        return found

    async def lease(self, ref: str) -> schema.LeaseReply:
        """One lease, whole."""
        found = await self.find(ref)
        now = self.now()
        sheet = await self._parts.lane(board.lease_sheet, self._parts.db, found.id, now)
        if sheet is None:
            raise Problem(404, f"There is no lease {ref[:100]}.")
        revoked = await self._revoked_whole(sheet)
        key = found.key.job
        pinned = await self._parts.lane(jobs.get, self._parts.db, key) if key else None
        told = self._parts.listening
        detail = views.lease_detail(sheet, now, self._notes, self._parts.settings.demo, revoked, told, pinned)
        return schema.LeaseReply(**dict(detail))

    async def leases(self, which: Which, limit: int, before: datetime | None, text: str = "") -> schema.LeasesReply:
        """The newest first. `text` keeps those whose name, state, job, pool or provider holds it."""
        parts, now = self._parts, self.now()
        rows = await parts.lane(board.leases, parts.db, which, limit + 1, before)
        revoked = await self._revoked(rows[:limit])
        demo, told = parts.settings.demo, parts.listening
        found = [views.lease_view(row, now, self._notes, demo, revoked, told) for row in rows[:limit]]
        more = len(rows) > limit
        shown = [view for view in found if text.casefold() in _searched(view)] if text else found
        return schema.LeasesReply(leases=shown, more=more, before=found[-1].created_at if more else None)

    async def _revoked(self, rows: Sequence[board.LeaseRow]) -> dict[str, str]:
        """By lease id, why the image of one of these may not run any more. Bare leases cost no look."""
        parts, found = self._parts, [row.lease for row in rows]
        shown = digests_of(found)
        noted: Mapping[str, str] = await parts.lane(images.revoked_among, parts.db, shown) if shown else views.NONE
        return revoked_ones(found, parts.pools, noted)

    async def _revoked_whole(self, sheet: board.LeaseSheet) -> dict[str, str]:
        """The same for one lease, with every part of its image and of those that its job asked for."""
        parts, lease = self._parts, sheet.row.lease
        own = verdict_on(lease)
        shown = [verdict for verdict in (own, *(one.verdict for one in sheet.asked)) if verdict is not None and verdict.allowed]
        named = frozenset[str]().union(*(digests(verdict) for verdict in shown))
        pool = parts.pools.get(lease.key.pool)
        if not named or pool is None:
            return await self._revoked([sheet.row])
        noted = await parts.lane(images.revoked_among, parts.db, named)
        said = [sentence for verdict in shown if (sentence := revoked_since(verdict, pool, noted))]
        return {lease.id: " ".join(dict.fromkeys(said))} if said else {}

    async def log(self, lease: Lease, after: int, limit: int = LOG_PAGE) -> schema.LogReply:
        """Lines after the one of this number; from the first with -1."""
        found = await self._parts.lane(nodes.log, self._parts.db, lease.id, after, limit)
        lines = [schema.LogLine(seq=line.seq, at=line.at, source=line.source, line=line.line) for line in found]
        return schema.LogReply(lease=lease.name, lines=lines, last=lines[-1].seq if lines else after)

    async def queue(self, tab: Tab, limit: int, before: datetime | None) -> tuple[schema.QueueReply, Mapping[str, object]]:
        """One tab, and the names of live leases for links in its sentences."""
        parts, now = self._parts, self.now()
        found = await parts.lane(board.queue, parts.db, tab, limit + 1, before)
        more, last = len(found.rows) > limit, found.rows[limit - 1 : limit]
        shown = board.Queue(found.rows[:limit], found.counts, found.live)
        tried = {} if tab == "not_ours" else await self._tried(shown)
        known = await parts.lane(situation, parts.db, now) if tab == "waiting" else Situation({}, [], [])
        cold = cooldowns(known.setbacks, known.recent, now, FIRST_REST)
        reply = schema.QueueReply(
            tab=tab,
            counts=dict(found.counts),
            jobs=views.queue_items(shown, now, parts.settings.demo, tried, parts.listening),
            more=more,
            before=last[0].job.seen_at if more and tab != "waiting" else None,
            closed=closed_views(known.standings, now),
            cooldowns=[cooldown_view(one) for one in cold],
        )
        return reply, found.live

    async def _tried(self, shown: board.Queue) -> dict[str, tuple[schema.TriedView, ...]]:
        """By job id, the offers that said no in the lease that has it, or that is on its way for it."""
        named = {row.job.id: _named(row.job.wait, shown.live) for row in shown.rows}
        ids = {row.job.lease_id for row in shown.rows if row.job.lease_id}
        told = await self._parts.lane(decisions.tried, self._parts.db, ids=ids, names=set(filter(None, named.values())))
        found = {row.job.id: told.get(row.job.lease_id) or told.get(named[row.job.id]) for row in shown.rows}
        return {job: tried_views(tried) for job, tried in found.items() if tried}

    async def overview(self) -> schema.OverviewReply:
        parts, now = self._parts, self.now()
        found = await parts.lane(board.overview, parts.db, now)
        leaking = await parts.lane(leaks.leaks, parts.db, now)
        known = await parts.lane(standings.standings, parts.db)
        demo, notes, revoked = parts.settings.demo, self._notes, await self._revoked((*found.live, *found.recent))
        spending: dict[str, Decimal] = {}
        by_state: dict[str, int] = {}
        for row in found.live:
            lease = row.lease
            by_state[str(lease.state)] = by_state.get(str(lease.state), 0) + 1
            if lease.asked_at is not None and lease.price_per_hour is not None:
                spending[lease.currency] = spending.get(lease.currency, Decimal(0)) + lease.price_per_hour
        waiting = board.Queue(tuple(board.QueueRow(job, None) for job in found.waiting), found.counts, {})
        items = views.queue_items(waiting, now, demo, listening=parts.listening)
        return schema.OverviewReply(
            now=now,
            demo=demo,
            spending=[views.money(amount, currency) for currency, amount in sorted(spending.items())],
            booked_today=[views.money(amount, currency) for currency, amount in sorted(found.booked.items())],
            by_state=by_state,
            jobs=dict(found.counts),
            oldest_wait_seconds=max((item.waiting_seconds or 0.0 for item in items), default=None),
            start_times=views.start_times(found.starts),
            attention=[*views.attention(found, leaking, now, parts.settings.silent_seconds), *troubles(known, now)],
            live=[views.lease_view(row, now, notes, demo, revoked, parts.listening) for row in found.live],
            waiting=items,
            recent=[views.lease_view(row, now, notes, demo, revoked, parts.listening) for row in found.recent],
            ever=found.ever,
            unsigned_pools=sorted(name for name, pool in parts.pools.items() if not pool.signed),
        )

    async def doctor(self) -> schema.DoctorReply:
        checks = await examine(self._parts)
        return schema.DoctorReply(ok=all(check.status != "fail" for check in checks), checks=checks)

    async def sweep(self) -> SweepReply:
        """What each provider has under our owner tag, and what of it is no lease's own."""
        now = self.now()
        found = await self._parts.lane(leaks.leaks, self._parts.db, now)
        return SweepReply(providers=sweep_views(self._parts, found, now))


def _named(sentence: str, live: Mapping[str, object]) -> str:
    """The live lease that a sentence names first; empty: none."""
    return next((name for name in NAME.findall(sentence) if name in live), "")


def _searched(view: schema.LeaseView) -> str:
    job = "" if view.job is None else f"{view.job.repository} {view.job.name} {view.job.workflow} {view.job.branch}"
    return f"{view.name} {view.id} {view.state} {view.pool} {view.provider} {view.region} {view.reason or ''} {job}".casefold()
