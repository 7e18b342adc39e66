"""The demo as a service: settings that point at the built-in forge, a free pool, and one job queued."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.demo import image, launch, machine
from app.settings import Loaded, load

REPOSITORY = "acme/train"
CALL_SECONDS = 120.0
DOCKER = "unix:///var/run/docker.sock"
NOTE = "Demo: this pool asks for no GPU, so the job runs on this machine and costs nothing."
BARE_NOTE = "Unsigned, because it runs in no image; with --provider docker the demo signs one."
SIGNED_NOTE = "Its image is signed with a key that the demo made."


class DemoTrouble(Exception):
    """The demo cannot start."""


@dataclass(frozen=True, slots=True)
class Images:
    """What the settings say of images: in the pool, and beside it."""

    pool: dict[str, Any]
    settings: dict[str, Any]


BARE = Images({"mode": "bare", "signed": False, "note": f"{NOTE} {BARE_NOTE}"}, {})


@dataclass(frozen=True, slots=True)
class Demo:
    """A running demo forge and the settings that make the service its customer."""

    loaded: Loaded
    forge: launch.Running
    data: Path

    async def start(self, own_url: str) -> list[str]:
        """Point the forge's webhook at us and queue the job, unless one is under way. Returns the lines to print."""
        await asyncio.to_thread(self.forge.ask, "hook", {"url": f"{own_url}/hooks/github"})
        state = await asyncio.to_thread(self.forge.ask, "state")
        if any(job["status"] != "completed" for job in state["jobs"]):
            return [f"Demo job of {REPOSITORY} goes on where it was."]
        await asyncio.to_thread(self.forge.ask, "push", {"repository": REPOSITORY})
        return [f"Demo job {REPOSITORY} · gpu-eval queued on the built-in forge: no account, no cost."]

    async def keep_alive(self) -> None:
        """Call on the forge for ever: it ends by itself once nobody has called for a quarter of an hour."""
        while True:
            await asyncio.sleep(CALL_SECONDS)
            with contextlib.suppress(launch.DemoError):
                await asyncio.to_thread(self.forge.ask, "alive")

    def stop(self) -> None:
        """End the forge."""
        launch.stop(self.data)


async def prepare(loaded: Loaded, public_url: str, provider: str) -> Demo:
    """Start the forge (or find it alive, after a crash), and write the demo's settings over the given ones.

    Raises DemoTrouble."""
    data = Path(loaded.settings.data)
    try:
        forge = await asyncio.to_thread(launch.ensure, data)
        images = await asyncio.to_thread(_signed, forge) if provider == "docker" else BARE
    except Exception as error:
        raise DemoTrouble(f"The demo cannot start: {error}") from error
    command = machine.command_in_image() if provider == "docker" else machine.command()
    own = {"network": "host", "host": os.environ.get("DOCKER_HOST") or DOCKER} if provider == "docker" else {}
    settings: dict[str, Any] = {
        "data": str(data),
        "public_url": public_url,
        "server": loaded.settings.server.model_dump(exclude_unset=True),
        "log": loaded.settings.log.model_dump(exclude_unset=True),
        "database": loaded.settings.database.model_dump(exclude_unset=True),
        "github": {
            "url": forge.url,
            "api_url": f"{forge.url}/api/v3",
            "app_id": forge.app_id,
            "private_key": f"file:{forge.private_key_file.absolute()}",
            "webhook_secret": f"file:{forge.webhook_secret_file.absolute()}",
        },
        "provider": [{"name": provider, "kind": provider, **own}],
        "pool": [
            {
                "name": "demo",
                "labels": ["gpu", "rubin"],
                "ceiling": 2,
                "max_minutes": 15,
                "idle_minutes": 2,
                "boot_minutes": 3,
                "runner_command": list(command),
                **images.pool,
            }
        ],
        **images.settings,
        "repository": [{"match": "acme/*"}],
        "engine": {"beat_seconds": 1, "heartbeat_seconds": 2, "silent_minutes": 2},
    }
    return Demo(load(None, settings), forge, data)


def _signed(forge: launch.Running) -> Images:
    """A signed image, which the forge's own registry serves. Raises NoImage."""
    image.suits()
    published = image.publish(forge.folder, forge.url)
    registry = published.repository.partition("/")[0]
    settings = {
        "trust": {"keys": [f"file:{published.public_key_file.absolute()}"]},
        "registry": [{"host": registry}],
    }
    return Images({"image": published.reference, "note": f"{NOTE} {SIGNED_NOTE}"}, settings)
