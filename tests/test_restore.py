"""An hour-old copy of the database is put back in the middle of a busy day: what runs goes on, what is nobody's is settled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from app.core.model import Lease, Reason
from app.core.states import State
from app.store import audit, copies, ledger, strays, surveys
from app.store.db import Database
from providers.fake import FakeSettings
from tests.world import World, pool_of

LABELS = ["gpu", "rubin"]
HOUR = timedelta(hours=1)


@pytest.fixture
def database(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """SQLite: what a restore does afterwards is the same on both, and PostgreSQL's own tools copy it in test_backup.py."""
    shutil.copyfile(sqlite_template, tmp_path / "sublet.db")
    opened = Database(f"sqlite:///{tmp_path / 'sublet.db'}")
    yield opened
    opened.close()


class Day(World):
    """A world whose database can be put back."""

    def __init__(self, database: Database, folder: Path) -> None:
        clouds = {"cloud": FakeSettings(keeps_records=True)}
        pool = pool_of(ceiling=20, max_duration=6 * HOUR, boot_limit=HOUR / 4)
        super().__init__(database, folder, pools=[pool], clouds=clouds)
        self.github.state.book.limits.lost = 24 * HOUR  # the runner programs of a world do not renew their jobs
        self._file = folder / "sublet.db"

    def back_up(self) -> Path:
        copy = self._file.with_name("backup.db")
        copies.copy(self._file, copy)
        return copy

    async def put_back(self, copy: Path) -> None:
        """Stop, restore, start, as an operator does."""
        self.database.close()
        for end in ("", "-wal", "-shm"):
            self._file.with_name(f"sublet.db{end}").unlink(missing_ok=True)
        copies.copy(copy, self._file)
        self.database = Database(f"sqlite:///{self._file}")
        await self.restart()

    async def start(self, *hours: float) -> list[str]:
        """Jobs of these lengths, each on a machine of its own, all running."""
        before = {lease.id for lease in self.leases()}
        keys = [self.github.queue(LABELS) for _ in hours]

        def running() -> bool:
            new = [lease for lease in self.leases() if lease.id not in before]
            return len(new) == len(hours) and all(lease.state is State.BUSY for lease in new)

        self.job_duration = 9 * HOUR
        await self.run_until(running, stride=3)
        for host in self.hosts.values():
            if host.work is not None and host.work.key in keys:
                host.until = self.clock.now() + hours[keys.index(host.work.key)] * HOUR
        return keys

    async def pass_by(self, duration: timedelta) -> None:
        await self.run(duration, stride=60)

    def conclusions(self, keys: list[str]) -> set[str | None]:
        return {self.github.conclusion(key) for key in keys}

    def of(self, lease: Lease) -> Decimal:
        """What the cloud asks for the machines of one lease."""
        lines = [line for line in self.cloud.invoice().lines if line.tag == lease.tag]
        return sum((line.exact for line in lines), Decimal(0))


async def test_what_runs_goes_on_and_what_ended_is_closed_at_its_true_end(database: Database, tmp_path: Path) -> None:
    async with Day(database, tmp_path) as day:
        (long,) = await day.start(1.2)
        (ended,) = await day.start(0.25)
        day.job_duration = HOUR / 4
        waiting = day.github.queue(LABELS)
        await day.deliver()
        copy = day.back_up()
        known = day.leases()
        await day.pass_by(HOUR)
        assert day.conclusions([ended, waiting]) == {"success"}
        (new,) = await day.start(0.25)
        gone = day.github.queue(LABELS)
        day.github.cancel(gone)
        await day.run(timedelta(minutes=1))

        await day.put_back(copy)
        await day.run(timedelta(minutes=4), stride=30)
        (stray,) = [one for one in strays.open_ones(day.database) if one.asked_at is None]
        assert stray.busy_at is not None and day.github.conclusion(new) is None, "its job runs: it is left alone"
        await day.run_until(lambda: day.conclusions([long, new]) == {"success"}, within=4 * HOUR, stride=60)
        await day.run_until(lambda: day.all_released() and not day.living(), within=HOUR, stride=60)
        assert day.conclusions([long, ended, waiting, new]) == {"success"}, "no job was ended, and none ran twice"
        after = {lease.id: lease for lease in day.leases()}
        assert after[known[0].id].reason is Reason.JOB_DONE
        assert after[known[1].id].reason in (Reason.INSTANCE_LOST, Reason.JOB_DONE)
        for lease in known:
            booked = sum((charge.amount for charge in ledger.charges(day.database, lease.id)), Decimal(0))
            assert abs(booked - day.of(lease)) < Decimal("0.01"), lease.name
        assert day.job(waiting).conclusion == "success"
        again = [lease for lease in after.values() if lease.id not in {one.id for one in known}]
        assert {lease.reason for lease in again} <= {Reason.JOB_GONE, Reason.IDLE_TIMEOUT} and len(again) <= 1
        assert day.github.registered() == []


async def test_too_many_at_once_wait_for_a_person_and_finish_their_jobs_meanwhile(database: Database, tmp_path: Path) -> None:
    async with Day(database, tmp_path) as day:
        (old,) = await day.start(1)
        copy = day.back_up()
        keys = await day.start(0.1, 0.1, 0.1, 0.15, 0.15)
        await day.put_back(copy)
        await day.run_until(lambda: day.conclusions(keys) == {"success"}, within=4 * HOUR, stride=60)
        await day.pass_by(timedelta(minutes=4))
        assert len(day.living()) == 6, "they are off, they still cost money, and nobody has said that they may go"
        told = surveys.listing(day.database)["cloud"]
        assert (told.listed, told.owned, told.held) == (6, 1, 5) and told.stopped_at is not None
        assert [one.action for one in audit.listing(day.database, "provider:cloud")] == ["sweep.stopped"]
        named = [stray.instance_id for stray in strays.open_ones(day.database)]
        assert strays.confirm(day.database, "cloud", "ada", day.clock.now(), named, "the backup was an hour old") == 5
        await day.run(timedelta(minutes=2))
        assert [machine.tag for machine in day.living()] == [day.leases()[0].tag]
        assert strays.open_ones(day.database) == []
        assert day.github.conclusion(old) is None and day.leases()[0].state is State.BUSY


async def test_a_machine_that_was_starting_at_the_backup_is_given_up_and_says_why(database: Database, tmp_path: Path) -> None:
    """The one loss: its node's session came after the copy. Its lease ends by its own deadline, and the forge tells the job."""
    async with Day(database, tmp_path) as day:
        day.job_duration = 2 * HOUR
        day.github.queue(LABELS)
        await day.run_until(lambda: bool(day.leases()) and day.lease().state is State.BOOTING, stride=1)
        copy = day.back_up()
        await day.pass_by(HOUR / 4)
        assert day.lease().state is State.BUSY
        await day.put_back(copy)
        await day.run_until(lambda: day.leases()[0].state is State.RELEASED, within=HOUR, stride=60)
        assert day.leases()[0].reason in (Reason.BOOT_TIMEOUT, Reason.JOB_GONE)
        assert day.leases()[0].tag not in {machine.tag for machine in day.living()}
