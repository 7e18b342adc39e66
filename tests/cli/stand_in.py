"""Stands in for `app.main --demo`: serves the API of one demo job, and can misbehave as the test asks by SCENE."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.cli import samples

SCENE = os.environ.get("SCENE", "good")
FOLDER = Path(sys.argv[sys.argv.index("--data") + 1])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        conclusion = "failure" if SCENE == "job fails" else "success"
        done = samples.gone(job=samples.job(conclusion=conclusion))
        lease = samples.lease() if SCENE == "never ends" else done
        body: Any = lease if self.path.startswith("/api/v1/leases/") else {"schema_version": 1, "leases": [lease]}
        sent = json.dumps(body).encode()
        self.send_response(200 if self.headers.get("authorization") == "Bearer demo-token" else 401)
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)


def main() -> None:
    if SCENE == "does not start":
        print("the last words of the service")
        sys.exit(3)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def stop(number: int, frame: object) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGINT, stop)
    if SCENE == "leaves a process":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=FOLDER, start_new_session=True)
    (FOLDER / "cli-token").write_text("demo-token", encoding="utf-8")
    unfinished = FOLDER / "service.json.new"
    unfinished.write_text(
        json.dumps({"url": f"http://127.0.0.1:{server.server_address[1]}", "pid": os.getpid()}), encoding="utf-8"
    )
    unfinished.rename(FOLDER / "service.json")
    server.serve_forever(poll_interval=0.02)


if __name__ == "__main__":
    main()
