"""Load for a running server, one user class per backend: real test digits, and every answer is checked.

    locust -f loadtests/locustfile.py --host http://localhost:3000

A malformed answer is a failure; a wrong digit is not, since models err: the accuracy over all requests is reported at the
end, beside the stored one. Users of backends that the server does not serve are left out. `samedigit loadtest` runs this
file too, and reads every latency, unrounded, from the file named by SAMEDIGIT_LATENCIES.
"""

from __future__ import annotations

import csv
import itertools
import logging
import os
import random
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final

import orjson
from locust import FastHttpUser, events, task
from locust.env import Environment

from digits import mnist
from digits.contract import BACKENDS, CLASSES
from digits.errors import SamedigitError

LATENCIES: Final = os.environ.get("SAMEDIGIT_LATENCIES")  # where to write them; unset: nowhere
WARM_UP_SECONDS: Final = float(os.environ.get("SAMEDIGIT_WARM_UP_SECONDS", "0"))  # requests sent earlier do not count,
DURATION_SECONDS: Final = float(os.environ.get("SAMEDIGIT_DURATION_SECONDS", "inf"))  # nor those sent this much later
HEADERS: Final = {"Content-Type": "application/json"}

log = logging.getLogger("samedigit")

try:
    _test = mnist.test_images()
except SamedigitError as error:
    raise SystemExit(f"Error: {error}") from error
BODIES: Final = [
    b'{"images":[' + orjson.dumps(image, option=orjson.OPT_SERIALIZE_NUMPY) + b"]}" for image in _test.images
]
LABELS: Final = _test.labels.tolist()


class NumpyUser(FastHttpUser):
    @task
    def predict(self) -> None:
        ask(self, "/predict/numpy")


class TorchUser(FastHttpUser):
    @task
    def predict(self) -> None:
        ask(self, "/predict/torch")


class TensorflowUser(FastHttpUser):
    @task
    def predict(self) -> None:
        ask(self, "/predict/tensorflow")


class OnnxUser(FastHttpUser):
    @task
    def predict(self) -> None:
        ask(self, "/predict/onnx")


_shuffled = list(range(len(BODIES)))
random.Random(0).shuffle(_shuffled)
_next_image = itertools.cycle(_shuffled)  # one after the other, so that as few as possible are asked twice
_outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)  # path -> right, wrong, failed
_hundredths: defaultdict[str, Counter[int]] = defaultdict(Counter)  # path -> latency in hundredths of a ms
_latencies: list[tuple[float, float, str]] = []  # sent_s, latency_ms, outcome
_started = 0.0  # seconds since the epoch


def ask(user: FastHttpUser, path: str, *, expected: Sequence[int] = LABELS) -> None:
    """Sends the next test digit to `path` and checks the answer; `expected` has the right digit of each test image."""
    image = next(_next_image)
    body: Any = BODIES[image]  # Locust sends bytes too, though it does not say so
    with user.client.post(path, data=body, headers=HEADERS, catch_response=True) as response:
        fault = "no answer" if response.status_code == 0 else check_answer(response.status_code, response.content)
        if fault is None:
            digit = orjson.loads(response.content)["predictions"][0]["digit"]
            response.request_meta["context"]["outcome"] = "right" if digit == expected[image] else "wrong"
        else:
            response.failure(fault)


def check_answer(status: int, content: bytes) -> str | None:
    """What is wrong with the form of an answer to one image, or None."""
    if status != 200:
        return f"status {status}: {content[:200]!r}"
    try:
        (prediction,) = orjson.loads(content)["predictions"]
        digit, probability, probabilities = (prediction[key] for key in ("digit", "probability", "probabilities"))
        if len(probabilities) != CLASSES or abs(sum(probabilities) - 1) > 1e-4:
            return f"not {CLASSES} probabilities that add up to 1: {probabilities}"
        if digit not in range(CLASSES) or probability != probabilities[digit] or probability < max(probabilities):
            return f"digit {digit} with probability {probability} is not the most probable of {probabilities}"
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return f"not one prediction: {content[:200]!r}"
    return None


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def leave_out_what_is_not_served(environment: Environment, **_: Any) -> None:
    global _started
    served = _served(environment)
    if served is not None:
        missing = {f"{backend.title()}User" for backend in BACKENDS if backend not in served}
        for user_class in list(environment.user_classes):
            if user_class.__name__ in missing:
                log.warning("%s is left out: the server does not serve its backend.", user_class.__name__)
                environment.user_classes.remove(user_class)
    _outcomes.clear()
    _hundredths.clear()
    _latencies.clear()
    _started = time.time()


@events.request.add_listener  # type: ignore[untyped-decorator]
def record(name: str, response_time: float, start_time: float, context: dict[str, Any], **_: Any) -> None:
    sent = start_time - _started - WARM_UP_SECONDS
    if not 0 <= sent < DURATION_SECONDS:
        return
    outcome = context.get("outcome", "failed")
    _outcomes[name][outcome] += 1
    _hundredths[name][round(100 * response_time)] += 1
    if LATENCIES:
        _latencies.append((sent, response_time, outcome))


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def report(environment: Environment, **_: Any) -> None:
    served = _served(environment) or {}
    for path, outcomes in _outcomes.items():
        right, wrong = outcomes["right"], outcomes["wrong"]
        stored = served.get(path.removeprefix("/predict/"), "not known")
        if right + wrong:
            log.warning(
                "%s: %.2f %% of %d answers right (stored: %s), %d failed; p50 %.2f ms, p95 %.2f ms, p99 %.2f ms",
                path, 100 * right / (right + wrong), right + wrong, stored, outcomes["failed"],
                *(_percentile_ms(_hundredths[path], percent) for percent in (50, 95, 99)),
            )  # fmt: skip
    if LATENCIES:
        with open(LATENCIES, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("sent_s", "latency_ms", "outcome"))
            writer.writerows(_latencies)


def _percentile_ms(hundredths: Counter[int], percent: int) -> float:
    """Locust's own percentiles are of whole milliseconds."""
    before, wanted = 0, percent / 100 * hundredths.total()
    for latency in sorted(hundredths):
        before += hundredths[latency]
        if before >= wanted:
            return latency / 100
    return float("nan")


def _served(environment: Environment) -> dict[str, str] | None:
    """For each backend, the stored accuracy of the models it serves; None if the server does not say."""
    try:
        with urllib.request.urlopen(f"{environment.host}/models", timeout=10) as response:
            models = orjson.loads(response.read())["models"]
    except (OSError, KeyError, ValueError):
        return None
    served: dict[str, list[str]] = {}
    for model in models:
        for backend, entry in model["backends"].items():
            served.setdefault(backend, []).append(f"{100 * entry['accuracy']:.2f} % for {model['model']}")
    return {backend: ", ".join(entries) for backend, entries in served.items()}
