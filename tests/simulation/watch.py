"""What must hold at every moment: checked at each commit by the database itself, and at each call to a provider."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from app.core.states import State
from app.engine import reaper
from providers.contract import Order, Phase
from tests.simulation.sky import Proof
from tests.simulation.tenant import Tenant

if TYPE_CHECKING:
    from app.core.model import Lease
    from tests.simulation.server import Server
    from tests.simulation.world import World

RANK = "CASE {} " + " ".join(f"WHEN '{state}' THEN {place}" for place, state in enumerate(State)) + " END"
JOB_RANK = "CASE {} WHEN 'waiting' THEN 0 WHEN 'queued' THEN 1 WHEN 'in_progress' THEN 2 WHEN 'completed' THEN 3 END"
TRIGGERS = f"""
CREATE TABLE sim_broken (text TEXT);
CREATE TABLE sim_pool (name TEXT PRIMARY KEY, ceiling INTEGER);
CREATE TRIGGER sim_lease_back AFTER UPDATE OF state ON lease WHEN {RANK.format("NEW.state")} < {RANK.format("OLD.state")}
BEGIN INSERT INTO sim_broken VALUES ('a lease went back: ' || NEW.name || ' ' || OLD.state || ' to ' || NEW.state); END;
CREATE TABLE sim_turn (job TEXT PRIMARY KEY, turns INTEGER, unseen INTEGER);
CREATE TRIGGER sim_job_back AFTER UPDATE OF state ON job WHEN {JOB_RANK.format("NEW.state")} < {JOB_RANK.format("OLD.state")}
BEGIN INSERT INTO sim_broken SELECT 'a job went back: ' || NEW.id || ' ' || OLD.state || ' to ' || NEW.state
  WHERE NOT EXISTS (SELECT 1 FROM sim_turn WHERE job = NEW.id AND unseen > 0);
UPDATE sim_turn SET unseen = unseen - 1 WHERE job = NEW.id AND unseen > 0; END;
CREATE TRIGGER sim_ceiling AFTER INSERT ON lease WHEN (SELECT count(*) FROM lease WHERE pool = NEW.pool AND state <> 'released')
  > coalesce((SELECT ceiling FROM sim_pool WHERE name = NEW.pool), 0)
BEGIN INSERT INTO sim_broken VALUES ('a ceiling was exceeded: ' || NEW.pool); END;
CREATE TRIGGER sim_coming AFTER INSERT ON lease WHEN (SELECT count(*) FROM lease WHERE pool = NEW.pool AND forge = NEW.forge
  AND scope = NEW.scope AND state IN ('planned', 'launching', 'booting', 'proving', 'registering', 'idle') AND job_id = ''
  AND drain_asked_at IS NULL AND destroy_asked_at IS NULL AND runner_exited_at IS NULL)
  > (SELECT count(*) FROM job WHERE pool = NEW.pool AND forge = NEW.forge AND scope = NEW.scope AND state = 'queued')
BEGIN INSERT INTO sim_broken VALUES ('more leases are coming than jobs wait: ' || NEW.name); END;
CREATE TRIGGER sim_two_jobs AFTER UPDATE OF job_id ON lease WHEN OLD.job_id <> '' AND NEW.job_id <> OLD.job_id
BEGIN INSERT INTO sim_broken VALUES ('a lease changed its job: ' || NEW.name); END;
CREATE TRIGGER sim_job_twice AFTER UPDATE OF job_id ON lease WHEN NEW.job_id <> '' AND NEW.job_id <> OLD.job_id
  AND (SELECT count(*) FROM lease WHERE job_id = NEW.job_id)
    > 1 + coalesce((SELECT turns FROM sim_turn WHERE job = NEW.job_id), 0)
BEGIN INSERT INTO sim_broken VALUES ('a job has two leases: ' || NEW.job_id); END;
CREATE TRIGGER sim_pinned_none AFTER INSERT ON lease WHEN (NEW.for_job <> '') <> (NEW.forge = 'forgejo')
BEGIN INSERT INTO sim_broken VALUES ('a lease is pinned that must not be, or the other way round: ' || NEW.name); END;
CREATE TRIGGER sim_pinned_twice AFTER INSERT ON lease WHEN NEW.for_job <> '' AND (SELECT count(*) FROM lease WHERE
  for_job = NEW.for_job AND state IN ('planned', 'launching', 'booting', 'proving', 'registering', 'idle') AND job_id = ''
  AND drain_asked_at IS NULL AND destroy_asked_at IS NULL AND runner_exited_at IS NULL) > 1
BEGIN INSERT INTO sim_broken VALUES ('two leases are coming for one pinned job: ' || NEW.name); END;
CREATE TRIGGER sim_pinned_other AFTER UPDATE OF job_id ON lease WHEN NEW.for_job <> '' AND NEW.job_id NOT IN ('', NEW.for_job)
BEGIN INSERT INTO sim_broken VALUES ('a pinned lease has another job: ' || NEW.name || ' ' || NEW.job_id); END;
CREATE TRIGGER sim_other_instance AFTER UPDATE OF instance_id ON lease WHEN OLD.instance_id <> ''
  AND NEW.instance_id <> OLD.instance_id
BEGIN INSERT INTO sim_broken VALUES ('a lease changed its instance: ' || NEW.name); END;
CREATE TRIGGER sim_after_end AFTER UPDATE ON lease WHEN OLD.state = 'released' AND (NEW.gone_at IS NOT OLD.gone_at
  OR NEW.instance_id <> OLD.instance_id OR NEW.asked_at IS NOT OLD.asked_at)
BEGIN INSERT INTO sim_broken VALUES ('a released lease changed: ' || NEW.name); END;
CREATE TRIGGER sim_book_twice AFTER UPDATE OF booked_at ON lease WHEN OLD.booked_at IS NOT NULL
  AND NEW.booked_at IS NOT OLD.booked_at
BEGIN INSERT INTO sim_broken VALUES ('books were closed twice: ' || NEW.name); END;
"""

JUSTIFIED = frozenset({"operator", "job_timeout", "join_reused", "job_refused", "shutdown", "job_done"})
"""Reasons that end a busy runner's machine; `job_done` only where the node itself said so, which is its own loss."""


class Watch:
    """Holds a connection of its own, so that it sees what others would see: committed rows only."""

    def __init__(self, world: World, database: Path) -> None:
        self.world = world
        self.rows = sqlite3.connect(database, isolation_level=None)
        self.proofs: dict[str, list[Proof]] = {}  # instance -> every time that a service was told of its end
        self.creates: list[tuple[float, str, str]] = []  # when, provider, tag
        self.destroys: set[str] = set()
        self.claims: dict[str, str] = {}  # lease -> the claim that was given out last
        self.hidden: dict[str, str] = {}  # provider -> the instance that its last list left out
        self.listed: dict[str, dict[str, datetime]] = {}  # place -> instance -> since when every sweep saw it
        self.sure: set[str] = (
            set()
        )  # instances that a create answered with, or that two lists had, as far apart as a sweep asks
        self.allowed: set[str] = set()  # jobs that our own check at their start let in
        self.ran: dict[str, list[str]] = {}  # job -> leases of the machines that ran it

    def close(self) -> None:
        self.rows.close()

    def one(self, query: str, *values: Any) -> Any:
        """The first row, or None."""
        return self.rows.execute(query, values).fetchone()

    def all(self, query: str, *values: Any) -> list[Any]:
        return self.rows.execute(query, values).fetchall()

    def creating(self, server: Server, provider: str, order: Order) -> None:
        """The request is about to reach the vendor: its intent must be there already, in the open."""
        world = self.world
        world.trace(f"{server.name} create {provider} {order.tag}")
        self.creates.append((world.loop.now, provider, order.tag))
        found = self.one("SELECT state, asked_at, provider, create_key FROM lease WHERE tag = ?", order.tag)
        if found is None or found[1] is None or found[2] != provider or found[3] != order.key:
            world.broken("an instance without its intent", f"{order.tag}: {found}")

    def destroying(self, server: Server, provider: str, instance_id: str) -> None:
        """A busy runner's machine goes only for a reason that two can see."""
        world = self.world
        self.destroys.add(instance_id)
        tenant = world.tenants.get(instance_id)
        world.trace(f"{server.name} destroy {provider} {instance_id}")
        if tenant is None or tenant.machine.phase(world.clock.now()) is not Phase.RUNNING:
            return
        asked = "SELECT reason, hard_end, runner_exited_at, instance_id FROM lease WHERE tag = ?"  # a second one's, too
        reason, hard_end, exited_at, own = self.one(asked, tenant.machine.tag) or ("", None, None, "")
        if reason == "instance_lost" and instance_id == own and not self.proofs.get(instance_id):
            world.broken("an instance was given up that was there", tenant.machine.tag)
        if not tenant.working or tenant.work is None or tenant.side is None or tenant.side.busy_on(tenant.runner_name) is None:
            return
        late = hard_end is not None and _time(hard_end) <= world.clock.now()
        if not late and (reason not in JUSTIFIED or (reason == "job_done" and exited_at is None)):
            told = f"{tenant.machine.tag} {reason or 'without a reason'}, job {tenant.work.key}"
            world.broken("a busy machine was destroyed", told)

    def may_turn(self, forge: str, key: str, by: int) -> None:
        """A job is run again, and may keep its key: once more it may go back, and have a lease."""
        asked = "INSERT INTO sim_turn VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET turns = turns + ?, unseen = unseen + ?"
        self.rows.execute(asked, (f"{forge}-{key}", by, by, by, by))

    def started(self, tenant: Tenant, job: str) -> None:
        """A job begins on one of our machines."""
        side = tenant.side
        assert side is not None
        self.world.trace(f"job {job} starts on {tenant.machine.tag}")
        on = self.ran.setdefault(self.world.attempt(side.name, job), [])
        on.append(tenant.lease_id)
        if len(set(on)) > 1:
            self.world.broken("a job ran on two leases", job)
        own = self.one("SELECT for_job FROM lease WHERE id = ?", tenant.lease_id)
        if own is not None and own[0] not in ("", f"{side.name}-{job}"):
            self.world.broken("a job ran on a lease that was pinned to another", f"{job} on that of {own[0]}")

    def after(self, server: Server, name: str, args: tuple[Any, ...], result: object) -> None:
        """A call of the service has just ended."""
        if name == "sight":
            self._sighted(args[1], args[2])
        if name == "claim":
            self.claims |= {one.id: one.claim for one in cast("list[Lease]", result)}
        if name in ("keep", "rest", "move") and result and (held := cast("Lease", args[1])).claim != self.claims.get(held.id):
            self.world.broken("a lease was written to under an old claim", f"{server.name} {held.name} {name}")
        if name == "move" and result is not None and len(args) > 2:
            held, to = args[1], args[2]
            self.world.trace(f"{server.name} {held.name} {to}")
            if to is State.RELEASED:
                self._released(held.id)

    def _released(self, lease_id: str) -> None:
        tag, instance_id = self.one("SELECT tag, instance_id FROM lease WHERE id = ?", lease_id)
        now = self.world.clock.now()
        for cloud in self.world.clouds.values():
            machine = cloud.machines.get(instance_id)
            if machine is not None and machine.phase(now) is not None:
                self.world.broken("released before its instance was gone", tag)
            there = [
                one for one in cloud.machines.values() if one.tag == tag and one.phase(now) not in (None, Phase.DESTROYING)
            ]
            if not instance_id and any(now - one.created_at > timedelta(seconds=1) for one in there):
                self.world.broken("released while an instance of its tag was there", tag)

    def _sighted(self, place: str, instance_ids: set[str]) -> None:
        """A sweep was shown these, and they are no lease's own."""
        now, before = self.world.clock.now(), self.listed.get(place, {})
        self.listed[place] = {each: before.get(each, now) for each in instance_ids}
        self.sure |= {each for each, first in self.listed[place].items() if now - first >= reaper.APART}

    def sweep(self) -> None:
        """What the database's own triggers found."""
        for (text,) in self.all("SELECT text FROM sim_broken"):
            self.world.broken(str(text).partition(":")[0], str(text))
        if self.world.broken_count:
            self.rows.execute("DELETE FROM sim_broken")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text + "+00:00")
