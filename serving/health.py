"""Whether the server at a port of this machine is ready, over HTTP or TLS: the image's health check.

`python -m serving.health PORT`: exit code 0 or 1. It asks, rather than read the settings, since it is started every ten
seconds: that takes a quarter of the time.
"""

from __future__ import annotations

import sys
from http.client import HTTPConnection, HTTPException
from typing import Final

SECONDS: Final = 2


def is_ready(port: int) -> bool:
    """Whether `/readyz` says so at 127.0.0.1; whose certificate it has does not matter here."""
    return any(_says_so(port, tls=tls) for tls in (False, True))


def _says_so(port: int, *, tls: bool) -> bool:
    try:
        door = _over_tls(port) if tls else HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        door.request("GET", "/readyz")
        return door.getresponse().status == 200
    except (OSError, HTTPException):
        return False


def _over_tls(port: int) -> HTTPConnection:
    from http.client import HTTPSConnection
    from ssl import CERT_NONE, create_default_context

    anybody = create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, CERT_NONE
    return HTTPSConnection("127.0.0.1", port, timeout=SECONDS, context=anybody)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        sys.exit("Expected BentoML's port: python -m serving.health 3000")
    sys.exit(not is_ready(int(sys.argv[1])))
