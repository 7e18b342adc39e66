"""A node in memory: speaks the agent's protocol over any httpx client, one step at a time, honestly or not.

    node = FakeNode(client, read_user_data(order.user_data))
    await node.join(); await node.report(); await node.fetch(); await node.online()

`step()` takes the next step of an honest life by itself. A `Manner` makes it a bad one.
"""

from __future__ import annotations

import json
import re
import secrets
import textwrap
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx

GIB = 1024


@dataclass(frozen=True)
class Told:
    """What a start-up script tells its machine."""

    url: str
    lease: str
    sha256: str
    token: str


def read_user_data(script: str) -> Told:
    """Reads what `app.node.bootstrap.render` wrote, in either form. Raises ValueError for anything else."""
    found = dict(re.findall(r"^\s*(url|lease|sha256|token)='([^']*)'$", script, re.MULTILINE))
    if set(found) != {"url", "lease", "sha256", "token"}:
        raise ValueError(f"not a start-up script of ours:\n{textwrap.shorten(script, 200)}")
    return Told(**found)


class Manner(StrEnum):
    HONEST = "honest"
    SILENT = "silent"  # never says a word
    LIAR = "liar"  # has less than was asked for
    TWICE = "twice"  # a stranger uses its join token again
    MUTE_LATER = "mute later"  # takes the credential, or is to measure itself, and is never heard again
    NO_OPENSSL = "no openssl"  # cannot check its image's signature
    OTHER_IMAGE = "other image"  # runs another image than the one that was verified
    OLD_AGENT = "old agent"  # says nothing of images


class Refused(Exception):
    """The service said no."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.code = str(response.json().get("error", {}).get("code", ""))
        super().__init__(f"{response.request.url.path}: {self.status} {self.code}")


def fitting(want: dict[str, Any]) -> dict[str, Any]:
    """Facts of a machine that has exactly what was asked for; `want` as the join answer holds it."""
    count = int(want.get("gpus") or 0) or (1 if want.get("gpu") else 0)
    card = {
        "name": f"NVIDIA {want.get('gpu') or 'H100'}".upper(),
        "memory_mib": int(want.get("gpu_memory_gib") or 80) * GIB,
        "architecture": want.get("gpu_architecture") or "Hopper",
        "mig": False,
    }
    return {
        "gpus": [{**card, "uuid": f"GPU-{place}"} for place in range(count)],
        "driver": want.get("min_driver") or "580.95.05",
        "cuda": want.get("min_cuda") or "13.0",
        "architecture": want.get("architecture") or "amd64",
        "memory_mib": int(want.get("memory_gib") or 64) * GIB,
        "disk_free_mib": int(want.get("disk_gib") or 500) * GIB,
        "kernel": "Linux 6.12.0",
        "cpus": 16,
        "problem": "" if count else "nvidia-smi is not on this machine",
    }


class FakeNode:
    """One machine. Its client decides where the service is: `httpx.ASGITransport`, or a base_url."""

    def __init__(self, client: httpx.AsyncClient, told: Told, manner: Manner = Manner.HONEST) -> None:
        self.client, self.told, self.manner = client, told, manner
        self.session = secrets.token_urlsafe(32)
        self.ticket = secrets.token_urlsafe(32)
        self.want: dict[str, Any] = {}
        self.measure: dict[str, Any] | None = None  # what a pilot's node must measure, as the join answer tells it
        self.image: dict[str, Any] | None = None  # the image that it must run, as the join answer tells it
        self.credential: dict[str, Any] | None = None
        self.stopped = False  # the service said stop, or ended the session
        self.done: list[str] = []  # the steps that were taken
        self._seq = 0
        self._now = "2026-11-21T12:00:00Z"

    async def post(self, path: str, body: dict[str, Any], *, session: str | None = None) -> httpx.Response:
        """The raw answer, whatever it is."""
        headers = {"Authorization": f"Bearer {self.session if session is None else session}"}
        response = await self.client.post(f"/node/{path}", content=json.dumps(body), headers=headers)
        if response.status_code == 410 or (response.status_code == 401 and not self.at_work):
            self.stopped = True
        return response

    @property
    def at_work(self) -> bool:
        """A job runs: then a service that does not know the session, as after a restore, does not end the node."""
        return "job" in self.done and "exit" not in self.done

    async def say(self, path: str, **body: Any) -> dict[str, Any]:
        """The answer's body. Raises Refused unless it is a yes."""
        response = await self.post(path, body)
        if not response.is_success:
            raise Refused(response)
        answer = response.json()
        self._now = answer.get("now", self._now)
        return answer

    async def join(self) -> dict[str, Any]:
        answer = await self.say("join", lease=self.told.lease, token=self.told.token, session=self.session)
        self.want, self.image, self.measure = answer["want"], answer["image"], answer.get("measure")
        self.done.append("join")
        return answer

    async def stranger_joins(self) -> Refused | None:
        """Somebody else, or the same machine booted again, uses the same token. The refusal; None if it was let in."""
        other = FakeNode(self.client, self.told)
        try:
            await other.join()
        except Refused as refused:
            return refused
        return None

    async def report(self, **facts: Any) -> None:
        """Facts that fit what was asked for, with these on top; a liar has lost a GPU and most of its memory."""
        told = fitting(self.want)
        if self.manner is Manner.LIAR:
            told |= {"gpus": told["gpus"][1:], "memory_mib": GIB, "driver": "470.1"}
        if self.image is not None and self.manner is not Manner.OLD_AGENT:
            told["image"] = self._checked(self.image)
        await self.say("facts", **{**told, **facts})
        self.done.append("facts")

    def _checked(self, image: dict[str, Any]) -> dict[str, Any]:
        """What an agent reports that has looked at the image's signatures with the machine's openssl."""
        found: dict[str, Any] = {
            "digest": image["digest"],
            "mode": image["mode"],
            "checked": False,
            "openssl": "",
            "keys": [],
            "problem": "",
        }
        if self.manner is Manner.OTHER_IMAGE:
            found["digest"] = "sha256:" + "0" * 64
        if self.manner is Manner.NO_OPENSSL:
            return found | {"problem": "openssl is not on this machine"}
        if not image["signed"]:
            return found
        assert image["signatures"], "an image that has to be signed comes with what a node can check"
        return found | {"checked": True, "openssl": "OpenSSL 3.5.4", "keys": ["SHA256:key"]}

    async def ask_image(self, reference: str) -> dict[str, Any]:
        """May the job start a container from this image?"""
        return await self.say("image", reference=reference)

    async def benchmark(self, **told: Any) -> bool:
        """What a pilot's node does: fetches the sample and says what it measured. Whether the service kept that."""
        sample = await self.post("sample", {})
        if not sample.is_success:
            raise Refused(sample)
        gpu = {"name": "NVIDIA H100 80GB HBM3", "gpus": 1, "memory_gbs": 3010.5, "fp32_tflops": 51.2}
        network = {"connect_ms": 12.5, "download_bytes": len(sample.content), "download_mbps": 940.0}
        kept = (await self.say("measured", **{"gpu": gpu, "network": network, **told}))["kept"]
        self.done.append("measured")
        return kept

    async def fetch(self) -> dict[str, Any] | None:
        """The runner's credential; None while it is not ready."""
        response = await self.post("credential", {"ticket": self.ticket})
        if response.status_code == 202:
            return None
        if response.status_code != 200:
            raise Refused(response)
        self.credential = response.json()
        self.done.append("credential")
        return self.credential

    async def event(self, kind: str, at: str | None = None, **data: Any) -> None:
        await self.say("event", kind=kind, at=at, data=data)

    async def online(self) -> None:
        await self.event("runner_online")
        self.done.append("online")

    async def job_started(
        self, repository: str, run_id: str = "1", event: str = "push", **claim: Any
    ) -> tuple[bool, list[str]]:
        """What the job-started hook asks: (may it run, the lines for the job's log)."""
        answer = await self.say("job", repository=repository, run_id=run_id, event=event, **claim)
        self.done.append("job")
        return answer["allowed"], answer["lines"]

    async def begun(self) -> None:
        """What the agent of a runner without a hook says when its output tells of a job."""
        await self.event("job_started", seen="output")
        self.done.append("job")

    async def exit(self, code: int = 0, **more: str) -> None:
        """`why`: of a runner that was not started, with code 126."""
        try:
            await self.event("runner_exited", exit=code, **more)
        except Refused as refused:
            if refused.status != 401:
                raise
        self.done.append("exit")

    async def heartbeat(self, phase: str = "running") -> dict[str, Any]:
        answer = await self.say("heartbeat", phase=phase, at=None)
        self.stopped = self.stopped or answer["stop"]
        return answer

    async def log(self, *lines: str, source: str = "runner") -> int:
        """How many of the lines were new to the service."""
        told: list[dict[str, Any]] = []
        for line in lines:
            self._seq += 1
            told.append({"seq": self._seq, "at": self._now, "source": source, "line": line})
        return (await self.say("log", lines=told))["kept"]

    async def step(self) -> str:
        """The next step of this node's life, up to the runner being online; its name, or "" if there was nothing to do.

        After that only heartbeats: which job comes, and how it ends, is for the test to say."""
        if self.stopped or self.manner is Manner.SILENT:
            return ""
        try:
            return await self._step()
        except Refused as refused:
            if refused.status == 503:
                return ""  # it asks again
            if refused.status not in (401, 403, 410):
                raise
            self.stopped = self.stopped or not (refused.status == 401 and self.at_work)
            return ""

    async def _step(self) -> str:
        if "join" not in self.done:
            await self.join()
            if self.manner is Manner.TWICE:
                await self.stranger_joins()
            return "join"
        if "facts" not in self.done:
            await self.report()
            return "facts"
        if self.measure is not None:
            if "measured" not in self.done and self.manner is not Manner.MUTE_LATER:
                await self.benchmark()
                return "measured"
            if self.manner is not Manner.MUTE_LATER:
                await self.heartbeat("measured")
            return "heartbeat"
        if "credential" not in self.done:
            await self.heartbeat("waiting")
            return "" if self.stopped or await self.fetch() is None else "credential"
        if self.manner is Manner.MUTE_LATER:
            return ""
        if "online" not in self.done:
            await self.online()
            return "online"
        await self.heartbeat()
        return "heartbeat"
