"""Opens the page in a browser once the server is ready: `samedigit serve --open` starts this, and becomes the server."""

from __future__ import annotations

import http.client
import os
import ssl
import subprocess
import sys
import time
import webbrowser
from typing import Final

WAIT_SECONDS: Final = 120  # for the server to be ready
POLL_SECONDS: Final = 0.1


def page_url(*, host: str, port: int, tls: bool) -> str:
    """The page of a server that listens on this address, as this machine reaches it."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{here}]" if ":" in here else here
    return f"{'https' if tls else 'http'}://{shown}:{port}/ui"


def open_when_ready(url: str) -> None:
    """Has the page opened by a process of its own once the server answers, which this process is about to become."""
    # A grandchild, so that nobody has to wait for its end; and nothing of it is the server's input.
    subprocess.run(
        [sys.executable, "-m", "samedigit.browser", url, str(os.getpid())], stdin=subprocess.DEVNULL, check=True
    )


def _main(url: str, server: int) -> None:
    if os.fork():
        return
    end = time.monotonic() + WAIT_SECONDS
    while not _is_ready(url):
        if time.monotonic() > end or not _lives(server):
            return
        time.sleep(POLL_SECONDS)
    if not webbrowser.open(url):
        print(f"No browser was found here. Open {url}", file=sys.stderr)


def _is_ready(url: str) -> bool:
    scheme, _, rest = url.partition("://")
    host = rest.removesuffix("/ui")
    connection: http.client.HTTPConnection
    if scheme == "https":  # to see whether it answers, whoever signed its certificate; the browser looks at that
        connection = http.client.HTTPSConnection(host, timeout=2, context=ssl._create_unverified_context())
    else:
        connection = http.client.HTTPConnection(host, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
