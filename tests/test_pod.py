"""A pod's end in network namespaces, by the numbers of its manifest: SIGTERM while proxies still send, slow clients."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import pytest
from conftest import PROJECT, bentoml_home
from pod_life import DIGIT, SLOW
from small_models import keep
from test_deploy import KUBERNETES, documents, missing, pod_of, variables

pytestmark = pytest.mark.slow

LATE_SECONDS: Final = 4.0  # until every proxy has heard that a pod is going
Plan = dict[str, Any]


def plan() -> Plan:
    """What the manifest says of a pod's beginning and end."""
    [deployment] = documents((KUBERNETES / "pods/deployment.yaml").read_text())
    pod = pod_of(deployment)
    [container] = pod["containers"]
    probe = container["readinessProbe"]
    [port] = [one["containerPort"] for one in container["ports"] if one["name"] == probe["httpGet"]["port"]]
    return {
        "environment": variables(container),
        "sleep": container["lifecycle"]["preStop"]["sleep"]["seconds"],
        "termination": pod["terminationGracePeriodSeconds"],
        "readiness": {
            "path": probe["httpGet"]["path"],
            "port": port,
            "timeout": probe["timeoutSeconds"],
            "period": probe["periodSeconds"],
        },
        "late": LATE_SECONDS,
    }


def mistaken() -> dict[str, Plan]:
    """The manifest with a mistake in it; each must be seen, or what was seen without says nothing."""
    as_it_is = plan()
    hasty = {**as_it_is["environment"], "SAMEDIGIT_GRACE_SECONDS": "1"}
    return {
        "as it is": as_it_is,
        "without the sleep": {**as_it_is, "sleep": 0},
        "with a second's grace": {**as_it_is, "environment": hasty},
        "killed too early": {**as_it_is, "termination": as_it_is["sleep"] + 2},
    }


def namespace() -> list[str]:
    """The beginning of a command that runs in a network namespace of its own, and may make others in it."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    words = ["unshare", *user, "--net"]
    if shutil.which("unshare") is None or subprocess.run([*words, "ip", "link"], capture_output=True).returncode != 0:
        missing(f"a network namespace: {' '.join(words)} ip link")
    return words


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Plan]]]:
    """What became of a pod and its clients by each manifest; all are played at once."""
    command = [*namespace(), sys.executable, str(PROJECT / "tests/pod_life.py")]
    with bentoml_home(tmp_path_factory.mktemp("pod") / "bentoml") as home:
        keep("torch-relu", DIGIT)

    def play(one: Plan) -> Plan:
        done = subprocess.run(
            [*command, str(home), json.dumps(one)],
            env={**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    with ThreadPoolExecutor() as pool:
        yield {name: pool.submit(play, one) for name, one in mistaken().items()}


def test_no_request_fails_while_a_pod_goes_and_it_ends_well_within_its_grace(lives: dict[str, Future[Plan]]) -> None:
    assert plan()["sleep"] > LATE_SECONDS
    life = lives["as it is"].result()
    assert life["failed"] == []
    answered = life["answered"]
    assert answered.keys() == {
        "new connection", "kept connection", "gRPC", "sends slowly", "takes slowly", "abandoned",
    }  # fmt: skip
    assert answered["sends slowly"] == answered["takes slowly"] == SLOW
    assert min(answered[one] for one in ("new connection", "kept connection", "gRPC")) > 50
    assert life["again"] <= 4  # each that is kept can meet its end once
    assert life["code"] == 0
    assert life["seconds"] < plan()["termination"], "the kubelet would have killed it"


def test_from_sigterm_on_no_probe_finds_it_ready(lives: dict[str, Future[Plan]]) -> None:
    assert lives["as it is"].result()["ready_when_terminated"] == 0


def test_without_the_sleep_requests_fail_that_proxies_still_send(lives: dict[str, Future[Plan]]) -> None:
    failed = lives["without the sleep"].result()["failed"]
    assert any(one.startswith("new connection: ConnectionRefusedError") for one in failed)


def test_with_too_short_a_grace_slow_clients_are_cut_off(lives: dict[str, Future[Plan]]) -> None:
    life = lives["with a second's grace"].result()
    assert {one.partition(":")[0] for one in life["failed"]} == {"sends slowly"}
    assert len(life["failed"]) == SLOW
    assert life["code"] == 0


def test_a_kubelet_that_waits_too_short_kills_it(lives: dict[str, Future[Plan]]) -> None:
    life = lives["killed too early"].result()
    assert life["code"] == -9
    assert sum(one.startswith("sends slowly") for one in life["failed"]) == SLOW
