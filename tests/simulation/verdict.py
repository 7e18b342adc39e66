"""What must hold once the world is quiet: leaks, books, jobs, calls, secrets. One function a question."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from app.core.billing import billed, price
from providers.fake_cloud import Machine
from tests.simulation.sides import THEIRS, unheard
from tests.simulation.sky import Proof
from tests.simulation.users import DONE

if TYPE_CHECKING:
    from tests.simulation.world import World

CENT = Decimal("0.01")
MINTS = {"github": "POST generate-jitconfig", "gitea": "POST Register", "forgejo": "POST runners"}
"""What asks for a credential. GitLab's records are made for beacons, too."""


def settled(world: World) -> bool:
    """Nothing is left to be done: no live lease, no machine, no runner, open books closed, and no job without its end."""
    watch = world.watch
    if watch.one("SELECT 1 FROM lease WHERE state <> 'released' LIMIT 1"):
        return False
    if watch.one("SELECT 1 FROM lease WHERE asked_at IS NOT NULL AND booked_at IS NULL LIMIT 1"):
        return False
    if watch.one("SELECT 1 FROM stray WHERE gone_at IS NULL LIMIT 1"):
        return False
    if any(cloud.living() for cloud in world.clouds.values()) or any(side.registered() for side in world.sides.values()):
        return False
    return not unserved(world)


def unserved(world: World) -> list[str]:
    """Jobs that wait, though they are ours and nothing says why not."""
    rows = {row[0]: row[1:] for row in world.watch.all("SELECT id, state, not_ours FROM job")}
    found: list[str] = []
    for side in world.sides.values():
        for key, state in side.all_jobs().items():
            name = f"{side.name}-{key}"
            known = rows.get(name)
            if state in DONE:
                if known is not None and known[0] != "completed" and not known[1]:
                    found.append(f"{name} ended ({state}), and is {known[0]} here")
            elif name in world.users.foreign:
                if known is not None and not known[1] and state != "waiting":
                    found.append(f"{name} is not ours, and nobody says so")
            elif known is None:
                found.append(f"{name} is {state}, and unknown here")
            elif not known[1]:
                found.append(f"{name} is {state}")
    return found


def judge(world: World, quiet: bool) -> None:
    """Every invariant; what does not hold is written to `world.violations`."""
    if not quiet:
        world.broken("not settled", "; ".join(unserved(world)) or "leases, machines or runners are left")
    ownerless(world)
    doubles(world)
    books(world)
    endings(world)
    history(world)
    calls(world)
    if quiet:
        replay(world)
    canaries(world)
    for error in world.loop.errors:
        world.broken("an error that nobody caught", repr(error.get("exception") or error.get("message"))[:300])
    world.watch.sweep()


def ownerless(world: World) -> None:
    """No machine lives on, and no runner stays registered."""
    for cloud in world.clouds.values():
        for machine in cloud.living():
            world.broken("an instance is left", f"{machine.id} {machine.tag} since {machine.created_at:%H:%M:%S}")
    for side in world.sides.values():
        for name in side.registered():
            world.broken("a runner is left", f"{side.name} {name}")


def doubles(world: World) -> None:
    """One lease has one instance: a second only where the vendor made two of one request, or a request came very late."""
    tags = Counter(machine.tag for cloud in world.clouds.values() for machine in cloud.machines.values())
    second = sum(number - 1 for number in tags.values())
    causes = ("doubled_create", "late_create", "engine_paused", "list_hole")
    told = sum(world.counts[cause] for cause in causes)
    if second > told:
        world.broken("more instances than one of a lease", f"{second} for {told}: {[tag for tag in tags if tags[tag] > 1]}")


def books(world: World) -> None:
    """The ledger is the invoice, to the cent: of each lease, and of all in each currency.

    A bill ends when the provider shows that it ended: by the time it shows with it, or else by the time of its answer."""
    charged: dict[str, Decimal] = defaultdict(Decimal)
    currencies: dict[str, set[str]] = defaultdict(set)
    for lease_id, amount, currency in world.watch.all("SELECT lease_id, amount, currency FROM charge"):
        charged[lease_id] += Decimal(amount)
        currencies[lease_id].add(currency)
    ends = {
        row[0]: _time(row[1]) for row in world.watch.all("SELECT instance_id, gone_at FROM lease WHERE gone_at IS NOT NULL")
    }
    ends |= {
        row[0]: _time(row[1]) for row in world.watch.all("SELECT instance_id, gone_at FROM stray WHERE gone_at IS NOT NULL")
    }
    owners = {row[0]: row[1] for row in world.watch.all("SELECT tag, id FROM lease")}
    owed: dict[str, Decimal] = defaultdict(Decimal)
    for name, cloud in world.clouds.items():
        vendor = next(one for one in world.conditions.vendors if one.name == name)
        for machine in cloud.machines.values():
            lease_id = owners.get(machine.tag)
            if lease_id is None:
                world.broken("an instance without a lease in the books", machine.tag)
                continue
            if machine.id not in ends and machine.id not in world.watch.sure and machine.why != "destroyed":
                continue  # it went by itself before two lists agreed on it
            end = _end(world, machine, ends.get(machine.id))
            if end is None:
                continue
            used = billed(end - machine.created_at, vendor.granularity, vendor.minimum)
            owed[lease_id] += price(used, machine.price_per_hour)
            if currencies[lease_id] - {vendor.currency}:
                world.broken("booked in another currency", machine.tag)
    tags = {row[0]: row[1] for row in world.watch.all("SELECT id, tag FROM lease")}
    for lease_id in sorted(set(owed) | set(charged)):
        if abs(owed[lease_id] - charged[lease_id]) >= CENT / 2:
            world.broken("the books are not the invoice", f"{tags[lease_id]}: {charged[lease_id]:.6f} for {owed[lease_id]:.6f}")


def _end(world: World, machine: Machine, booked: datetime | None) -> datetime | None:
    """When its bill ended, as far as any service was told."""
    proofs = world.watch.proofs.get(machine.id, [])
    if booked is None:
        world.broken("an instance whose end nobody wrote down", f"{machine.id} {machine.tag}")
        return None
    if not any(_fits(proof, booked) for proof in proofs):
        world.broken(
            "an end without a proof", f"{machine.tag} at {booked:%H:%M:%S.%f}, told {[one.at.time() for one in proofs]}"
        )
    if machine.gone_at is not None and booked < machine.gone_at - _doubt(world):
        world.broken("booked to an end before the end", machine.tag)
    return booked


def _doubt(world: World) -> timedelta:
    """By how much an end may be dated too early: a host's clock may run wrong, and a vendor not know a young machine yet."""
    window = max(vendor.window for vendor in world.conditions.vendors)
    return window if world.counts["blind_get"] else timedelta(seconds=5 if world.conditions.skew else 0.01)


def _fits(proof: Proof, booked: datetime) -> bool:
    return booked in (proof.at, proof.ended_at) or abs(booked - proof.at) < timedelta(seconds=1)


def endings(world: World) -> None:
    """Every job that is ours was run by us, taken by a stranger, cancelled; or its failure has a cause that is not ours."""
    for side in world.sides.values():
        for key, state in side.all_jobs().items():
            name = f"{side.name}-{key}"
            if name in world.users.foreign and name in world.watch.allowed:
                world.broken("a job that must not run here ran", name)
            attempt = world.attempt(side.name, key)
            taken = attempt in world.users.stolen or side.ran_on(key).startswith(THEIRS)
            if state != "failure" or attempt in world.users.cancelled or name in world.users.foreign or taken:
                continue
            if not world.watch.ran.get(attempt):
                world.broken("a job failed, and no machine of ours had it", f"{name} {side.note(key)}")
                continue


def history(world: World) -> None:
    """States only ever went on, each with its span; each create, move and destroy has its audit row."""
    seen: dict[str, list[str]] = defaultdict(list)
    for lease_id, state in world.watch.all("SELECT lease_id, state FROM span ORDER BY rowid"):
        seen[lease_id].append(state)
    audits: dict[str, list[str]] = defaultdict(list)
    for action, thing in world.watch.all("SELECT action, object FROM audit"):
        audits[thing].append(action)
    for lease_id, states in seen.items():
        told = audits[f"lease:{lease_id}"]
        for state in states:
            if told.count(f"lease.{state}") != 1:
                world.broken("a change without its audit row", f"{lease_id} {state}: {told.count(f'lease.{state}')}")
    owners = dict(world.watch.all("SELECT instance_id, id FROM lease"))
    for instance_id in sorted(world.watch.destroys):
        lease_id = owners.get(instance_id)
        orphan = "instance.orphan" in audits[f"instance:{instance_id}"]
        if not orphan and (lease_id is None or "lease.destroying" not in audits[f"lease:{lease_id}"]):
            world.broken("a destroy without its audit row", instance_id)
    known = {row[0] for row in world.watch.all("SELECT tag FROM lease")}
    for _, _, tag in world.watch.creates:
        if tag not in known:
            world.broken("a create without a lease", tag)


def calls(world: World) -> None:
    """No more questions than the work needs: one credential a runner, one look a run; what faults made necessary is extra."""
    count = world.traffic.calls
    faults = sum(number for kind, number in count.items() if kind.startswith("spoiled "))
    faults += sum(world.counts[kind] for kind in ("webhook_lost", "webhook_refused", "webhook_late"))
    disturbed = world.counts["crash"] + world.counts["engine_paused"] + world.counts["service_away"]
    for side in world.sides.values():
        own = "SELECT coalesce(sum(mint_try), 0), count(*) FROM lease WHERE runner_name <> '' AND forge = ?"
        tries, runners = world.watch.one(own, side.name)
        asked = count[f"{side.name} {MINTS[side.name]}"] if side.name in MINTS else 0
        if asked > tries:
            world.broken("more credentials than tries", f"{side.name}: {asked} for {tries}")
        if tries > runners + faults + disturbed:
            world.broken("more tries than runners and faults", f"{side.name}: {tries} for {runners} and {faults}")
        looks = sum(count[f"{side.name} {kind}"] for kind in ("GET runs/N", "GET pipelines/N"))
        if looks > side.looks() + 2 * (faults + disturbed):
            world.broken("a run was asked for more than once", f"{side.name}: {looks} for {side.looks()} and {faults}")


def replay(world: World) -> None:
    """Every webhook of the seed once more, shuffled and under new ids: nothing follows."""
    from tests.simulation.users import renamed

    known = {row[0] for row in world.watch.all("SELECT id FROM job")}

    def state() -> list[object]:
        watch = world.watch
        # How one goes on that is not ours is asked only where a delivery casts doubt on it: then it may turn out to have ended.
        told = "CASE WHEN pool IS NULL THEN '' ELSE state || ' ' || conclusion END"
        jobs = watch.all(f"SELECT id, {told}, pool, lease_id, attempt, labels FROM job ORDER BY id")
        jobs = [row for row in jobs if row[0] in known]  # a poll may find one that nobody had told of
        return [*jobs, *watch.all("SELECT id, state, reason FROM lease ORDER BY id"), f"{len(watch.creates)} creates"]

    world.loop.run(lambda: False, world.loop.now + 5)  # what the forge has just said is on its way
    before = state()
    parcels = [renamed(one, world.dice) for one in world.users.accepted]
    world.dice.shuffle(parcels)
    posted = len(world.parcels)
    for parcel in parcels:
        world.users.post(dataclasses.replace(parcel, receipt=unheard))
    world.loop.run(lambda: False, world.loop.now + 2 * world.conditions.beat + 120)
    after = state()
    if len(world.parcels) == posted and before != after:
        changed = [f"{old} -> {new}" for old, new in zip(before, after, strict=False) if old != new]
        world.broken("a replay changed something", "; ".join(changed)[:600])


def canaries(world: World) -> None:
    """No secret lies in the database's files in the clear, nor in a log line."""
    world.database.close()
    kept = b"".join(path.read_bytes() for path in sorted(world.database_path.parent.glob(world.database_path.name + "*")))
    kept += "\n".join(world.heard).encode()
    secrets = {*world.canaries, *(one for side in world.sides.values() for one in side.secrets())}
    for secret in sorted(secrets):
        if secret.encode() in kept:
            world.broken("a secret in the clear", f"{secret[:4]}…")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text + "+00:00")
