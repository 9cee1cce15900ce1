"""HTTP/1.1 clause by clause: the machine alone, and both ports of a real server.

What is refused is the last of its connection: a request behind it is never answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from socket import SHUT_WR
from typing import BinaryIO, Final, NamedTuple

import pytest
from conformance import BODY_BYTES, CASES, HEAD_BYTES, HEADERS, PATH, TARGET_BYTES, Case, get
from conftest import require_recipe
from servers import WAYS, Server, serving

from serving.errors import RequestError
from serving.messages import STATUS, Answer, Head
from serving.ports.http1 import Body, Machine, State, limits_of
from serving.settings import read_settings

SECOND: Final = get("X-Second: yes")  # what follows each case on its connection
LIMITS: Final = limits_of(read_settings({"SAMEDIGIT_MAX_BODY_BYTES": str(BODY_BYTES)}))
# Names without backslashes, as in conftest.
NAMES: Final = [f"{case.clause} {case.name}".encode("ascii", "backslashreplace").decode() for case in CASES]
every_case = pytest.mark.parametrize("case", CASES, ids=[name.replace("\\", "|") for name in NAMES])


class Found(NamedTuple):
    """What a machine made of the bytes of one connection."""

    requests: list[Head]
    bodies: list[bytes]
    refused: int | None  # the status
    state: State


def run(sent: bytes, *, accepts: bool = True, bytes_at_once: int = 1 << 20) -> Found:
    """Answers each request as soon as may be: once it is whole, or else (`accepts` is false) once its head is read."""
    machine = Machine(LIMITS, 0)
    found = Found([], [], None, State.IDLE)
    for start in range(0, len(sent), bytes_at_once):
        machine.receive(sent[start : start + bytes_at_once], 0)
        try:
            while event := machine.next_event(0):
                if isinstance(event, Body):
                    found.bodies.append(event.data)
                    machine.answer(Answer(200, b""), 0, date=b"")
                else:
                    found.requests.append(event)
                    if accepts:
                        machine.accept(0)
                    else:
                        machine.answer(Answer(405, b""), 0, date=b"")
        except RequestError as error:
            machine.refuse(error, 0, date=b"")
            found = found._replace(refused=STATUS[error.kind])
    return found._replace(state=machine.state)


def test_there_are_enough_cases_and_no_two_are_the_same() -> None:
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({(case.sent, case.status) for case in CASES}) > 0.98 * len(CASES)


def test_the_cases_are_for_the_settings_own_limits() -> None:
    assert (LIMITS.head_bytes, LIMITS.target_bytes, LIMITS.headers) == (HEAD_BYTES, TARGET_BYTES, HEADERS)


@every_case
@pytest.mark.parametrize("bytes_at_once", [1 << 20, 7], ids=["whole", "in pieces"])
def test_the_machine_follows_the_clause(case: Case, bytes_at_once: int) -> None:
    found = run(case.sent + SECOND, bytes_at_once=bytes_at_once)
    if case.status is None:
        first = found.requests[0]
        assert found.bodies[0] == case.body
        assert case.path in (None, first.path)
        assert found.refused is None
        assert b"x-second" not in first.headers
        if case.goes_on is not None:
            assert [request.path for request in found.requests[1:]] == [PATH] * case.goes_on
            assert (found.state is State.IDLE) == case.goes_on
    else:
        assert found.refused == case.status
        assert found.bodies == []
        assert found.state is State.LINGERING
        # Where the head was right, the door has seen it; what came behind it, never.
        assert len(found.requests) <= 1


@every_case
def test_a_request_answered_before_its_body_was_read_is_followed_by_its_own_successor(case: Case) -> None:
    found = run(case.sent + SECOND, accepts=False)
    if case.status is None and case.goes_on is not None:
        assert [(b"x-second" in request.headers) for request in found.requests] == [False, True][: 1 + case.goes_on]
    else:
        assert len(found.requests) <= 1


# The same, over sockets


@pytest.fixture(scope="module", params=WAYS)
def server(trained_home: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    require_recipe("numpy-sigmoid")
    environment = {
        "SAMEDIGIT_BACKENDS": "numpy",
        "SAMEDIGIT_MODELS": "numpy-sigmoid",
        "SAMEDIGIT_MAX_BODY_BYTES": str(BODY_BYTES),
    }
    with serving(trained_home, environment, by_bentoml=request.param) as found:
        yield found


def statuses(answers: BinaryIO, *, first_has_body: bool) -> Iterator[tuple[int, bool]]:
    """Of every final answer until the server closes: its status, and whether it says that it is the last."""
    has_body = first_has_body
    while line := answers.readline():
        assert line.startswith(b"HTTP/1.1 "), line
        status = int(line.split()[1])
        headers = {}
        while header := answers.readline().strip():
            name, _, value = header.partition(b":")
            headers[name.lower()] = value.strip()
        if status >= 200:
            if has_body:
                answers.read(int(headers[b"content-length"]))
            has_body = True
            yield status, headers.get(b"connection") == b"close"


@pytest.mark.slow
@pytest.mark.parametrize("port", ["api", "data"])
@every_case
def test_a_server_follows_the_clause(server: Server, port: str, case: Case) -> None:
    if port == "data" and case.name == "the preface of HTTP/2":
        return  # which is spoken there: test_streams.py
    with server.connect(server.port if port == "api" else server.data_port) as connection:
        connection.sendall(case.sent + SECOND)
        if case.status is None and case.goes_on is not False:
            connection.shutdown(
                SHUT_WR
            )  # where it is False, or the request was refused, the server must close by itself
        with connection.makefile("rb") as answers:
            found = list(statuses(answers, first_has_body=not case.sent.startswith(b"HEAD ")))
    if case.status is not None:
        assert found == [(case.status, True)]
        return
    first, last = found[0]
    assert first in (200, 400, 404, 405)  # the door's answer
    if case.sent.lstrip().startswith((b"GET /v2/", b"HEAD /v2/")):
        assert first == 200
    if case.goes_on is None:
        assert [status for status, _ in found[1:]] in ([], [200])
    elif case.goes_on:
        assert not last
        assert [status for status, _ in found[1:]] == [200]
    else:
        assert found == [(first, True)]
