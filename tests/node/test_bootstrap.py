"""The start-up script: valid in both forms, small, free of credentials; run by a real /bin/sh it fetches, checks and runs."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from app.node.bootstrap import Boot, Form, render
from app.node.package import agent
from providers.contract import BootsFrom, Secret
from providers.docker import ENTRY
from tests.fake_node import read_user_data
from tests.node.agents import TOKEN, need_root, shell, tools
from tests.node.certificates import authority, pem, server_side
from tests.node.service import Service, serving

FORMS: list[Form] = ["shell", "cloud-init"]


def boot(url: str = "https://ci.acme.example", **more: Any) -> Boot:
    given: dict[str, Any] = {
        "service_url": url,
        "lease_id": "0123456789abcdef",
        "agent_sha256": agent()[1],
        "join_token": Secret(TOKEN),
        "ca_pem": None,
        "machine": BootsFrom.PROCESS,
    }
    return Boot(**{**given, **more})


@contextmanager
def started(script: str, folder: Path, **more: Any) -> Generator[subprocess.Popen[str]]:
    """The script as a provider runs it: by /bin/sh, in its own folder and process group."""
    path = folder / "start.sh"
    path.write_text(script)
    process = subprocess.Popen(
        ["/bin/sh", str(path)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **more,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("machine", BootsFrom)
@pytest.mark.parametrize("form", FORMS)
def test_both_forms_are_valid_small_and_tell_the_same(form: Form, machine: BootsFrom) -> None:
    """A shell reads the one, cloud-init's YAML holds exactly it; a provider's limit for user data is far."""
    ordered = boot(machine=machine)
    script = render(ordered, form)
    assert len(script.encode()) < 3584
    told = read_user_data(script)
    assert (told.url, told.lease, told.token) == (ordered.service_url, ordered.lease_id, TOKEN)
    assert told.sha256 == ordered.agent_sha256
    assert script.count(TOKEN) == 1
    plain = script
    if form == "cloud-init":
        parsed = yaml.safe_load(script)
        assert script.startswith("#cloud-config\n") and set(parsed) == {"write_files", "runcmd"}
        (file,) = parsed["write_files"]
        assert (file["owner"], file["permissions"]) == ("root:root", "0700")
        assert parsed["runcmd"] == [["/bin/sh", file["path"]]]
        plain = file["content"]
    assert plain == render(ordered, "shell") and plain.startswith("#!/bin/sh\n")
    for reader in ("/bin/sh", "/bin/bash", "/bin/dash"):
        if Path(reader).exists():
            subprocess.run([reader, "-n"], input=plain, text=True, check=True)


def test_a_pinned_ca_rides_along_in_both_forms() -> None:
    ca = pem(authority("ours")[1])
    for form in FORMS:
        script = render(boot(ca_pem=ca), form)
        assert all(line in script for line in ca.splitlines())
    assert ca in yaml.safe_load(render(boot(ca_pem=ca), "cloud-init"))["write_files"][0]["content"]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"service_url": "http://ci.acme.example"}, "must be https"),
        ({"service_url": "http://192.168.1.5:8080"}, "must be https"),
        ({"service_url": "https://ci.acme.example/'; reboot '"}, "not an address"),
        ({"service_url": "https://ci.acme.example/$(id)"}, "not an address"),
        ({"service_url": "ftp://ci.acme.example"}, "not an address"),
        ({"lease_id": "a'b"}, "lease"),
        ({"agent_sha256": "A" * 64}, "SHA-256"),
        ({"join_token": Secret("a'b" * 20)}, "token"),
        ({"join_token": Secret("short")}, "token"),
        ({"ca_pem": "-----BEGIN CERTIFICATE-----\nPEM\nreboot\n-----END CERTIFICATE-----\n$(id)"}, "PEM"),
        ({"ca_pem": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}, "PEM"),
        ({"ca_pem": ""}, "PEM"),
    ],
)
def test_what_has_no_place_in_a_script_is_refused_with_a_sentence(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        render(boot(**wrong), "shell")
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080", "https://x.example/sublet/"]
)
def test_loopback_may_be_plain(url: str) -> None:
    assert f"url='{url.rstrip('/')}'" in render(boot(url), "shell")


def test_a_boot_does_not_show_its_token() -> None:
    assert TOKEN not in repr(boot())


def test_run_for_real_it_becomes_the_agent(service: Service, machine: Path) -> None:
    """Fetch, check, join, run. The shell is replaced by the agent, and the token is on no command line."""
    service.script.agent = agent()[0]
    service.script.credential = shell("exec sleep 600")
    with started(render(boot(service.url), "shell"), machine) as process:
        service.wait_for_event("runner_online")
        running = psutil.Process(process.pid)
        assert running.cmdline()[-3:] == ["-I", "agent.pyz", "run"]
        for one in (running, *running.children(recursive=True)):
            assert TOKEN not in " ".join(one.cmdline())
        service.script.stop = True
        console, _ = process.communicate(timeout=20)
    assert process.returncode == 0 and "sublet: joined as calm-fox-01" in console
    assert service.bodies("/node/join")[0]["token"] == TOKEN
    assert (machine / "node").stat().st_mode & 0o777 == 0o711


def test_an_agent_with_another_hash_is_never_run(service: Service, machine: Path) -> None:
    """One changed byte, and the machine gives up with both hashes on its console."""
    content = bytearray(agent()[0])
    content[-40] ^= 1
    service.script.agent = bytes(content)
    with started(render(boot(service.url), "shell"), machine) as process:
        console, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert f"expected {agent()[1]}: not run" in console and "sublet: no agent: giving up" in console
    assert service.seen == [] and not (machine / "node/agent.pyz").exists()


def test_it_waits_for_a_service_that_is_away(service: Service, machine: Path) -> None:
    service.script.agent = agent()[0]
    service.script.mute = True
    with started(render(boot(service.url), "shell"), machine) as process:
        assert process.stdout is not None
        assert "sublet: fetching the agent:" in process.stdout.readline()
        service.script.mute = False
        service.wait_for("/node/facts")
        service.script.stop = True
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_with_a_pinned_ca_only_that_ca_will_do(machine: Path) -> None:
    """For the fetch and for every call of the agent after it."""
    context, ca = server_side(machine)
    with serving(context) as service:
        service.script.agent = agent()[0]
        other = machine / "other"
        other.mkdir()
        with started(render(boot(service.url, ca_pem=pem(authority("not ours")[1])), "shell"), other) as process:
            assert process.stdout is not None
            assert "CERTIFICATE_VERIFY_FAILED" in process.stdout.readline()
        assert service.seen == []
        with started(render(boot(service.url, ca_pem=ca), "shell"), machine) as process:
            service.wait_for("/node/facts")
            service.script.stop = True
            process.communicate(timeout=20)
        assert process.returncode == 0


def test_without_python_it_says_so_and_gives_up(machine: Path) -> None:
    with started(
        render(boot("http://127.0.0.1:9"), "shell"), machine, env={"PATH": tools(machine / "bin", "mkdir", "chmod")}
    ) as process:
        console, _ = process.communicate(timeout=20)
    assert (process.returncode, console) == (1, "sublet: python3 is not on this machine: giving up\n")


def test_a_machine_makes_its_runner_user_closes_metadata_and_ssh_and_goes_off_when_it_fails(
    service: Service, machine: Path
) -> None:
    """With stubs for all that would change this machine, and with an agent that does not pass the check."""
    service.script.agent = b"not the agent"
    script = render(boot(service.url, machine=BootsFrom.MACHINE_IMAGE), "shell")
    script = script.replace("/var/lib/sublet", str(machine / "lib"))
    stubs = dict.fromkeys(("useradd", "usermod", "iptables", "ip6tables", "systemctl", "shutdown", "poweroff", "sync"), "")
    path = tools(machine / "bin", "mkdir", "chmod", id="exit 1", **stubs)
    (machine / "bin/python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (machine / "bin/python3").chmod(0o755)
    with started(script, machine, env={"PATH": path, "HOME": os.environ.get("HOME", "/")}) as process:
        console, _ = process.communicate(timeout=20)
    called = (machine / "bin/called").read_text()
    assert process.returncode == 1 and ": not run" in console
    assert "useradd -r -M -d" in called and "sublet-runner" in called
    assert "iptables -I OUTPUT -d 169.254.0.0/16 -p tcp ! --dport 53 -m owner --uid-owner sublet-runner -j REJECT" in called
    assert [line for line in called.splitlines() if line.startswith("systemctl")] == [
        f"systemctl disable --now {service}" for service in ("ssh.socket", "ssh", "sshd")
    ]
    assert called.splitlines()[-2:] == ["sync ", "shutdown -h now"]


def test_a_container_that_may_not_write_to_the_usual_place_takes_another(service: Service, machine: Path) -> None:
    """An image may run as any user; the script comes by the environment, as the docker provider brings it."""
    need_root()
    service.script.agent = agent()[0]
    script = render(boot(service.url, machine=BootsFrom.CONTAINER_IMAGE), "shell")
    path = machine / "tmp"
    path.mkdir()
    path.chmod(0o777)
    environ = {"PATH": "/usr/bin:/bin", "TMPDIR": str(path), "SUBLET_START": script}
    with started(
        " ".join(shlex.quote(word) for word in ("exec", *ENTRY)), machine, user=65534, group=65534, extra_groups=[], env=environ
    ) as process:
        service.wait_for("/node/facts")
        service.script.stop = True
        console, _ = process.communicate(timeout=20)
    assert process.returncode == 0, console
    assert list(path.glob("*/agent.pyz"))
