"""Machines from a program of your own: one process per call, a question as JSON on stdin, an answer as JSON on stdout.

For in-house portals and for clouds without a wrapper. The protocol is in docs/how-to/providers/command.md, with a
program that is proven by the conformance suite as it stands there.
"""

import asyncio
import logging
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from providers.clock import SYSTEM, Clock
from providers.command_answers import (
    Unreadable,
    error_of,
    health_of,
    instance_of,
    instances_of,
    need_of,
    offers_of,
    order_of,
    question,
    read,
)
from providers.command_calls import CallFailed, call
from providers.contract import (
    BootsFrom,
    Health,
    Instance,
    Need,
    Offer,
    Order,
    Profile,
    ProviderError,
    Refused,
    Secret,
    Traits,
    Unclear,
    guarded,
    vet,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHOWN = 300  # characters of the program's standard error in one of our sentences

PROFILE = Profile(
    pricing="what your program says",
    proven_against="vendor software: the worked example of its documentation, run as a program",
)


@dataclass(frozen=True)
class CommandSettings:
    program: Path  # a full path
    arguments: tuple[str, ...] = ()  # everybody on the machine can see them: no secrets
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])  # handed to the program with each question
    secrets: Mapping[str, Secret] = field(default_factory=dict[str, Secret])  # too, on its standard input
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    pass_environment: tuple[str, ...] = ()  # the service's own environment variables that the program may see
    timeout: timedelta = timedelta(seconds=30)
    create_timeout: timedelta = timedelta(seconds=60)
    answer_limit: int = 4 * 1024 * 1024  # bytes
    at_once: int = 8  # programs
    id_pattern: str = "[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"  # what an instance's id looks like; others never reach the program
    idempotent_create: bool = False  # whether a create with a key that it knows gives the same instance
    unique_names: bool = False  # whether it refuses a second instance of one tag
    knows_at_once: bool = False
    unknown_window: timedelta = timedelta(minutes=2)
    dead_man_switch: bool = False  # whether it ends an instance at its `ends_at` by itself
    own_hardware: bool = False
    currency: str = "USD"
    billing_granularity: timedelta = timedelta(seconds=1)
    billing_minimum: timedelta = timedelta(0)
    spot: bool = False
    spot_notice: timedelta | None = None
    boots_from: BootsFrom = BootsFrom.MACHINE_IMAGE
    user_data_limit: int | None = 65536  # bytes
    tag_limit: int = 63
    offers_every: timedelta = timedelta(seconds=60)
    creates_per_minute: int | None = None

    def __post_init__(self) -> None:
        if not self.program.is_absolute():
            raise ValueError("program is a full path: what the PATH says is not to decide who is paid")
        if min(self.timeout, self.create_timeout) <= timedelta(0) or self.answer_limit < 1024 or self.at_once < 1:
            raise ValueError("timeouts are longer than nothing, answer_limit is at least 1024, at_once at least 1")
        if not 20 <= self.tag_limit <= 63:
            raise ValueError("tag_limit is 20 to 63")
        try:
            re.compile(self.id_pattern)
        except re.error as error:
            raise ValueError(f"id_pattern is no pattern: {error}") from None


class CommandProvider:
    """See the module. An instance's id is what the program calls it."""

    Settings = CommandSettings

    def __init__(self, name: str, settings: CommandSettings, *, clock: Clock = SYSTEM) -> None:
        self.name = name
        self.settings = settings
        self.traits = Traits(
            billing_granularity=settings.billing_granularity,
            billing_minimum=settings.billing_minimum,
            currency=settings.currency,
            spot=settings.spot,
            spot_notice=settings.spot_notice,
            boots_from=settings.boots_from,
            own_hardware=settings.own_hardware,
            idempotent_create=settings.idempotent_create,
            unique_names=settings.unique_names,
            unknown_window=settings.unknown_window,
            knows_at_once=settings.knows_at_once,
            user_data_limit=settings.user_data_limit,
            tag_limit=settings.tag_limit,
            dead_man_switch=settings.dead_man_switch,
            creates_per_minute=settings.creates_per_minute,
            offers_every=settings.offers_every,
            profile=PROFILE,
        )
        self._clock = clock
        self._ids = re.compile(settings.id_pattern)
        self._threads = ThreadPoolExecutor(settings.at_once, thread_name_prefix=f"command-{name}")

    async def offers(self, need: Need) -> Sequence[Offer]:
        """What the program offers; the need is told as a hint."""
        with guarded("command offers"):
            return await self._ask(
                "offers",
                lambda answer: offers_of(answer, self.name, self.settings.currency, self._clock.now()),
                need=need_of(need),
            )

    async def create(self, order: Order) -> Instance:
        """One call that creates. Where the program honours no key, its list is read first, for one tag once at a time."""
        with guarded("command create", maybe_created=True):
            vet(order, self.traits)
            if order.offer.provider != self.name:
                raise Refused(f"the offer {order.offer.id[:80]!r} is not one of {self.name}")
            if self.settings.idempotent_create:
                return await self._create(order)
            async with _alone(f"{self.settings.program} {self.settings.arguments} {order.tag}"):
                there = [one for one in await self._list(order.owner) if one.tag == order.tag]
                return self._same(order, there[0]) if there else await self._create(order)

    async def get(self, instance_id: str) -> Instance | None:
        """None only if the program says `"instance": null`. An id that is none of the program's is not asked about."""
        with guarded("command get"):
            if not self._ids.fullmatch(instance_id):
                return None

            def told(answer: Mapping[str, Any]) -> Instance | None:
                if "instance" not in answer:
                    raise Unreadable("there is no instance, and no null either")
                if answer["instance"] is None:
                    return None
                instance, _ = instance_of(answer["instance"], self._ids)
                if instance.id != instance_id:
                    raise Unreadable("it is another instance than was asked for")
                return instance

            return await self._ask("get", told, id=instance_id)

    async def owned(self, owner: str) -> Sequence[Instance]:
        with guarded("command owned"):
            return await self._list(owner)

    async def destroy(self, instance_id: str) -> None:
        with guarded("command destroy"):
            if self._ids.fullmatch(instance_id):
                await self._ask("destroy", lambda answer: None, id=instance_id)

    async def check(self) -> Health:
        try:
            with guarded("command check"):
                return await self._ask("check", health_of)
        except ProviderError as error:
            return Health(False, str(error))

    async def aclose(self) -> None:
        """Lets go of the threads; programs that still run end by their time-out."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _create(self, order: Order) -> Instance:
        def told(answer: Mapping[str, Any]) -> Instance:
            instance, owner = instance_of(answer.get("instance"), self._ids)
            if instance.tag != order.tag or owner != order.owner:
                raise Unreadable("the instance has another tag or owner than was ordered")
            return self._same(order, instance)

        hidden = [order.user_data, *(line.strip() for line in order.user_data.splitlines() if len(line.strip()) >= 8)]
        if order.login is not None:
            hidden.append(order.login.password.reveal())
        return await self._ask("create", told, hidden=hidden, order=order_of(order))

    def _same(self, order: Order, there: Instance) -> Instance:
        if there.key not in ("", order.key):
            raise Unclear(f"an instance {order.tag} of another attempt is there")
        return there

    async def _list(self, owner: str) -> list[Instance]:
        rows = await self._ask("owned", lambda answer: instances_of(answer, self._ids), owner=owner)
        return [instance for instance, whose in rows if whose == owner]

    async def _ask(self, verb: str, told: Callable[[Mapping[str, Any]], T], *, hidden: Iterable[str] = (), **more: object) -> T:
        """One call. What cannot be read is `Unclear`, after a create with the doubt that there is something now."""
        settings, creating = self.settings, verb == "create"
        secrets = {name: secret.reveal() for name, secret in settings.secrets.items()}
        asked = question(verb, self.name, settings.settings, secrets, **more)
        seconds = (settings.create_timeout if creating else settings.timeout).total_seconds()
        given_up = threading.Event()
        command = [str(settings.program), *settings.arguments]
        running = asyncio.get_running_loop().run_in_executor(
            self._threads,
            lambda: call(command, asked, self._environment(), seconds=seconds, limit=settings.answer_limit, given_up=given_up),
        )
        try:
            answer = await running
        except CallFailed as error:
            raise Unclear(f"{settings.program.name} {verb}: {error}", maybe_created=creating) from None
        finally:
            given_up.set()
        unsaid = sorted(filter(None, [*secrets.values(), *hidden]), key=len, reverse=True)
        said = _safe(answer.errors.decode("utf-8", "replace"), unsaid)[-SHOWN:]
        if said:
            log.info("%s %s says: %s", settings.program.name, verb, said)
        where = f"{settings.program.name} {verb}" + (f" ({said})" if said else "")
        try:
            content = read(answer.output)
            no = error_of(content, lambda text: _safe(text, unsaid)[:SHOWN], creating=creating)
            if no is not None:
                raise no
            if answer.status != 0:
                raise Unreadable(f"it ended with {answer.status} and tells no error")
            return told(content)
        except Unreadable as error:
            ended = "" if answer.status == 0 else f", and it ended with {answer.status}"
            raise Unclear(f"{where}: {error}{ended}", maybe_created=creating) from None

    def _environment(self) -> dict[str, str]:
        """A clean one: nothing of the service's own that the settings do not name."""
        passed = {name: os.environ[name] for name in self.settings.pass_environment if name in os.environ}
        return {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", **passed, **self.settings.environment}


def _safe(text: str, unsaid: Iterable[str]) -> str:
    """One line, without what must not be shown."""
    for secret in unsaid:
        text = text.replace(secret, "***")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


_locks: "weakref.WeakValueDictionary[str, asyncio.Lock]" = weakref.WeakValueDictionary()


def _alone(name: str) -> asyncio.Lock:
    """The one lock of this name in this process."""
    lock = _locks.get(name)
    if lock is None:
        lock = _locks[name] = asyncio.Lock()
    return lock
