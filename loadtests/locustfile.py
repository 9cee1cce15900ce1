"""Load for a running server, one user class per backend: real test digits, and every answer is checked.

    locust -f loadtests/locustfile.py --host http://localhost:3000
    locust -f loadtests/locustfile.py --host http://localhost:8000 --protocol v2-binary OnnxUser

The users ask over sockets of their own and fire Locust's events: its FastHttpUser computes so long for each request that it,
and not the server, would be what is measured. A malformed answer is a failure; a wrong digit is not, since models err: the
accuracy over all requests is reported at the end, beside the stored one, and how much of a latency the model took. Users of
backends that the server does not serve are left out; of several models, the most accurate is asked. A request that is still
unanswered some seconds after the end has failed. `samedigit loadtest` runs this file too, for a given time, and
reads every latency, unrounded, from the file named by SAMEDIGIT_LATENCIES.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import logging
import math
import os
import random
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import gevent  # type: ignore[import-untyped]
import orjson
from locust import User, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import STATE_CLEANUP, STATE_STOPPED, STATE_STOPPING

from digits import mnist
from digits.contract import BACKENDS
from digits.errors import SamedigitError
from loadtests.client import connect, get
from loadtests.protocols import PROTOCOLS, ProtocolName, WrongAnswer
from loadtests.wire import Connection, Requests, Unreadable, closes, connection_of, digit, exchange, write_requests

LATENCIES: Final = os.environ.get("SAMEDIGIT_LATENCIES")  # where to write them; unset: nowhere
COUNTS: Final = os.environ.get("SAMEDIGIT_COUNTS")  # where to write what server and client counted meanwhile
WARM_UP_SECONDS: Final = float(os.environ.get("SAMEDIGIT_WARM_UP_SECONDS", "0"))  # requests sent earlier do not count,
DURATION_SECONDS: Final = float(os.environ.get("SAMEDIGIT_DURATION_SECONDS", "inf"))  # and this much later all ends
DRAIN_SECONDS: Final = 5.0  # after the end, for the answers that are still to come; --stop-timeout says another time
GET_TIMEOUT_SECONDS: Final = 5  # for what the server tells of itself
ENDING: Final = frozenset({STATE_STOPPING, STATE_STOPPED, STATE_CLEANUP})

log = logging.getLogger("samedigit")

try:
    _test = mnist.test_images()
except SamedigitError as error:
    raise SystemExit(f"Error: {error}") from error
LABELS: Final = _test.labels.tolist()


class DigitUser(User):
    """A caller with a connection of its own, which is made again when it ends."""

    abstract = True
    path = ""  # which it asks
    expected: Sequence[int] = LABELS  # the right digit of each test image
    _socket: socket.socket | None = None
    _wire: Connection

    @task
    def ask(self) -> None:
        """Asks until it is stopped: what Locust does between two tasks takes longer than an answer."""
        runner, requests, protocol = self.environment.runner, _requests[self.path], _protocol
        while runner is not None and runner.state not in ENDING:
            image = next(_next_image)
            start_time, started = time.time(), time.perf_counter()
            _unanswered[self] = self.path, start_time
            answer, outcome, failure = b"", "failed", None
            try:
                answer = self._exchange(requests, image)
                seconds = time.perf_counter() - started
                outcome = "right" if digit(protocol, answer) == self.expected[image] else "wrong"
            except (OSError, WrongAnswer) as error:
                seconds = time.perf_counter() - started
                failure = error
            del _unanswered[self]  # not in a `finally`: a user that is stopped while it waits leaves its request here
            self.environment.events.request.fire(
                request_type="POST", name=self.path, start_time=start_time, response_time=1000 * seconds,
                response_length=len(answer), response=None, context={"outcome": outcome}, exception=failure,
            )  # fmt: skip
            if failure is not None:
                gevent.sleep(0)  # a connection that is refused lets nobody else go on
        raise StopUser

    def _exchange(self, requests: Requests, image: int) -> bytes:
        """The whole answer. Raises OSError or WrongAnswer."""
        if self._socket is None:
            _, self._socket = connect(str(self.environment.host))
            self._wire = connection_of(requests)
            self._socket.sendall(self._wire.greeting)
        try:
            answer = exchange(self._socket, self._wire, image)
        except (OSError, Unreadable):
            self.on_stop()
            raise
        if closes(answer):
            self.on_stop()
        return answer

    def on_stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class BackendUser(DigitUser):
    abstract = True
    backend: str

    def on_start(self) -> None:
        self.path = _paths[self.backend]


class NumpyUser(BackendUser):
    backend = "numpy"


class TorchUser(BackendUser):
    backend = "torch"


class TensorflowUser(BackendUser):
    backend = "tensorflow"


class OnnxUser(BackendUser):
    backend = "onnx"


_protocol: ProtocolName = "predict"
_paths: dict[str, str] = {}  # backend -> where its most accurate model is
_requests: dict[str, Requests] = {}  # by path: of the test images
_shuffled = list(range(len(LABELS)))
random.Random(0).shuffle(_shuffled)
_next_image = itertools.cycle(_shuffled)  # one after the other, so that as few as possible are asked twice
_outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)  # path -> right, wrong, failed
_hundredths: defaultdict[str, Counter[int]] = defaultdict(Counter)  # path -> latency in hundredths of a ms
_latencies: list[tuple[float, float, str]] = []  # sent_s, latency_ms, outcome
_unanswered: dict[User, tuple[str, float]] = {}  # path, and when it was sent, in seconds since the epoch
_started = 0.0  # seconds since the epoch
_before: dict[str, dict[str, int]] = {}  # what the server had counted when the warm-up ended
_cpu_seconds = 0.0  # of this process by then
_counts: dict[str, Any] = {}  # what server and client had counted when the time was over
_first_failure: str | None = None


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_protocol(parser: argparse.ArgumentParser, **_: Any) -> None:
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="predict", help="How to ask.")


def protocol_of(environment: Environment) -> ProtocolName:
    assert environment.parsed_options is not None  # Locust's command line has been read
    protocol: ProtocolName = environment.parsed_options.protocol
    return protocol


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Environment, **_: Any) -> None:
    global _protocol, _paths, _started, _first_failure
    _protocol = protocol_of(environment)
    asked = PROTOCOLS[_protocol]
    served = _served(environment)
    _paths = {backend: asked.path(models[0][1].partition(":")[0], backend) for backend, models in served.items()}
    missing = {f"{backend.title()}User" for backend in BACKENDS if backend not in served}
    for user_class in list(environment.user_classes):
        if user_class.__name__ in missing:
            log.warning("%s is left out: the server does not serve its backend.", user_class.__name__)
            environment.user_classes.remove(user_class)
    _requests.clear()
    host = urlsplit(str(environment.host)).netloc
    for user_class in environment.user_classes:
        path = _paths[user_class.backend] if issubclass(user_class, BackendUser) else asked.echo_path
        _requests[path] = write_requests(_protocol, host, path, _test.images)
    _outcomes.clear()
    _hundredths.clear()
    _latencies.clear()
    _unanswered.clear()
    _first_failure = None
    environment.stop_timeout = environment.stop_timeout or DRAIN_SECONDS  # Locust's own would drop what is in flight
    _started = time.time()
    gevent.spawn(_keep_time, environment)


def _keep_time(environment: Environment) -> None:
    global _before, _cpu_seconds, _counts
    time.sleep(WARM_UP_SECONDS)
    _before = _statistics(environment)
    _cpu_seconds = time.process_time()
    if math.isfinite(DURATION_SECONDS):
        time.sleep(_started + WARM_UP_SECONDS + DURATION_SECONDS - time.time())
        _counts = {"cpu_seconds": time.process_time() - _cpu_seconds, "models": _counted(environment)}
        assert environment.runner is not None  # which has started the test
        environment.runner.quit()  # which waits for the answers still to come


@events.request.add_listener  # type: ignore[untyped-decorator]
def record(
    name: str, response_time: float, start_time: float, context: dict[str, Any], exception: object = None, **_: Any
) -> None:
    global _first_failure
    sent = start_time - _started - WARM_UP_SECONDS
    if not 0 <= sent < DURATION_SECONDS:
        return
    outcome = context.get("outcome", "failed")
    if outcome == "failed":
        _first_failure = _first_failure or str(exception)
    _outcomes[name][outcome] += 1
    _hundredths[name][round(100 * response_time)] += 1
    if LATENCIES:
        _latencies.append((sent, response_time, outcome))


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def report(environment: Environment, **_: Any) -> None:
    _fail_unanswered(environment)
    backends = {path: backend for backend, path in _paths.items()}
    served = _served(environment)
    for path, outcomes in _outcomes.items():
        right, wrong = outcomes["right"], outcomes["wrong"]
        if right + wrong:
            stored = [f"{100 * accuracy:.2f} % for {tag}" for accuracy, tag in served.get(backends.get(path, ""), [])]
            log.warning(
                "%s: %.2f %% of %d answers right (stored: %s), %d failed; p50 %.2f ms, p95 %.2f ms, p99 %.2f ms",
                path, 100 * right / (right + wrong), right + wrong, ", ".join(stored) or "not known", outcomes["failed"],
                *(_percentile_ms(_hundredths[path], percent) for percent in (50, 95, 99)),
            )  # fmt: skip
    for name, counted in _counted(environment).items():
        log.warning(
            "%s: of each latency the model took %.3f ms and the queue before it %.3f ms, the door and this client the rest",
            name, counted["model_ns"] / counted["requests"] / 1e6, counted["queue_ns"] / counted["requests"] / 1e6,
        )  # fmt: skip
    if LATENCIES:
        with open(LATENCIES, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("sent_s", "latency_ms", "outcome"))
            writer.writerows(_latencies)
    if COUNTS:
        with open(COUNTS, "wb") as file:
            file.write(orjson.dumps({**_counts, "first_failure": _first_failure}))


def _fail_unanswered(environment: Environment) -> None:
    """Counts what is in flight still as failed, for Locust too; what was sent in the warm-up, from its end."""
    now = time.time()
    for path, sent in _unanswered.values():
        start_time = max(sent, _started + WARM_UP_SECONDS)
        environment.events.request.fire(  # type: ignore[no-untyped-call]
            request_type="POST", name=path, start_time=start_time, response_time=1000 * (now - start_time),
            response_length=0, response=None, context={}, exception=TimeoutError("no answer before the end"),
        )  # fmt: skip
    _unanswered.clear()


def _percentile_ms(hundredths: Counter[int], percent: int) -> float:
    """Locust's own percentiles are of whole milliseconds."""
    before, wanted = 0, percent / 100 * hundredths.total()
    for latency in sorted(hundredths):
        before += hundredths[latency]
        if before >= wanted:
            return latency / 100
    return float("nan")


def _served(environment: Environment) -> dict[str, list[tuple[float, str]]]:
    """For each backend its models, the most accurate first: stored accuracy and recipe:version."""
    served: dict[str, list[tuple[float, str]]] = {}
    for model in _get(environment, "/models", "models"):
        for backend, entry in model["backends"].items():
            served.setdefault(backend, []).append((entry["accuracy"], model["model"]))
    return {backend: sorted(models, reverse=True) for backend, models in served.items()}


def _counted(environment: Environment) -> dict[str, dict[str, int]]:
    """What the server has counted since the warm-up, for each model that answered: see `_statistics`."""
    counted = {}
    for name, after in _statistics(environment).items():
        before = _before.get(name, {})
        counted[name] = {key: count - before.get(key, 0) for key, count in after.items()}
    return {name: counts for name, counts in counted.items() if counts["requests"]}


def _statistics(environment: Environment) -> dict[str, dict[str, int]]:
    """For each model what the server has counted: times are sums over requests, each of which saw its whole batch's."""
    return {
        model["name"]: {
            "requests": model["inference_stats"]["success"]["count"],
            "queue_ns": model["inference_stats"]["queue"]["ns"],
            "model_ns": model["inference_stats"]["compute_infer"]["ns"],
            "images": model["inference_count"],
            "batches": model["execution_count"],
        }
        for model in _get(environment, "/v2/models/stats", "model_stats")
    }


def _get(environment: Environment, path: str, key: str) -> list[dict[str, Any]]:
    """A list that the server gives; empty if it does not."""
    try:
        answer = get(f"{environment.host}{path}", timeout=GET_TIMEOUT_SECONDS)
        entries: list[dict[str, Any]] = orjson.loads(answer.body)[key]
        return entries
    except (OSError, KeyError, ValueError) as error:
        log.warning("%s is not to be had from %s: %s", path, environment.host, error)
        return []
