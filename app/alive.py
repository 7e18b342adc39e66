"""Does the service on this machine answer? For the health check of a container; standard library only, so that it costs little.

`python -m app.alive [PORT]`: exit code 0 if `/healthz` answers 200, over TLS or without.
PORT: else SUBLET_SERVER__PORT, else 8080.
"""

import http.client
import os
import ssl
import sys

SECONDS = 4.0


def answers(port: int, *, tls: bool) -> bool:
    """Whether it does. The certificate is not checked: it is made out to another name than loopback, and nothing is sent."""
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    connection = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=SECONDS, context=trust)
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    )
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main(words: list[str]) -> int:
    """Exit code: 0 if it answers."""
    port = int(words[0] if words else os.environ.get("SUBLET_SERVER__PORT") or 8080)
    return 0 if answers(port, tls=False) or answers(port, tls=True) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
