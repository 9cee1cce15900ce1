"""The model of servers as queues, held against formulas, and its autoscaler against what Kubernetes' would do."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import PROJECT

from benchmarks import queueing
from benchmarks.capacity import CASES, fitted
from benchmarks.queueing import LEAST, MOST, PERIOD, TARGET, Service, Worker, burst, latencies, poisson

ONE_BY_ONE = Service(turn=0.0, each=0.001, batch=1, waiting=1_000_000)
AUTOSCALER: Path = PROJECT / "deploy/kubernetes/components/autoscale-requests/autoscaler.yaml"


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
def test_one_by_one_it_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    found, shed = latencies(ONE_BY_ONE, rate=1000 * load, workers=1, seconds=400)
    expected = 0.001 * (1 + load / (2 * (1 - load)))  # M/D/1
    assert found.mean() == pytest.approx(expected, rel=0.04)
    assert found.min() == pytest.approx(0.001)
    assert shed == 0


def test_two_workers_are_two_queues() -> None:
    found, _ = latencies(ONE_BY_ONE, rate=1200, workers=2, seconds=300)
    assert found.mean() == pytest.approx(0.001 * (1 + 0.6 / 0.8), rel=0.04)
    assert len(found) == pytest.approx(1200 * 300, rel=0.01)


def test_batches_carry_what_one_by_one_could_not() -> None:
    together = Service(turn=0.001, each=0.0, batch=4, waiting=1000)
    assert together.rate == pytest.approx(4000)
    found, shed = latencies(together, rate=3000, workers=1, seconds=100)
    assert shed == 0
    assert found.max() < 0.02
    alone, shed = latencies(Service(turn=0.001, each=0.0, batch=1, waiting=1000), rate=3000, workers=1, seconds=100)
    assert shed / (shed + len(alone)) == pytest.approx(2 / 3, rel=0.03)


def test_who_finds_the_queue_full_is_shed_and_nobody_waits_longer_than_the_queue() -> None:
    short = Service(turn=0.0, each=0.001, batch=1, waiting=10)
    found, shed = latencies(short, rate=2000, workers=1, seconds=100)
    assert shed / (shed + len(found)) == pytest.approx(0.5, rel=0.03)
    assert found.max() <= 0.0111


def test_work_looked_at_twice_is_the_same() -> None:
    service = Service(turn=0.0005, each=0.0004, batch=3, waiting=20)
    came = poisson(1800, 0, 20, np.random.default_rng(1))
    at_once = Worker(service).work(came.tolist(), math.inf)
    worker = Worker(service)
    first = worker.work(came[came < 7.3].tolist(), 7.3)
    second = worker.work(came[came >= 7.3].tolist(), math.inf)
    assert first[0] + second[0] == pytest.approx(at_once[0])
    assert first[1] + second[1] == at_once[1]


def test_a_burst_doubles_the_pods_until_they_do_and_they_go_one_by_one_after_five_minutes() -> None:
    slow = Service(turn=0.0, each=0.02, batch=1, waiting=64)  # 50 requests a second
    moments = burst(slow, lambda at: 250.0 if 120 <= at < 480 else 20.0, seconds=1200)
    pods = [moment.pods for moment in moments]
    assert pods[:9] == [LEAST] * 9  # what the ninth period saw is decided at its end
    top = pods.index(MOST)
    assert all(later <= 2 * earlier for earlier, later in pairwise(pods[: top + 1]))
    assert pods[top : top + queueing.DOWN_AFTER] == [MOST] * queueing.DOWN_AFTER
    going = [number for number, (earlier, later) in enumerate(pairwise(pods)) if later < earlier]
    assert all(pods[number] - pods[number + 1] == 1 for number in going)
    assert all(later - earlier >= queueing.DOWN_EVERY for earlier, later in pairwise(going))
    assert len(going) >= 5
    assert sum(moment.shed for moment in moments[top + 1 : round(480 / PERIOD)]) == 0


def test_where_connections_stay_new_pods_take_over_slowly() -> None:
    slow = Service(turn=0.0, each=0.02, batch=1, waiting=64)

    def rate(at: float) -> float:
        return 250.0 if at >= 60 else 20.0

    by_request = burst(slow, rate, seconds=600)
    stays = burst(slow, rate, seconds=600, connection_seconds=300)
    assert sum(moment.shed for moment in stays) > 1.5 * sum(moment.shed for moment in by_request)


def test_the_autoscaler_has_the_manifests_numbers() -> None:
    spec = yaml.safe_load(AUTOSCALER.read_text())["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (LEAST, MOST)
    (metric,) = spec["metrics"]
    assert float(metric["pods"]["target"]["averageValue"]) == TARGET
    up, down = spec["behavior"]["scaleUp"], spec["behavior"]["scaleDown"]
    assert up == {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": PERIOD}],
    }
    assert down["stabilizationWindowSeconds"] == queueing.DOWN_AFTER * PERIOD
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": queueing.DOWN_EVERY * PERIOD}]


def test_a_fitted_worker_carries_what_was_measured() -> None:
    batched, alone, _, two = CASES
    found = fitted(batched, rate=5_000, alone=0.0003)
    assert found.rate == pytest.approx(5_000)
    assert (found.turn + found.each) == pytest.approx(0.0003)
    assert fitted(alone, rate=2500, alone=0.0006).rate == pytest.approx(2500)
    assert fitted(two, rate=4400, alone=0.0006).rate == pytest.approx(2200)
