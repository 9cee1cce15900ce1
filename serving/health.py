"""Whether the server on this machine is ready, by its own settings: the image's health check. Exit code 0 or 1.

python -m serving.health [PORT]        BentoML's port; 3000 without it
"""

from __future__ import annotations

import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ssl import CERT_NONE, create_default_context
from typing import Final

from serving.settings import read_settings
from serving.start import BENTOML_PORT

SECONDS: Final = 2


def main(port: int) -> bool:
    """Whether `/readyz` says so at 127.0.0.1, over TLS where the settings name a certificate: whose, does not matter here."""
    if read_settings().tls_certificate is None:
        door = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    else:
        anybody = create_default_context()
        anybody.check_hostname, anybody.verify_mode = False, CERT_NONE
        door = HTTPSConnection("127.0.0.1", port, timeout=SECONDS, context=anybody)
    try:
        door.request("GET", "/readyz")
        return door.getresponse().status == 200
    except (OSError, HTTPException):
        return False


if __name__ == "__main__":
    sys.exit(not main(int(sys.argv[1]) if len(sys.argv) > 1 else BENTOML_PORT))
