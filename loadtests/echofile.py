"""The same load on /echo, which answers without a model: what is left is the door.

locust -f loadtests/echofile.py --host http://localhost:3000
"""

from __future__ import annotations

from locust import FastHttpUser, task

from loadtests.locustfile import BODIES, ask

ECHOED = [0] * len(BODIES)  # ten equal probabilities: the first is the largest


class EchoUser(FastHttpUser):
    @task
    def echo(self) -> None:
        ask(self, "/echo", expected=ECHOED)
