"""The life of a node: join, report, fetch the credential once, run the runner, and end when it is time.

Two threads tell the story: `_story` goes step by step and may wait on the network; the main thread in `run` never does, so
that the dead-man switch works whatever the network does. Heartbeats, uploads and the gate have threads of their own.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pwd
import secrets
import signal
import sys
import threading
from typing import Any

from . import benchmark, clock, contained, facts, journal, power, privileges, version
from .courier import Courier
from .gate import Gate
from .image import Unusable
from .lodging import Lodging
from .runner import Runner, Unstartable, Work, environment, read_work
from .settings import Settings
from .watch import Watch
from .wire import Answer, Away, Wire

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""
LAST_WORDS = 5.0
"""Seconds for the last log lines to reach a service that was heard of just before."""
MOST_SHOWN = 300
"""Lines on the console: less than a pipe holds."""
LONGEST_WHY = 298
"""Characters of why a runner was not started, with room for the sign that more was said: the service takes 300."""
LONGEST_LIFE = 24 * 3600.0
"""Before the service has named a hard end."""


class Over(Exception):
    """The story ends here; the watch knows why."""


class Life:
    def __init__(self, settings: Settings, wire: Wire, environ: dict[str, str]) -> None:
        self.settings, self.wire, self.environ = settings, wire, environ
        self.log = journal.Journal(clock.monotonic, self._show)
        self.watch = Watch(clock.monotonic(), hard_end=clock.monotonic() + LONGEST_LIFE)
        self.courier = Courier(wire, self.log, self.finish)
        self.runner = Runner(settings.folder / "runner", settings.program, privileges.account())
        self.gate = Gate(settings.folder / "hook", settings.program, wire, self.log.say)
        self.lodging = Lodging(settings, wire, self.log.say)
        self.phase = "joining"
        self._online = False
        self._begun = threading.Event()  # the runner's own output says that a job has begun
        self._unknown = False
        self._shown = 0
        self._heartbeat = 5.0
        self._armed: float | None = None
        self._facts: dict[str, Any] = {}
        self._pilot: benchmark.Asked | None = None  # this machine is rented to be measured, and runs no job
        self._tick = threading.Event()  # the main thread should look now
        self._beat = threading.Event()  # the next heartbeat should go now
        self._done = threading.Event()

    def _show(self, text: str) -> None:
        """On the machine's console, but not for ever: whoever stopped reading it must not stop us."""
        self._shown += 1
        if self._shown <= MOST_SHOWN:
            with contextlib.suppress(OSError, ValueError):
                print("sublet: " + text, file=sys.stderr, flush=True)

    def finish(self, why: str) -> None:
        """The first reason stays."""
        self.watch.over = self.watch.over or why
        self._tick.set()

    def run(self) -> None:
        """Returns when the node has ended everything it started. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda got, _frame: self.finish(f"this machine is being ended (signal {got})"))
        threading.Thread(target=self._story, name="story", daemon=True).start()
        while True:
            self.watch.busy = self.watch.busy or self.gate.admitted.is_set() or self._begun.is_set()
            why = self.watch.verdict(clock.monotonic(), self.wire.heard)
            if why:
                break
            self.runner.reap()
            self._see_exit(self.runner.poll())
            self.watch.over = self.watch.over or self.lodging.poll()
            self._tick.wait(0.1)
            self._tick.clear()
        self._end(why)

    def _see_exit(self, code: int | None) -> None:
        if code is None or self.watch.exited is not None:
            return
        self.runner.end(0)  # what the job left running ends with it
        self.runner.drained(2)
        self._exited(f"the runner ended with {code}", code)

    def _exited(self, text: str, code: int, **more: str) -> None:
        self.watch.exited = clock.monotonic()
        self.watch.busy = False
        self.gate.admitted.clear()
        self._begun.clear()
        self.phase = "exited"
        self.log.say(text)
        self.courier.event("runner_exited", self.watch.exited, exit=code, **more)
        self._beat.set()

    def _end(self, why: str) -> None:
        self._done.set()
        self._beat.set()
        self.phase = "ending"
        self.log.say(f"ending: {why}")
        self.gate.close()
        running = self.runner.started and self.watch.exited is None
        self.runner.end(GRACE)
        if running:
            self.runner.drained(2)
            code = self.runner.poll()
            self._exited("the runner was ended", -signal.SIGKILL if code is None else code)
        self.lodging.end()
        if self.watch.joined:
            self.courier.event("power_off", clock.monotonic(), why=why[:300])
            silence = clock.monotonic() - self.wire.heard
            self.courier.close(LAST_WORDS if silence < 2 * self._heartbeat + 0.5 else 0.5)
        power.off(self.settings.kind)

    def _story(self) -> None:
        measure = threading.Thread(target=self._measure, name="facts", daemon=True)  # takes seconds: while we join
        measure.start()
        try:
            self._join()
            self.courier.start()
            threading.Thread(target=self._beats, name="heart", daemon=True).start()
            self.phase = "proving"
            self.lodging.settle()
            self.runner = self.lodging.runner or self.runner
            measure.join()
            self._report()
            if self.lodging.problem:
                return  # the service ends this node; nothing is started on it
            if self._pilot is not None:
                self._benchmark(self._pilot)
                return
            self.phase = "waiting"
            self._start(self._fetch())
        except Over:
            return
        except Unusable as error:
            self.finish(f"{error}")
        except Unstartable as error:
            why = self.log.mask.cover(journal.clean(str(error)), LONGEST_WHY)
            self._exited(f"the runner could not be started: {error}", 126, why=why)
        except Exception as error:
            self.finish(f"the agent failed: {type(error).__name__}: {error}"[:500])

    def _measure(self) -> None:
        try:
            self._facts = facts.collect(self.settings.folder)
        except Exception as error:
            self._facts = {"problem": f"the machine could not be measured: {type(error).__name__}"}

    def _ask(self, path: str, body: dict[str, Any], what: str) -> Answer:
        """Asks until the service answers. Raises `Over` if the node ends meanwhile, or if the answer is a refusal."""
        pause = 0.25
        told = ""
        while not self._done.is_set():
            try:
                answer = self.wire.post(path, body)
            except Away as away:
                if str(away) != told:
                    told = str(away)
                    self.log.say(f"{what}: {told}; trying again")
                pause = max(away.wait, min(pause * 2, 5.0))
                self._done.wait(pause)
                continue
            if 200 <= answer.status < 300:
                return answer
            self.finish(f"{what}: the service refuses ({answer.status} {answer.code}) {answer.message}".rstrip())
            break
        raise Over

    def _join(self) -> None:
        session = base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
        self.log.mask.learn([session, self.settings.token])
        question = {"lease": self.settings.lease, "token": self.settings.token, "session": session}
        body = self._ask("/node/join", question, "joining").body
        self.wire.session = session
        self._heartbeat = _between(body.get("heartbeat_seconds"), 0.2, 60.0, 5.0)
        self.watch.silent = _between(body.get("silent_seconds"), 1.0, 24 * 3600.0, 900.0)
        self._set_hard_end(body.get("hard_end"))
        self.lodging.take(body)
        self._pilot = benchmark.asked(body.get("measure"))
        if self.lodging.image is not None and self.lodging.image.access is not None:
            self.log.mask.learn([session, self.settings.token, self.lodging.image.access.password])
        self.watch.joined = True
        self.log.say(f"joined as {str(body.get('lease', ''))[:80]}")

    def _report(self) -> None:
        found = self._facts
        told = found if self.lodging.report is None else {**found, "image": self.lodging.report}
        self._ask("/node/facts", told, "reporting what this machine is")
        names = ", ".join(sorted({str(gpu.get("name")) for gpu in found.get("gpus", [])})) or found.get("problem")
        self.log.say(f"reported {len(found.get('gpus', []))} GPU ({names}), driver {found.get('driver') or '-'}")

    def _benchmark(self, wanted: benchmark.Asked) -> None:
        """A pilot's whole work; after it this node waits for the service's word to end, or for its hard end."""
        self.phase = "measuring"
        told = benchmark.run(wanted, self.wire, self.settings.program)
        self._ask("/node/measured", told, "reporting what was measured")
        self.phase = "measured"
        self.log.say("measured: " + (told["gpu"].get("problem") or f"{told['gpu'].get('name')}, and the network"))

    def _fetch(self) -> Work:
        ticket = {"ticket": secrets.token_urlsafe(32)}
        asked = 0
        while True:
            answer = self._ask("/node/credential", ticket, "asking for the runner's credential")
            if answer.status == 200:
                return read_work(answer.body)
            asked += 1
            wait = 0.3 if asked < 40 else 1.0 if asked < 100 else 3.0
            if self._done.wait(wait):
                raise Over

    def _start(self, work: Work) -> None:
        self.phase = "starting"
        given, work = work, work.with_hook(self.gate.plain)  # the same path inside of a container
        self.log.mask.learn([*given.secrets, *work.files.values(), self.wire.session, self.settings.token])
        user = self.runner.user
        inside = "python3" if self.lodging.runner is not None else ""
        self.gate.open({0, os.geteuid(), os.geteuid() if user is None else user.uid}, inside)
        self.log.say(self.runner.prepare(work, self._environment(work)))
        self._see_version(work)
        splitter = journal.Splitter(lambda text: self._line(text, work), self.log.mask)
        self.runner.start(work, self._environment(work), lambda data: splitter.feed(data) if data else splitter.end())
        self.phase = "running"
        if not work.ready:
            self._is_online()

    def _environment(self, work: Work) -> dict[str, str]:
        user = self.runner.user
        name = user.name if user is not None else _own_name()
        if self.lodging.runner is not None:
            return contained.environment(work, self.runner.folder, name, self.gate.script, self.environ)
        return environment(work, self.runner.folder, name, self.gate.script, self.environ)

    def _see_version(self, work: Work) -> None:
        """Raises `Unstartable` if the runner's program is too old for its forge."""
        if work.least is not None:
            told = self.runner.ask(work.least.command, self._environment(work))
            why = version.objection(work.least, told, self.runner.where, self.log.say)
            if why:
                raise Unstartable(why)

    def _line(self, text: str, work: Work) -> None:
        self.log.add("runner", text)
        shown = journal.clean(text)
        if work.ready and work.ready in shown:
            self._is_online()
        if work.begun and work.begun in shown:
            self._has_begun()

    def _has_begun(self) -> None:
        """The runner has a job, and perhaps no hook that asks; one that does is asked as ever, and may still be told no."""
        if self._begun.is_set() or self.gate.admitted.is_set() or self.watch.exited is not None:
            return
        self._begun.set()
        self.log.say("the runner's output says that a job has begun")
        self.courier.event("job_started", clock.monotonic(), seen="output")
        self._tick.set()
        self._beat.set()

    def _is_online(self) -> None:
        if not self._online:
            self._online = True
            self.courier.event("runner_online", clock.monotonic())
            self._beat.set()

    def _beats(self) -> None:
        wait = 0.0
        while True:
            self._beat.wait(wait)
            self._beat.clear()
            if self._done.is_set():
                return
            wait = self._heartbeat if self.watch.exited is None else min(self._heartbeat, 1.0)
            try:
                answer = self.wire.post("/node/heartbeat", {"phase": self.phase, "at": self.wire.time.at(clock.monotonic())})
            except Away as away:
                wait = max(away.wait, min(wait, 2.0))
                continue
            if answer.final or (answer.unknown and not self.watch.busy):
                self.finish("the service says that this session is over")
            elif answer.unknown and not self._unknown:
                self._unknown = True
                self.log.say("the service does not know this session; the job that runs goes on to its end")
            elif answer.body.get("stop") is True:
                self.finish("the service asks this node to stop")
            self._set_hard_end(answer.body.get("hard_end"))
            if answer.body.get("state") == "busy" and self.watch.exited is None:
                self.watch.busy = True  # the forge says so, even if no hook has asked

    def _set_hard_end(self, text: object) -> None:
        moment = self.wire.time.until(text) if text is not None else None
        if moment is None:
            return
        self.watch.hard_end = moment
        if self._armed is None or abs(moment - self._armed) > 30:
            self._armed = moment
            power.arm(self.settings.kind, moment - clock.monotonic())


def _between(number: object, least: float, most: float, otherwise: float) -> float:
    if isinstance(number, bool) or not isinstance(number, (int, float)) or number != number:
        return otherwise
    return min(max(float(number), least), most)


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
