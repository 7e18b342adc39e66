#!/usr/bin/env python3
"""A portal of our own machines, as a program for Sublet's provider `command`. Python 3.11 or newer, standard library only.

Everything lies in one folder (`settings.folder` of the question):

    rack.json            what there is: {"token": "...", "machines": {"gpu-1": {"type": "h100", "price_per_hour": "1.90", ...}}}
    bookings/gpu-1.json  who has that machine
    seeds/gpu-1/         user-data and meta-data, which the machine's cloud-init gets over the network (NoCloud)
    state/gpu-1          written by our monitoring: one word, "starting", "on", "off" or "broken"; without it the machine is on
    power                a program of ours, called as `power on gpu-1` and `power off gpu-1`; without it nothing is switched
"""

import fcntl
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Table = dict[str, Any]
PHASES = {"starting": "starting", "on": "running", "off": "stopped", "broken": "failed"}


class No(Exception):
    """An error of the protocol: its kind, a sentence, and what else belongs to it."""

    def __init__(self, kind: str, message: str, **more: object) -> None:
        super().__init__(message)
        self.answer: Table = {"kind": kind, "message": message, **more}


class Portal:
    def __init__(self, question: Table) -> None:
        self.folder = Path(question["settings"]["folder"])
        self.quota = int(question["settings"].get("quota", 100))
        for name in ("bookings", "seeds", "state"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.lock = (self.folder / "lock").open("w")  # held until the program ends: two calls at once book one after the other
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        rack = self.read(self.folder / "rack.json")
        if question["secrets"].get("token") != rack["token"]:
            raise No("refused", "the token is not the portal's", why="credentials")
        self.machines: dict[str, Table] = rack["machines"]

    def read(self, path: Path) -> Table:
        return json.loads(path.read_text("utf-8"))

    def write(self, path: Path, text: str) -> None:
        """Whole or not at all, and on disk when it is there."""
        path.parent.mkdir(exist_ok=True)
        draft = path.with_suffix(".new")
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)

    def bookings(self) -> list[Table]:
        return [self.read(path) for path in sorted((self.folder / "bookings").glob("*.json"))]

    def power(self, word: str, machine: str) -> None:
        switch = self.folder / "power"
        if switch.exists():
            done = subprocess.run([switch, word, machine], stdout=sys.stderr, timeout=20, check=False)  # noqa: S603  our own
            if done.returncode != 0:
                raise No("unclear", f"the machine {machine} cannot be switched {word}")
        (self.folder / "state" / machine).unlink(missing_ok=True)

    def instance(self, booking: Table) -> Table:
        state = self.folder / "state" / booking["machine"]
        word = state.read_text("utf-8").strip() if state.exists() else "on"
        told = {key: booking[key] for key in ("id", "tag", "owner", "key", "created_at")}
        return {**told, "phase": PHASES.get(word, "unknown"), "region": "rack", "detail": f"{word} ({booking['machine']})"}

    # --- the verbs

    def check(self, question: Table) -> Table:
        free = len(self.machines) - len(self.bookings())
        return {"health": {"ok": True, "summary": f"{free} of {len(self.machines)} machines are free"}}

    def offers(self, question: Table) -> Table:
        taken = {booking["machine"] for booking in self.bookings()}
        offers: dict[str, Table] = {}
        for name, machine in sorted(self.machines.items()):
            offer = offers.setdefault(machine["type"], {"id": machine["type"], "region": "rack", "availability": "none"})
            offer.update({key: value for key, value in machine.items() if key != "type"}, type=machine["type"])
            if name not in taken:
                offer["availability"] = "available"
        return {"offers": list(offers.values())}

    def create(self, question: Table) -> Table:
        """The same key again gives the same machine: the booking is on disk before anything is switched on."""
        order, bookings = question["order"], self.bookings()
        mine = [booking for booking in bookings if booking["tag"] == order["tag"]]
        if mine:
            booking = mine[0]
            if booking["owner"] != order["owner"]:
                raise No("refused", f"the name {order['tag']} is taken", why="request")
            if booking["key"] != order["key"]:
                raise No("unclear", f"{order['tag']} is booked by another attempt")
        else:
            if sum(booking["owner"] == order["owner"] for booking in bookings) >= self.quota:
                raise No("refused", f"nobody books more than {self.quota} machines", why="quota")
            taken = {booking["machine"] for booking in bookings}
            fits = [name for name, machine in sorted(self.machines.items()) if machine["type"] == order["offer"]]
            free = [name for name in fits if name not in taken]
            if not free:
                raise No("no_capacity", f"every {order['offer']} is booked", reach="offer")
            now = datetime.now(UTC).isoformat()  # noqa: TID251  the portal's own clock
            booking: Table = {key: order[key] for key in ("tag", "owner", "key", "ends_at")}
            booking.update(id=f"b-{os.urandom(6).hex()}", machine=free[0], created_at=now)
            seed = self.folder / "seeds" / free[0]
            self.write(seed / "user-data", order["user_data"])
            self.write(seed / "meta-data", f"instance-id: {booking['id']}\nlocal-hostname: {order['tag']}\n")
            self.write(self.folder / "bookings" / f"{free[0]}.json", json.dumps(booking))
        if not mine or self.instance(booking)["phase"] in ("stopped", "failed"):
            self.power("on", booking["machine"])
        return {"instance": self.instance(booking)}

    def get(self, question: Table) -> Table:
        found = [booking for booking in self.bookings() if booking["id"] == question["id"]]
        return {"instance": self.instance(found[0]) if found else None}

    def owned(self, question: Table) -> Table:
        found = [booking for booking in self.bookings() if booking["owner"] == question["owner"]]
        return {"instances": [self.instance(booking) for booking in found]}

    def destroy(self, question: Table) -> Table:
        """Off first, then free: a machine that cannot be switched off stays booked, and the next destroy tries again."""
        for booking in self.bookings():
            if booking["id"] == question["id"]:
                self.power("off", booking["machine"])
                (self.folder / "bookings" / f"{booking['machine']}.json").unlink()
        return {}


VERBS = ("check", "offers", "create", "get", "owned", "destroy")


def main() -> int:
    os.umask(0o077)  # start-up scripts are nobody else's business
    question: Table = json.load(sys.stdin)
    try:
        if question["protocol"] != 1 or question["verb"] not in VERBS:
            raise No("refused", "this portal speaks protocol 1 only", why="request")
        answer = getattr(Portal(question), question["verb"])(question)
    except No as no:
        answer = {"error": no.answer}
    json.dump({"protocol": 1, **answer}, sys.stdout)
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
