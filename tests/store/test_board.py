"""What pages read, on both databases: numbers that agree with each other, and a cost that does not grow with history."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from app.core.model import Reason
from app.core.states import State
from app.store import board, leases, ledger, sweep, tally
from app.store.db import Database
from tests.web.story import NOW, afternoon, live_to, move, plan


def test_lists_come_with_jobs_stays_and_charges(database: Database) -> None:
    told = afternoon(database)
    live = board.leases(database)
    assert [row.lease.name for row in live] == ["bold-newt-55", "swift-hare-02", "brave-otter-41"]
    otter = live[-1]
    assert otter.job is not None and otter.job.id == "github-30021" and otter.charges == ()
    assert [span.state for span in otter.spans][-1] is State.BUSY and otter.lease.decision is None
    past = board.leases(database, "past", limit=2)
    assert [row.lease.name for row in past] == ["keen-stoat-64", "dull-crow-90"]
    rest = board.leases(database, "past", before=past[-1].lease.created_at)
    assert {row.lease.name for row in rest} == {"calm-heron-07", "wise-lynx-12", "red-finch-33"}
    assert all(row.charges for row in rest) and len(board.leases(database, "all")) == len(told)


def test_a_sheet_holds_everything_of_one_lease(database: Database) -> None:
    told = afternoon(database)
    sheet = board.lease_sheet(database, told["brave-otter-41"].id, NOW)
    assert sheet is not None and sheet.row.lease.decision is not None and sheet.log_lines == 7
    assert [entry.action for entry in sheet.audit][:2] == ["lease.busy", "lease.idle"]
    assert sheet.typical[State.BOOTING] == 58.0 and State.PLANNED in sheet.typical
    assert board.lease_sheet(database, "nobody", NOW) is None


def test_states_of_the_same_moment_stay_in_order(database: Database) -> None:
    lease = plan(database, 1, "quick-mole-01", NOW)
    for state in (State.LAUNCHING, State.BOOTING, State.PROVING):
        move(database, lease.id, state, NOW)
    sheet = board.lease_sheet(database, lease.id, NOW)
    assert sheet is not None
    assert [span.state for span in sheet.row.spans] == [State.PLANNED, State.LAUNCHING, State.BOOTING, State.PROVING]


def test_the_stamp_changes_with_whatever_the_page_shows(database: Database) -> None:
    lease = live_to(database, 1, "brave-otter-41", State.BOOTING, NOW - timedelta(minutes=1))
    seen = {board.stamp(database, lease.id), board.stamp(database, lease.id)}
    assert len(seen) == 1
    move(database, lease.id, State.PROVING, NOW)
    seen.add(board.stamp(database, lease.id))
    leases.ask(database, lease.id, "drain", Reason.OPERATOR, "x", "ana", NOW)
    seen.add(board.stamp(database, lease.id))
    assert len(seen) == 3 and board.stamp(database, "nobody") is None


def test_the_overview_and_the_queue_agree(database: Database) -> None:
    afternoon(database)
    shown, waiting = board.overview(database, NOW), board.queue(database, "waiting")
    assert shown.counts == waiting.counts == {"waiting": 3, "started": 1, "not_ours": 1}
    assert (
        [job.name for job in shown.waiting]
        == [row.job.name for row in waiting.rows]
        == ["nightly", "deploy-model", "gpu-tests"]
    )
    assert waiting.live == {"brave-otter-41": State.BUSY, "swift-hare-02": State.BOOTING, "bold-newt-55": State.PLANNED}
    started = board.queue(database, "started", limit=2)
    assert started.rows[0].lease is not None and started.rows[0].lease.name == "brave-otter-41"
    more = board.queue(database, "started", before=started.rows[-1].job.seen_at)
    assert {row.job.id for row in started.rows}.isdisjoint(row.job.id for row in more.rows) and more.rows
    assert [row.job.name for row in board.queue(database, "not_ours").rows] == ["lint"]
    assert shown.starts == (119.0, 119.0) and shown.booked["USD"] > Decimal(2) and shown.ever


def test_an_empty_database_has_an_overview_too(database: Database) -> None:
    shown = board.overview(database, NOW)
    assert (shown.live, shown.recent, shown.waiting, shown.starts, shown.ever) == ((), (), (), (), False)
    assert board.numbers(database) == board.Numbers({}, {}, {}, {})


def test_gauges_are_read_from_live_rows(database: Database) -> None:
    afternoon(database)
    lease = live_to(database, 50, "slow-toad-77", State.DESTROYING, NOW - timedelta(hours=1))
    found = board.numbers(database)
    assert found.leases["busy", "cloud-a", "rubin"] == 1 and sum(found.leases.values()) == 4
    assert found.rates["cloud-a", "rubin"] == Decimal("6.57")
    assert found.waiting["rubin"] == (2, NOW - timedelta(minutes=18))
    assert found.destroying == {"cloud-a": lease.entered_at}


def test_the_tally_is_what_ended_in_between(database: Database) -> None:
    live_to(database, 1, "calm-heron-07", State.RELEASED, NOW - timedelta(hours=5), job=1)
    live_to(database, 2, "wise-lynx-12", State.RELEASED, NOW, job=2)
    until = NOW + timedelta(hours=1)
    found = tally.between(database, NOW, until)
    assert [(start.pool, start.provider, start.seconds) for start in found.starts] == [("rubin", "cloud-a", 119.0)]
    assert [(end.reason, end.conclusion, end.gpu) for end in found.ends] == [(Reason.JOB_DONE, "success", "rubin")]
    assert len(found.stays) == 9 and next(stay.seconds for stay in found.stays if stay.state is State.BUSY) == 640.0
    assert sum(row.amount for row in found.booked) == ledger.total(database, NOW)["USD"]
    nothing = tally.between(database, until, until + timedelta(hours=1))
    assert nothing == tally.Tally((), (), (), ())


def test_orphans_are_those_that_the_last_sweep_saw(database: Database) -> None:
    for place, things in (("provider:cloud-a", {"i-1", "i-2"}), ("provider:cloud-b", {"i-3"}), ("forge:github", {"r-1"})):
        sweep.sight(database, place, things, NOW, timedelta(0))
    sweep.sight(database, "provider:cloud-b", set(), NOW, timedelta(0))
    assert tally.orphans(database) == {"cloud-a": 2}


def test_the_overview_s_stamp_moves_with_leases_and_jobs(database: Database) -> None:
    before = board.overview_stamp(database)
    assert board.overview_stamp(database) == before
    lease = plan(database, 1, "quick-mole-01", NOW)
    planned = board.overview_stamp(database)
    move(database, lease.id, State.LAUNCHING, NOW + timedelta(seconds=1))
    assert len({before, planned, board.overview_stamp(database)}) == 3
