"""The node of a cluster, in a network namespace that it was started in: pods, who kills them, and who asks them.

unshare --net python tests/pod_life.py HOME PLAN     # or, without root, unshare --user --map-root-user --net python ...

HOME is BENTOML_HOME, PLAN what a manifest says, as JSON (test_pod.py). Two pods get a namespace and an address each; one is
deleted as a kubelet does it. What became of it and of every request is printed as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import orjson
from conftest import PROJECT

from loadtests.client import Client, request_bytes
from serving.protocols.v2_grpc import INFER, RESPONSE

READY_SECONDS: Final = 120.0
CALM_SECONDS: Final = 1.0  # before the pod is deleted, and after it has gone
FRESH_RATE: Final = 40.0  # new connections a second
KEPT: Final = 4  # clients that keep their connection
SLOW: Final = 3  # clients that take their time, of each kind
SLOW_SECONDS: Final = 6.0  # until such a client has sent its last byte
TAKING_SECONDS: Final = 2.0  # until such a client takes the first of its answer
SOME: Final = 10  # images, so that it comes with more bytes a second than a server may ask for
MANY: Final = 1000  # images: an answer that no socket's buffers hold

PATH: Final = "/v2/models/torch-relu.numpy/infer"
DIGIT: Final = 3  # what the model answers


def json_body(images: int) -> bytes:
    data = [0] * (784 * images)
    return orjson.dumps({"inputs": [{"name": "images", "datatype": "UINT8", "shape": [images, 28, 28], "data": data}]})


ONE, SLOWLY_SENT, SLOWLY_TAKEN = json_body(1), json_body(SOME), json_body(MANY)
HEADERS: Final = {"Content-Type": "application/json"}


def wrong(status: int, body: bytes) -> str | None:
    """What is wrong with an answer."""
    if status != 200:
        return f"{status}: {body[:200]!r}"
    data = np.asarray(orjson.loads(body)["outputs"][0]["data"]).reshape(-1, 10)
    return None if (data.argmax(axis=1) == DIGIT).all() else "another digit"


@dataclass
class Said:
    """What became of requests, by who asked."""

    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    again: int = 0  # asked anew, since a kept connection had been closed before a byte of the answer came
    lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, who: str, problem: str | None) -> None:
        with self.lock:
            if problem is None:
                self.answered[who] += 1
            else:
                self.failed.append(f"{who}: {problem}")


class Pod:
    """A server in a network namespace of its own, and its kubelet."""

    def __init__(self, number: int, home: str, plan: dict[str, Any]) -> None:
        self.address = f"10.77.{number}.2"
        self._plan = plan
        self._link = f"pod{number}"
        self._pause = subprocess.Popen(["unshare", "--net", "sleep", "600"])  # holds the namespace
        inside = Path(f"/proc/{self._pause.pid}/ns/net")
        while inside.readlink() == Path("/proc/self/ns/net").readlink():
            time.sleep(0.01)
        peer = ["peer", "name", "eth0", "netns", str(self._pause.pid)]
        run("ip", "link", "add", self._link, "type", "veth", *peer)
        run("ip", "address", "add", f"10.77.{number}.1/24", "dev", self._link)
        run("ip", "link", "set", self._link, "up")
        self._inside = ["nsenter", f"--net={inside}"]
        for words in (f"address add {self.address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            run(*self._inside, "ip", *words.split())
        environment = {**os.environ, "BENTOML_HOME": home, "SAMEDIGIT_BACKENDS": "numpy", **plan["environment"]}
        self._server = subprocess.Popen(
            [*self._inside, sys.executable, "-m", "serving", "--host", "0.0.0.0", "--port", "3000"],
            cwd=PROJECT,
            env=environment,
            stdout=sys.stderr,
        )
        self.said_ready_when_terminated = 0

    def is_ready(self) -> bool:
        """As a probe finds it."""
        probe = self._plan["readiness"]
        try:
            with Client(f"http://{self.address}:{probe['port']}", timeout=probe["timeout"]) as client:
                return client.ask("GET", probe["path"]).status == 200
        except OSError:
            return False

    def wait(self) -> None:
        until = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            if time.monotonic() > until or self._server.poll() is not None:
                raise SystemExit("a pod did not become ready")
            time.sleep(0.05)

    def delete(self, endpoints: list[str], before_terminated: Callable[[], None]) -> dict[str, Any]:
        """As a kubelet does, while proxies hear of it late.

        Args:
            endpoints: which it is taken out of, `late` seconds after the beginning.
            before_terminated: called two seconds before SIGTERM, or at once.
        """
        plan, began = self._plan, time.monotonic()
        events: list[tuple[float, Callable[[], None]]] = [
            (plan["late"], lambda: endpoints.remove(self.address)),
            (max(0.0, plan["sleep"] - 2), before_terminated),
            (plan["sleep"], self._terminate),
        ]
        for at, happens in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0.0, began + at - time.monotonic()))
            happens()
        try:
            code = self._server.wait(max(0.0, began + plan["termination"] - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._server.kill()
            code = self._server.wait()
        ended = time.monotonic() - began
        self._pause.kill()  # the address is gone
        self._pause.wait()
        return {"code": code, "seconds": ended, "ready_when_terminated": self.said_ready_when_terminated}

    def _terminate(self) -> None:
        self._server.send_signal(signal.SIGTERM)
        threading.Thread(target=self._probe).start()

    def _probe(self) -> None:
        """Readiness, from what the signal's arrival takes on, until the end."""
        time.sleep(self._plan["readiness"]["period"] / 2)
        while self._server.poll() is None:
            self.said_ready_when_terminated += self.is_ready()
            time.sleep(self._plan["readiness"]["period"] / 2)

    def end(self) -> None:
        for process in (self._server, self._pause):
            process.kill()
            process.wait()


class Load:
    """Requests of every sort, until it is over."""

    def __init__(self, endpoints: list[str]) -> None:
        self._endpoints = endpoints  # as proxies know them
        self.said = Said()
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._under_way = threading.Semaphore(0)  # slow clients whose request has begun

    def begin(self) -> None:
        self._start(self._arrive)
        for number in range(KEPT):
            self._start(self._keep, number)
        self._start(self._call)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def slow(self, address: str) -> None:
        """Clients that this pod has accepted, and that send or take slowly; and one that never goes on."""
        for _ in range(SLOW):
            self._start(self._send_slowly, address)
            self._start(self._take_slowly, address)
        self._start(self._abandon, address)
        for _ in range(2 * SLOW + 1):
            self._under_way.acquire(timeout=20)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        thread.start()
        self._threads.append(thread)

    def _url(self) -> str:
        return f"http://{random.choice(self._endpoints)}:8000"

    def _arrive(self) -> None:
        chance = random.Random(0)
        while not self._over.wait(chance.expovariate(FRESH_RATE)):
            self._start(self._ask)

    def _ask(self) -> None:
        try:
            with Client(self._url(), timeout=20) as client:
                answer = client.ask("POST", PATH, ONE, HEADERS)
            problem = wrong(answer.status, answer.body)
        except OSError as error:
            problem = repr(error)
        self.said.record("new connection", problem)

    def _keep(self, number: int) -> None:
        """One connection for as long as the server keeps it. A first pod for each, so that half are on the one that goes."""
        url, client = f"http://{self._endpoints[number % 2]}:8000", None
        while not self._over.wait(0.03):
            problem = None
            for attempt in (1, 2):
                fresh = client is None
                try:
                    client = client or Client(url, timeout=20)
                    answer = client.ask("POST", PATH, ONE, HEADERS)
                except OSError as error:
                    if client is not None:
                        client.close()
                    client, url = None, self._url()
                    if fresh or attempt == 2:
                        problem = repr(error)
                        break
                    with self.said.lock:
                        self.said.again += 1
                    continue
                problem = wrong(answer.status, answer.body)
                if answer.headers.get("Connection", "").lower() == "close":
                    client.close()
                    client, url = None, self._url()
                break
            self.said.record("kept connection", problem)
        if client is not None:
            client.close()

    def _call(self) -> None:
        """gRPC, as its library does it: which knows both addresses, and opens a new connection when told to go."""
        addresses = ",".join(f"{address}:8000" for address in self._endpoints)
        request = INFER(model_name="torch-relu.numpy")
        given = request.inputs.add(name="images", datatype="UINT8", shape=[1, 28, 28])
        assert given.name == "images"
        request.raw_input_contents.append(bytes(784))
        sent = request.SerializeToString()
        with grpc.insecure_channel(f"ipv4:{addresses}") as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            while not self._over.wait(0.03):
                try:
                    answer = RESPONSE.FromString(call(sent, timeout=20))
                    digit = np.frombuffer(answer.raw_output_contents[0], np.float32).argmax()
                    problem = None if digit == DIGIT else "another digit"
                except grpc.RpcError as error:
                    problem = repr(error)
                self.said.record("gRPC", problem)

    def _accepted(self, client: Client) -> None:
        """Sees that the pod has taken the connection, which a full or late system may leave waiting."""
        client.ask("GET", "/livez")

    def _send_slowly(self, address: str) -> None:
        try:
            with Client(f"http://{address}:8000", timeout=20) as client:
                sent = request_bytes("POST", PATH, SLOWLY_SENT, {"Host": address, **HEADERS})
                self._accepted(client)
                pieces = [sent[at : at + len(sent) // 8 + 1] for at in range(0, len(sent), len(sent) // 8 + 1)]
                for number, piece in enumerate(pieces):
                    client.send(piece)
                    if number == 0:
                        self._under_way.release()
                    time.sleep(SLOW_SECONDS / len(pieces))
                answer = client.read()
            problem = wrong(answer.status, answer.body)
        except OSError as error:
            problem = repr(error)
        self.said.record("sends slowly", problem)

    def _take_slowly(self, address: str) -> None:
        try:
            with Client(f"http://{address}:8000", timeout=20) as client:
                self._accepted(client)
                client.send(request_bytes("POST", PATH, SLOWLY_TAKEN, {"Host": address, **HEADERS}))
                self._under_way.release()
                time.sleep(TAKING_SECONDS)
                answer = client.read()
            problem = wrong(answer.status, answer.body)
        except OSError as error:
            problem = repr(error)
        self.said.record("takes slowly", problem)

    def _abandon(self, address: str) -> None:
        """Sends half, and no more for as long as the connection lasts: it may not hold up the end."""
        try:
            with Client(f"http://{address}:8000", timeout=60) as client:
                self._accepted(client)
                client.send(request_bytes("POST", PATH, ONE, {"Host": address, **HEADERS})[:-10])
                self._under_way.release()
                client.read()
        except OSError:
            pass
        self.said.record("abandoned", None)


def run(*words: str) -> None:
    subprocess.run(words, check=True)


def main(home: str, written: str) -> None:
    plan = json.loads(written)
    run("ip", "link", "set", "lo", "up")
    pods = [Pod(number, home, plan) for number in (1, 2)]
    try:
        for pod in pods:
            pod.wait()
        endpoints = [pod.address for pod in pods]
        load = Load(endpoints)
        load.begin()
        time.sleep(CALM_SECONDS)
        gone = pods[0].delete(endpoints, lambda: load.slow(pods[0].address))
        time.sleep(CALM_SECONDS)
        load.end()
    finally:
        for pod in pods:
            pod.end()
    said = load.said
    print(json.dumps({**gone, "answered": said.answered, "failed": said.failed, "again": said.again}))


if __name__ == "__main__":
    main(*sys.argv[1:])
