"""A real sshd: OpenSSH's, on two free ports of loopback, with keys and a configuration of its own.

The second port lets nobody in. It runs as whoever runs the tests, and lets that user in with one key. As root it needs
OpenSSH's folder for its privilege separation, which a system without a running sshd lacks until the next boot.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from providers.sdk import sdk

PART = "sshd"
REMEDY = "install openssh-server (Debian: apt-get install openssh-server)"
SEPARATION = Path("/run/sshd")
START_SECONDS = 30.0
# With SHLVL bash does not read the tester's own ~/.bashrc, which may take as long as ten tests.
CONFIG = """\
ListenAddress 127.0.0.1:{port}
ListenAddress 127.0.0.1:{closed}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 60
PrintMotd no
PrintLastLog no
AllowAgentForwarding no
X11Forwarding no
AllowTcpForwarding no
SetEnv SHLVL=1 "PATH={folder}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Match LocalPort {closed}
    AuthorizedKeysFile none
"""


class NoSshd(Exception):
    """This machine has no sshd that could be started; says what to do."""


@dataclass(frozen=True, slots=True)
class Sshd:
    """Where it listens, and what opens it."""

    port: int
    closed: int  # the port that lets nobody in
    user: str
    private_key: str  # as OpenSSH writes it
    host_key: str  # its public key, one line
    folder: Path  # its `bin` comes first on the PATH of every login

    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", errors="replace")


def new_key() -> tuple[str, str]:
    """A private key as OpenSSH writes it, and its public key in one line."""
    key = sdk("asyncssh", "ssh").generate_private_key("ssh-ed25519")
    return key.export_private_key().decode(), key.export_public_key().decode().strip()


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def _speaks(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
            return line.recv(4) == b"SSH-"
    except OSError:
        return False


@contextlib.contextmanager
def sshd() -> Generator[Sshd]:
    """Started, and ended with the block. Raises `NoSshd`."""
    program = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise NoSshd(REMEDY)
    if os.geteuid() == 0:
        SEPARATION.mkdir(mode=0o755, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="sublet-sshd-"))
    (host, host_public), (user, user_public) = new_key(), new_key()
    (folder / "host_key").touch(mode=0o600)
    (folder / "host_key").write_text(host)
    (folder / "bin").mkdir()
    (folder / "authorized_keys").write_text(f"{user_public}\n")
    try:
        process, port, closed = _started(program, folder)
        try:
            yield Sshd(
                port=port,
                closed=closed,
                user=pwd.getpwuid(os.geteuid()).pw_name,
                private_key=user,
                host_key=host_public,
                folder=folder,
            )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _started(program: str, folder: Path) -> tuple[subprocess.Popen[bytes], int, int]:
    for _ in range(5):  # somebody else may take a port between the look and the start
        port, closed = _free_ports()
        (folder / "config").write_text(CONFIG.format(port=port, closed=closed, folder=folder))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, "-D", "-e", "-f", str(folder / "config")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < until:
            if _speaks(port) and _speaks(closed):
                return process, port, closed
            time.sleep(0.02)
        process.kill()
        process.wait(10)
    raise NoSshd(f"{program} does not start: {(folder / 'log').read_text('utf-8', errors='replace')[-500:]}")
