"""What the guard decides: for each question of the engine a yes, or a sentence that says no and what to do instead.

A request is read (`guard_request`), found in the table of what is allowed (`guard_table`), and looked at by the check that
its row names. Whatever goes wrong on the way is a no. The agent's own calls are known by a word that no job has seen.
"""

from __future__ import annotations

import base64
import hmac
import json
import threading
from typing import Any, Callable
from urllib.parse import quote

from . import guard_create, guard_fields, guard_mounts, guard_request, guard_table, shape
from .engine import HEADER, Engine, Failed
from .guard_images import Images
from .guard_request import JSON, NOTHING, Refused, Request

CREATED = 201


class Guard:
    """Safe to use from several threads: the engine asks for each call of each client."""

    def __init__(
        self,
        engine: Engine,
        images: Images,
        *,
        word: str,
        folders: list[str],
        read_only: list[str],
        sockets: list[str],
        gpus: int,
        runtimes: list[str],
        builds: bool,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._engine, self._images, self._word, self._builds, self._say = engine, images, word, builds, say
        self.limits = guard_fields.Limits(folders, read_only, sockets, gpus, runtimes, self._is_own, self._is_apart)
        self._own: set[str] = set()
        self._agents: set[str] = set()
        self._lock = threading.Lock()

    def question(self, message: bytes) -> str:
        """`/AuthZPlugin.AuthZReq`: empty if the request may go on, else why not."""
        if self._is_agent(message):
            return ""
        shown = "a call that cannot be read"
        try:
            request = guard_request.read(message)
            shown = request.shown
            self._judge(request)
        except Refused as refused:
            self.refused(f"{shown}: {refused}")
            return f"{refused}"
        except Exception as error:  # the way out of every surprise is a no
            self.refused(f"{shown}: the guard failed: {type(error).__name__}: {error}")
            return f"The guard could not judge this call ({type(error).__name__}), so it is refused."
        return ""

    def answer(self, message: bytes) -> str:
        """`/AuthZPlugin.AuthZRes`: learns which containers are whose. Empty, or why the answer is kept back."""
        try:
            told = shape.table(json.loads(message))
            if told.get("RequestMethod") != "POST" or told.get("ResponseStatusCode") != CREATED:
                return ""
            if guard_request.read(message).path != "/containers/create":
                return ""
            made = shape.table(json.loads(base64.b64decode(str(told.get("ResponseBody") or "")))).get("Id")
        except Exception as error:
            return f"The guard could not read the engine's answer ({type(error).__name__})."
        if not isinstance(made, str) or len(made) != 64:
            return "The guard could not read which container was made."
        with self._lock:
            (self._agents if self._is_agent(message) else self._own).add(made)
        return ""

    def refused(self, text: str) -> None:
        self._say("refused " + text)

    def owner(self, container: str) -> str:
        """Whose container this whole id names: "job", "agent", or "" for one that nobody asked for here."""
        with self._lock:
            return "job" if container in self._own else "agent" if container in self._agents else ""

    def _is_agent(self, message: bytes) -> bool:
        try:
            headers = shape.table(shape.table(json.loads(message)).get("RequestHeaders"))
        except (ValueError, RecursionError):
            return False
        given = str(headers.get(HEADER, ""))
        return bool(self._word) and hmac.compare_digest(given.encode("utf-8", "replace"), self._word.encode())

    def _judge(self, request: Request) -> None:
        row = guard_table.find(request, self._builds)
        body: dict[str, Any] = {}
        if row.body == NOTHING:
            guard_request.no_body(request)
        elif row.body == JSON:
            body = guard_request.json_body(request)
        if row.check:
            check: Callable[[str, Request, dict[str, Any]], None] = getattr(self, "_may_" + row.check)
            check(row.name, request, body)

    # --- the checks that rows name

    def _may_pull(self, _name: str, request: Request, _body: dict[str, Any]) -> None:
        self._images.for_pull(request.query.get("fromImage", ""), request.query.get("tag", ""))

    def _may_create(self, _name: str, request: Request, body: dict[str, Any]) -> None:
        self._new_name(request.query.get("name", ""))
        self._images.for_create(guard_create.container(body, self.limits))

    def _may_start(self, name: str, _request: Request, _body: dict[str, Any]) -> None:
        """Once more, on what the engine has made of it: a tag or a link may have moved since the create."""
        found = self._of_job(name)
        if found is None:
            return
        if not self._images.verified(found.get("Image")):
            raise Refused("This container's image is not one that was verified for this lease.")
        host = shape.table(found.get("HostConfig"))
        if host.get("Privileged") is not False:
            raise Refused("This container is privileged.")
        for one in shape.items(host.get("Binds")):
            guard_mounts.bind(one, self.limits)
        for one in shape.items(host.get("Mounts")):
            guard_mounts.mount(one, self.limits)

    def _may_own(self, name: str, _request: Request, _body: dict[str, Any]) -> None:
        self._of_job(name)

    def _may_rename(self, name: str, request: Request, _body: dict[str, Any]) -> None:
        self._new_name(request.query.get("name", ""))
        self._of_job(name)

    def _may_exec(self, name: str, _request: Request, body: dict[str, Any]) -> None:
        guard_create.execution(body, self.limits)
        self._of_job(name)

    def _may_of_own(self, name: str, _request: Request, body: dict[str, Any]) -> None:
        found = self._find(f"/exec/{quote(name, safe='')}/json")
        if found is not None and self.owner(str(found.get("ContainerID"))) != "job":
            raise Refused("This exec is not in one of this job's containers.")
        guard_create.execution(body, self.limits)

    def _may_network(self, _name: str, _request: Request, body: dict[str, Any]) -> None:
        guard_create.network(body, self.limits)

    def _may_connect(self, name: str, _request: Request, body: dict[str, Any]) -> None:
        if not self._is_apart(name):
            raise Refused("Only networks of the driver 'bridge' take a job's containers.")
        guard_create.connect(body, self.limits)

    def _may_disconnect(self, _name: str, _request: Request, body: dict[str, Any]) -> None:
        guard_create.connect(body, self.limits)

    def _may_volume(self, _name: str, _request: Request, body: dict[str, Any]) -> None:
        guard_mounts.volume(body, self.limits)

    def _may_build(self, _name: str, request: Request, _body: dict[str, Any]) -> None:
        if request.query.get("networkmode", "") not in ("", "default", "bridge", "none"):
            raise Refused("A build's network is 'default' or 'none'.")

    # --- what the engine knows

    def _of_job(self, name: str) -> dict[str, Any] | None:
        """The container, if it is one of this job's; None if there is none: then the engine says so. Raises `Refused`."""
        self._not_agents(name)
        found = self._find(f"/containers/{quote(name, safe='')}/json")
        if found is not None and self.owner(str(found.get("Id"))) != "job":
            raise Refused(f"{name[:80]!r} is not a container of this job.")
        return found

    def _new_name(self, name: str) -> None:
        plain = name[1:] if name.startswith("/") else name
        if plain and not guard_fields.NAME.fullmatch(plain):
            raise Refused("A container's name has letters, digits, '_', '.' and '-'.")
        self._not_agents(plain)

    def _not_agents(self, name: str) -> None:
        """A name like the beginning of the agent's container's id would mean that one, as soon as no other has it."""
        with self._lock:
            if name and any(one.startswith(name) for one in self._agents):
                raise Refused(f"{name[:80]!r} is not a container of this job.")

    def _is_own(self, name: str) -> bool:
        return bool(guard_fields.NAME.fullmatch(name)) and self._of_job(name) is not None

    def _is_apart(self, name: str) -> bool:
        found = self._find(f"/networks/{quote(name, safe='')}")
        return found is not None and found.get("Driver") == "bridge" and found.get("Scope") == "local"

    def _find(self, path: str) -> dict[str, Any] | None:
        try:
            return self._engine.find(path)
        except Failed as error:
            raise Refused(f"The engine could not be asked: {error}") from None
