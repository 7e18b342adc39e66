"""The agent as one file: a zipapp whose bytes depend on its sources alone, so that its SHA-256 can be pinned."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from importlib import resources

PACKAGE = "sublet_agent"
"""The agent's own name inside the file; it imports itself relatively, so it does not care."""
INTERPRETER = b"#!/usr/bin/env python3\n"
LONG_AGO = (2020, 1, 1, 0, 0, 0)
ENTRY = f'"""Starts the agent."""\n\nimport sys\n\nfrom {PACKAGE}.__main__ import main\n\nsys.exit(main(sys.argv))\n'


@functools.cache
def agent() -> tuple[bytes, str]:
    """The bytes of agent.pyz and their SHA-256 in hex. The same everywhere: sorted, stored, without times and owners."""
    contents = {"__main__.py": ENTRY.encode()}
    for source in resources.files("app.node").joinpath("agent").iterdir():
        if source.name.endswith(".py"):
            contents[f"{PACKAGE}/{source.name}"] = source.read_bytes().replace(b"\r\n", b"\n")
    packed = io.BytesIO()
    packed.write(INTERPRETER)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_STORED) as archive:  # "a": behind the line that is there already
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, LONG_AGO)
            entry.create_system = 3  # Unix, also when packed elsewhere
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, contents[name])
    whole = packed.getvalue()
    return whole, hashlib.sha256(whole).hexdigest()
