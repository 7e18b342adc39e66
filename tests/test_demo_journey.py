"""`sublet up` without any settings, as `make run` starts it: on Docker in a signed image, on this machine with a red mark."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx

from tests.demo.runners import eventually
from tests.parts.docker import call

TREE = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def demo(folder: Path, *words: str, **environment: str) -> Generator[httpx.Client]:
    """The service of a demo in this folder, and a person who has opened the link that it printed. Ended as by Ctrl-C."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SUBLET_")}
    command = [sys.executable, "-m", "app.cli", "up", "--port", "0", "--data", str(folder / "data"), *words]
    child = subprocess.Popen(
        command, cwd=folder, env={**own, "PYTHONPATH": str(TREE), **environment}, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child, child.stdout as said:
        try:
            link = next((found[1] for line in said if (found := re.search(r"Dashboard +(\S+)", line))), "")
            assert link, "it never said where it is"
            with httpx.Client(
                base_url=link.partition("/login")[0], timeout=10, trust_env=False, follow_redirects=True
            ) as person:
                assert person.get(link).status_code == 200
                yield person
        finally:
            child.send_signal(signal.SIGINT)
            said.read()
        assert child.wait(60) == 0


def ended_lease(person: httpx.Client) -> dict[str, Any]:
    """The lease of the demo's job, once it is over."""
    found: dict[str, Any] = {}

    def over() -> bool:
        leases: list[dict[str, Any]] = person.get("/api/v1/leases", params={"which": "all"}).json()["leases"]
        found.update(leases[0] if leases else {})
        return found.get("state") == "released" and bool(found.get("gone"))

    eventually(over)
    lease: dict[str, Any] = person.get(f"/api/v1/leases/{found['id']}").json()
    return lease


def text_of(page: str) -> str:
    """What a reader sees of it, roughly."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_on_docker_it_runs_in_a_signed_image_and_the_page_shows_by_whom(docker_host: str, tmp_path: Path) -> None:
    with demo(tmp_path, "--provider", "docker", DOCKER_HOST=docker_host) as person:
        lease = ended_lease(person)
        page = person.get(f"/leases/{lease['name']}").text
    image = lease["image"]
    assert (lease["job"]["conclusion"], lease["signed"], lease["mode"]) == ("success", True, "contained")
    assert image["allowed"] and image["asked"].startswith("127.0.0.1:") and image["asked"].endswith("/sublet-demo:latest")
    assert image["reference"] == f"{image['asked'].removesuffix(':latest')}@{image['digest']}"
    known = call(docker_host, "GET", f"/images/{image['reference']}/json").json()
    assert image["reference"] in known["RepoDigests"], "the engine pulled exactly what was verified"
    (evidence,) = image["evidence"]
    assert evidence["good"] and evidence["kind"] == "cosign tag" and "SHA256:" in evidence["signer"]
    (checked,) = [check for check in lease["proof"] if "signature" in check["what"]]
    assert checked["passed"] and "OpenSSL" in checked["seen"], "and the node has checked it, too"
    shown = text_of(page)
    for words in (image["digest"], image["asked"], evidence["signer"], "cosign tag", "is signed by", "OpenSSL"):
        assert words in shown, words
    assert "Not signed" not in shown
    key = (tmp_path / "data/demo/image-signing.pem").read_text("utf-8").splitlines()[1]
    assert key not in page


def test_on_this_machine_it_wears_a_red_mark_and_says_why(tmp_path: Path) -> None:
    with demo(tmp_path) as person:
        lease = ended_lease(person)
        pages = {path: text_of(person.get(path).text) for path in (f"/leases/{lease['name']}", "/leases?which=all", "/")}
    assert (lease["job"]["conclusion"], lease["signed"], lease["mode"], lease["image"]) == ("success", False, "bare", None)
    assert "Not signed" in pages[f"/leases/{lease['name']}"]
    assert "Unsigned, because it runs in no image" in pages[f"/leases/{lease['name']}"]
    assert all("unsigned" in page.lower() or "not signed" in page.lower() for page in pages.values()), pages
