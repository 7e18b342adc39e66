"""Renders the start-up script: it fetches the agent, checks its SHA-256, and only then runs it.

The script is all that a provider ever sees of us. It holds the service's address, the lease, the hash and a join token that
works once; no credential of a forge, a registry or a provider. It needs `sh` and `python3` (3.8 or later), nothing else.
On a machine it also closes what nobody needs there: the metadata address for the runner's user, and SSH for everybody.
"""

from __future__ import annotations

import ipaddress
import re
import textwrap
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from providers.contract import BootsFrom, Secret

Form = Literal["shell", "cloud-init"]
KINDS = {BootsFrom.MACHINE_IMAGE: "machine", BootsFrom.CONTAINER_IMAGE: "container", BootsFrom.PROCESS: "process"}
PATIENCE = 600
"""Seconds for which the agent is fetched again and again while the service is away; then the machine goes off."""


@dataclass(frozen=True, slots=True)
class Boot:
    """What one machine is told."""

    service_url: str
    lease_id: str
    agent_sha256: str  # hex
    join_token: Secret
    ca_pem: str | None  # trust this CA and no other; None: the machine's own trust
    machine: BootsFrom


def render(boot: Boot, form: Form) -> str:
    """The script. "shell" starts with `#!/bin/sh`, which cloud-init runs too; "cloud-init" wraps it in `#cloud-config`.

    Raises ValueError with a sentence for an address that is neither https nor loopback, and for anything that has no place
    in a script."""
    script = _script(boot)
    if form == "shell":
        return script
    return CLOUD_CONFIG + textwrap.indent(script, " " * 6) + CLOUD_RUN


def _script(boot: Boot) -> str:
    url = _checked_url(boot.service_url)
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", boot.lease_id):
        raise ValueError("the lease's id has no place in a script")
    if not re.fullmatch(r"[0-9a-f]{64}", boot.agent_sha256):
        raise ValueError("the agent's SHA-256 is not one")
    if not re.fullmatch(r"[A-Za-z0-9_-]{20,200}", boot.join_token.reveal()):
        raise ValueError("the join token has no place in a script")
    kind = KINDS[boot.machine]
    pinned = ""
    if boot.ca_pem is not None:
        pinned = "ca=$PWD/ca.pem\ncat >ca.pem <<'PEM' || off 'no room for the CA'\n" + _checked_pem(boot.ca_pem) + "PEM\n"
    return (
        HEAD.replace("@OFF@", OFF_MACHINE if kind == "machine" else "")
        .replace("@URL@", url)
        .replace("@LEASE@", boot.lease_id)
        .replace("@SHA256@", boot.agent_sha256)
        .replace("@TOKEN@", boot.join_token.reveal())
        + FOLDER[kind]
        + pinned
        + FETCH.replace("@PATIENCE@", str(PATIENCE))
        + (MACHINE_RUN if kind == "machine" else RUN.replace("@KIND@", kind))
    )


def _checked_url(url: str) -> str:
    if not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]{1,255}(/[A-Za-z0-9._~/-]{0,200})?", url):
        raise ValueError("public_url is not an address that a machine can be given")
    parts = urlsplit(url)
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise ValueError("public_url must be https, because machines reach the service over a network that is not ours")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_pem(pem: str) -> str:
    lines = [line.strip() for line in pem.strip().splitlines()]
    inside = "".join(line for line in lines if not line.startswith("-----"))
    marks = [line for line in lines if line.startswith("-----")]
    wanted = ["-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"] * (len(marks) // 2)
    if not marks or marks != wanted or not re.fullmatch(r"[A-Za-z0-9+/=]+", inside):
        raise ValueError("the pinned CA is not a PEM file with certificates and nothing else")
    return "\n".join(line for line in lines if line) + "\n"


CLOUD_CONFIG = """\
#cloud-config
write_files:
  - path: /var/lib/sublet-start.sh
    owner: root:root
    permissions: "0700"
    content: |
"""
CLOUD_RUN = """\
runcmd:
  - [/bin/sh, /var/lib/sublet-start.sh]
"""
OFF_MACHINE = " sync; shutdown -h now || poweroff -f;"
HEAD = """\
#!/bin/sh
# Sublet: fetches the node agent, checks its SHA-256, runs it. The token works once.
umask 077
say() { echo "sublet: $*" >&2; }
off() { say "$*: giving up";@OFF@ exit 1; }
url='@URL@'
lease='@LEASE@'
sha256='@SHA256@'
token='@TOKEN@'
ca=
"""
FOLDER = {
    "machine": """\
mkdir -p /var/lib/sublet && chmod 711 /var/lib/sublet && cd /var/lib/sublet || off 'no folder'
u=sublet-runner
id $u >/dev/null 2>&1 || useradd -r -M -d /var/lib/sublet/runner -s /usr/sbin/nologin $u || say 'no runner user'
for g in video render; do usermod -aG $g $u 2>/dev/null; done
m="-p tcp ! --dport 53 -m owner --uid-owner $u -j REJECT"
iptables -I OUTPUT -d 169.254.0.0/16 $m 2>/dev/null || say 'metadata address stays open'
ip6tables -I OUTPUT -d fd00:ec2::254 $m 2>/dev/null
for s in ssh.socket ssh sshd; do systemctl disable --now $s; done >/dev/null 2>&1
""",
    "container": """\
d=/var/lib/sublet
mkdir -p $d 2>/dev/null && chmod 711 $d && cd $d || cd "$(mktemp -d)" && chmod 711 . || off 'no folder'
""",
    "process": "mkdir -p node && chmod 711 node && cd node || off 'no folder'\n",
}
FETCH = """\
command -v python3 >/dev/null || off 'python3 is not on this machine'
URL="$url" SHA256="$sha256" CA="$ca" python3 -I - <<'PY' || off 'no agent'
import hashlib, os, ssl, sys, time, urllib.request as r
e = os.environ
if sys.version_info < (3, 8): sys.exit("sublet: python3 is older than 3.8")
t = r.HTTPSHandler(context=ssl.create_default_context(cafile=e["CA"] or None))
o = r.build_opener(r.ProxyHandler({}), t)
end = time.monotonic() + @PATIENCE@
wait = 1
while True:
    try:
        b = o.open(e["URL"] + "/node/agent.pyz", timeout=20).read(9 << 20)
        break
    except Exception as x:
        print("sublet: fetching the agent:", x, file=sys.stderr, flush=True)
        if time.monotonic() > end: sys.exit(1)
        time.sleep(wait)
        wait = min(wait * 2, 15)
h = hashlib.sha256(b).hexdigest()
if h != e["SHA256"]: sys.exit("sublet: the agent's SHA-256 is " + h + ", expected " + e["SHA256"] + ": not run")
open("agent.pyz", "wb").write(b)
PY
chmod 644 agent.pyz
"""
GIVEN = 'SUBLET_URL="$url" SUBLET_LEASE="$lease" SUBLET_TOKEN="$token" SUBLET_CA="$ca" SUBLET_FOLDER="$PWD"'
RUN = f"export {GIVEN} SUBLET_POWER_OFF=@KIND@\nexec python3 -I agent.pyz run\n"
MACHINE_RUN = f"{GIVEN} SUBLET_POWER_OFF=machine python3 -I agent.pyz run\noff 'the agent has ended'\n"
