"""Which images a job's containers may be made of: those whose digest the service has verified for this lease, and no others.

A name proves nothing, because a tag moves: what counts is the id under which the engine holds the image, which is its config's,
its manifest's or its index's digest. The service is asked for names that it was not asked for yet, and its answer is kept for a
minute: an image that is revoked meanwhile gives no more containers.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Any, Callable, Iterable, NamedTuple

from . import shape
from .engine import Engine, Failed
from .guard_request import Refused
from .image import Access

ID = re.compile(r"sha256:[0-9a-f]{64}")
HEX = re.compile(r"[0-9a-f]{12,64}")
PATH = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
HOST = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
YES_KEPT, NO_KEPT = 60.0, 20.0
"""Seconds for which an answer is not asked for again."""
MOST = 200
"""Names that are asked for; the service itself takes fewer."""


class Verdict(NamedTuple):
    """The service's answer for one name."""

    allowed: bool
    why: str
    ids: frozenset[str] = frozenset()
    reference: str = ""  # by digest
    access: Access | None = None


def canonical(name: str) -> str:
    """The whole name, as the engine completes it: registry, `library/` for Docker Hub's own, `latest`. Raises `Refused`."""
    rest, at, digest = name.partition("@")
    if at and not ID.fullmatch(digest):
        raise Refused(f"{name[:200]!r} is not an image's name.")
    host, slash, path = rest.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost" or host != host.lower()):
        host, path = "docker.io", rest
    if host == "index.docker.io":
        host = "docker.io"
    folder, colon, tag = path.rpartition(":")
    path, tag = (folder, tag) if colon else (path, "")
    if not HOST.fullmatch(host) or not PATH.fullmatch(path) or (colon and not TAG.fullmatch(tag)) or len(name) > 500:
        raise Refused(f"{name[:200]!r} is not an image's name.")
    if host == "docker.io" and "/" not in path:
        path = "library/" + path
    return f"{host}/{path}@{digest}" if at else f"{host}/{path}:{tag or 'latest'}"


class Images:
    def __init__(
        self,
        engine: Engine,
        ask: Callable[[str], Verdict],
        known: Iterable[str],
        reference: str,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`known`: ids of the pool's own image, which is verified already; `reference`: its name by digest."""
        self._engine, self._ask, self._now = engine, ask, now
        first = Verdict(True, "", frozenset(known), reference)
        self._names = dict.fromkeys(first.ids, reference)  # id -> the name that was asked for
        self._answers = {reference: (now(), first)}
        self._lock = threading.Lock()

    def verified(self, image_id: object) -> bool:
        """Whether the engine's id is of a verified image. Raises `Refused` if it was, and is no longer."""
        name = self._names.get(image_id) if isinstance(image_id, str) else None
        return name is not None and image_id in self._allowed(name).ids

    def for_pull(self, name: str, tag: str) -> None:
        """`docker pull`. Raises `Refused`."""
        if not name:
            raise Refused("It names no image.")
        if ID.fullmatch(tag):
            name = name.partition("@")[0] + "@" + tag
        elif tag:
            folder, colon, old = name.partition("@")[0].rpartition(":")
            name = (folder if colon and "/" not in old else name.partition("@")[0]) + ":" + tag
        elif "@" not in name and ":" not in name.rpartition("/")[2]:
            raise Refused(f"Without a tag or a digest that would pull every image of {name[:200]}: name one.")
        self._allowed(canonical(name))

    def for_create(self, name: str) -> None:
        """`docker create`, `docker run`. Raises `Refused`."""
        found = self._look(name)
        if found is not None and self.verified(found.get("Id")):
            return
        if name.startswith("sha256:") or HEX.fullmatch(name):
            raise Refused(
                f"The image {name[:24]} is not one that was verified for this lease. Name it as registry/repository:tag, "
                "so that its signature can be looked for."
            )
        answer = self._allowed(canonical(name))
        if found is None:
            if answer.access is None:
                return  # the engine itself says that it is not there, and the client pulls it
            self._fetch(answer, name)
            found = self._look(name)
        if found is None or not self.verified(found.get("Id")):
            raise Refused(
                f"The image that this engine holds as {name[:200]} is not the one that was verified"
                f" ({answer.reference[-71:]}): its tag was moved, or it was never signed. Pull it by that digest."
            )

    def _allowed(self, name: str) -> Verdict:
        """The service's yes. Raises `Refused` with its sentence."""
        with self._lock:
            at, answer = self._answers.get(name, (0.0, None))
            if answer is None or self._now() - at > (YES_KEPT if answer.allowed else NO_KEPT):
                if len(self._answers) >= MOST and answer is None:
                    raise Refused(f"This job has asked for {MOST} images; no more are looked at.")
                answer = self._ask(name)
                self._answers[name] = (self._now(), answer)
                self._names.update(dict.fromkeys(answer.ids, name))
        if not answer.allowed:
            raise Refused(f"The image {name[:200]} may not run here: {answer.why}")
        return answer

    def _look(self, name: str) -> dict[str, Any] | None:
        try:
            return self._engine.image(name)
        except Failed as error:
            if error.status == 400:
                raise Refused(f"{name[:200]!r} is not an image's name.") from None
            raise Refused(f"The image {name[:200]} could not be looked at: {error}") from None

    def _fetch(self, answer: Verdict, name: str) -> None:
        """From a registry that wants a login which the job does not have."""
        try:
            self._engine.pull(answer.reference, answer.access)
            if "@" not in name:
                repository, _, tag = canonical(name).rpartition(":")
                self._engine.must("POST", f"/images/{answer.reference}/tag", repo=repository, tag=tag)
        except Failed as error:
            raise Refused(str(error)) from None


def verdict(told: dict[str, Any]) -> Verdict:
    """What the agent passed on of the service's answer. Nothing but a plain yes is a yes."""
    ids = frozenset(str(one) for one in shape.items(told.get("ids")) if ID.fullmatch(str(one)))
    access = shape.table(told.get("access"))
    login = Access(str(access.get("username", "")), str(access.get("password", ""))) if access.get("password") else None
    why = str(told.get("why") or "the service gave no reason")[:1000]
    return Verdict(told.get("allowed") is True and bool(ids), why, ids, str(told.get("reference", "")), login)
