"""Where the runner will live: on the machine as it is, or inside the pool's signed image, which is checked and fetched first.

In a container that a provider booted from the image, the agent is inside already: it checks the signatures and says so. On a
machine it pulls the image by its digest, looks what came, and keeps a guarded engine for it. Whatever fails goes into the facts
as a problem: then the service gives no credential, and nothing is started here.
"""

from __future__ import annotations

import platform
import threading
import time
from pathlib import Path
from typing import Any, Callable

from . import image as images
from . import keeper as keepers
from . import privileges, shape
from .contained import Cell, ContainedRunner
from .engine import Engine, Failed
from .facts import ARCHITECTURES
from .gate import LONGEST_PATH
from .image import Image, Unusable
from .keeper import Keeper
from .runner import end_descendants
from .settings import Settings
from .wire import Away, Wire

ASKING = 120.0
"""Seconds for which the service is asked about an image again and again."""


class Lodging:
    """`settle` and `report` in the story's thread; `poll` and `end` in the main one."""

    def __init__(self, settings: Settings, wire: Wire, say: Callable[[str], None]) -> None:
        self._settings, self._wire, self._say = settings, wire, say
        self._given: dict[str, Any] = {}
        self._over = threading.Event()
        self.image: Image | None = None
        self.keeper: Keeper | None = None
        self.runner: ContainedRunner | None = None
        self.report: dict[str, Any] | None = None
        self.problem = ""

    def take(self, joined: dict[str, Any]) -> None:
        """The service's answer to joining. Raises `Unusable`."""
        self._given = shape.table(joined.get("want"))
        self.image = images.read(joined.get("image"))

    def settle(self) -> None:
        """Makes everything ready. Never raises; `problem` says what went wrong, `report` goes into the facts."""
        if self.image is None:
            return
        machine = platform.machine().lower()
        checked = images.check(self.image, ARCHITECTURES.get(machine, machine))
        report = images.report(self.image, checked)
        if not checked.problem:
            if self.image.signed:
                self._say(f"{checked.openssl} says that {self.image.reference} is signed by {', '.join(checked.keys)}")
            try:
                self._move_in(self.image)
            except Failed as error:
                report = {**images.report(self.image, checked, str(error)), "digest": ""}  # it is not here
        self.problem, self.report = str(report["problem"]), report
        if self.problem:
            self._say(f"the image cannot be used: {self.problem}")

    def _move_in(self, image: Image) -> None:
        settings = self._settings
        if settings.kind == "container":
            if image.mode == "guarded":
                raise Failed("a rented container has no engine that could be guarded: this pool's mode needs a machine")
            return
        hook = settings.folder / "hook"
        if len(str(hook / "gate")) > LONGEST_PATH:
            raise Failed(f"the folder {settings.folder} is too deep for a socket")
        user = privileges.account()
        engine, door = self._engine(image, user, hook)
        if settings.kind == "machine":
            problem = keepers.close_metadata()
            if problem:
                self._say(f"the metadata address stays open for containers: {problem}")
        began = time.monotonic()
        self._say(f"pulling {image.reference}")
        engine.pull(image.reference, image.access)
        found = engine.image(image.reference) or {}
        names = {str(name).rpartition("@")[2] for name in shape.items(found.get("RepoDigests"))}
        if found.get("Id") not in image.ids or image.digest not in names:
            raise Failed(f"the engine holds {str(found.get('Id'))[:80]} as {image.reference}: that is another image")
        self._say(f"pulled it in {time.monotonic() - began:.0f} s; the engine holds it as {found.get('Id')}")
        network = "bridge" if engine.find("/networks/bridge") is not None else "none"
        cell = Cell(image.reference, settings.lease[:16], str(hook), door, self._gpus() > 0, network)
        self.runner = ContainedRunner(settings.folder / "runner", user, engine, cell)

    def _engine(self, image: Image, user: privileges.Account | None, hook: Path) -> tuple[Engine, str]:
        """The engine for the runner's container, and the socket that the job may see."""
        if image.mode == "contained":
            there = Engine(keepers.DOOR)
            try:
                there.must("GET", "/_ping", patience=5.0)
                return there, ""
            except Failed:
                pass
        settings, door = self._settings, str(keepers.DOOR) if image.mode == "guarded" else ""
        if settings.kind != "machine" and settings.engine_flags is None:
            raise Failed("no container engine answers here, and on a machine that is not its own the agent starts none")
        if image.mode == "guarded":
            (keepers.stop_others if settings.kind == "machine" else keepers.refuse_others)()
        self.keeper = Keeper(settings.program, settings.folder / "engine", settings.engine_flags or (), self._say)
        self.keeper.start(
            self.answer,
            door=door,
            gid=user.gid if user is not None else 0,
            folders=[str(settings.folder / "runner")],
            read_only=[str(hook)],
            gpus=self._gpus(),
            builds=image.allow_build,
            known=sorted(image.ids),
            reference=image.reference,
        )
        return self.keeper.engine, door

    def _gpus(self) -> int:
        count = self._given.get("gpus")
        return count if isinstance(count, int) and count > 0 else 1 if self._given.get("gpu") else 0

    def answer(self, reference: str) -> dict[str, Any]:
        """What the guard is told about an image that a job named: the service's word, and this machine's own check of it."""
        pool = self.image
        if pool is None:
            return {"allowed": False, "why": "this machine has no pool's image."}
        until = time.monotonic() + ASKING
        while True:
            try:
                told = self._wire.post("/node/image", {"reference": reference}, patience=ASKING)
                break
            except Away as away:
                wait = max(1.0, away.wait)
                if time.monotonic() + wait > until or self._over.wait(wait):
                    return {"away": True, "why": f"the service could not be reached ({away})"}
        if told.status != 200:
            return {"allowed": False, "why": told.message or f"the service refuses to answer ({told.status})."}
        body = told.body
        if body.get("allowed") is not True:
            return {"allowed": False, "why": str(body.get("why", ""))[:1000]}
        try:
            found = images.of(body, pool.mode, pool.signed, False)
        except Unusable as error:
            return {"allowed": False, "why": f"{error}."}
        machine = platform.machine().lower()
        checked = images.check(found, ARCHITECTURES.get(machine, machine))
        if checked.problem:
            return {"allowed": False, "why": f"this machine's own check failed: {checked.problem}."}
        self._say(f"{reference} may run: {found.digest}" + (f", signed by {', '.join(checked.keys)}" if checked.keys else ""))
        access = None if found.access is None else found.access._asdict()
        return {"allowed": True, "ids": sorted(found.ids), "reference": found.reference, "access": access}

    def poll(self) -> str:
        """Why the node must end because of the guard; empty: all is well."""
        code = self.keeper.poll() if self.keeper is not None else None
        return "" if code is None or self._over.is_set() else f"the guard of the container engine has ended ({code})"

    def end(self) -> None:
        """Ends the engine and, if it was killed, whatever of its containers fell to this process."""
        self._over.set()
        if self.keeper is not None:
            self.keeper.end()
            end_descendants()
