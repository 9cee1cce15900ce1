"""The same load on the door alone, which answers without a model.

locust -f loadtests/echofile.py --host http://localhost:3000
locust -f loadtests/echofile.py --host http://localhost:8000 --protocol v2-binary
"""

from __future__ import annotations

from loadtests.locustfile import LABELS, DigitUser, protocol_of
from loadtests.protocols import PROTOCOLS


class EchoUser(DigitUser):
    expected = [0] * len(LABELS)  # of ten equal probabilities the first is the largest

    def on_start(self) -> None:
        self.path = PROTOCOLS[protocol_of(self.environment)].echo_path
