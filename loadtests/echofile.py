"""The same load on the door alone, which answers without a model.

locust -f loadtests/echofile.py --host http://localhost:3000
locust -f loadtests/echofile.py --host http://localhost:8000 --protocol v2-binary
"""

from __future__ import annotations

from locust import FastHttpUser, task

from loadtests.locustfile import LABELS, ask, protocol_of

ECHOED = [0] * len(LABELS)  # ten equal probabilities: the first is the largest


class EchoUser(FastHttpUser):
    @task
    def echo(self) -> None:
        ask(self, protocol_of(self.environment).echo_path, expected=ECHOED)
