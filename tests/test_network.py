"""A server put on a network: TLS, keys, pages of other origins, every limit exceeded, and its end. On both ports."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import httpx
import orjson
import pytest
from certificates import make_certificate
from conftest import require, require_recipe
from servers import JSON, WAYS, Server, body, everything_from, raw_infer, read_answer, serving

from digits.mnist import LabelledImages

pytestmark = pytest.mark.slow

MODEL: Final = "torch-relu.onnx"
IMAGE: Final = bytes(784)
KEY: Final = "the-key-of-this-test"
ORIGIN: Final = "https://pages.example"
ONE_MODEL: Final = {"SAMEDIGIT_BACKENDS": "onnx", "SAMEDIGIT_MODELS": "torch-relu"}
PORTS: Final = ("api", "data")


def number(server: Server, port: str) -> int:
    return server.port if port == "api" else server.data_port


def counted(server: Server, series: str, headers: dict[str, str] | None = None) -> float:
    """The sum of the metrics whose lines begin so."""
    with server.client() as client:
        lines = client.get("/metrics", headers=headers).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series))


# TLS, keys and origins


@pytest.fixture(scope="module")
def guarded(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    require("onnxruntime")
    require_recipe("torch-relu")
    certificate = make_certificate(tmp_path_factory.mktemp("certificate"))
    environment = {**ONE_MODEL, "SAMEDIGIT_KEYS": KEY, "SAMEDIGIT_CORS_ORIGINS": ORIGIN, **certificate.variables}
    with serving(trained_home, environment, ca_file=certificate.certificate) as found:
        yield found


@pytest.mark.parametrize("port", PORTS)
def test_both_ports_speak_tls_and_take_a_key_either_way(port: str, guarded: Server, test_set: LabelledImages) -> None:
    sent = body(test_set.images[:3])
    with guarded.client(number(guarded, port)) as client:
        for headers in ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}):
            answer = client.post("/predict/onnx", content=sent, headers=JSON | headers)
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["predictions"]) == 3


@pytest.mark.parametrize("port", PORTS)
def test_a_port_with_tls_answers_nobody_in_plain_text(port: str, guarded: Server) -> None:
    with socket.create_connection(("127.0.0.1", number(guarded, port)), timeout=20) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        with suppress(ConnectionResetError):
            assert b"HTTP/1.1" not in everything_from(connection)


@pytest.mark.parametrize("port", PORTS)
def test_a_half_closed_tls_connection_is_ended(port: str, guarded: Server) -> None:
    before = guarded.log.read_text()
    with guarded.connect(number(guarded, port)) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        connection.unwrap()  # type: ignore[attr-defined]  # it is an SSLSocket
    assert "has no effect" not in guarded.log.read_text()[len(before) :]


@pytest.mark.parametrize("port", PORTS)
def test_everything_but_health_needs_a_key(port: str, guarded: Server) -> None:
    with guarded.client(number(guarded, port)) as client:
        for path in ("/v2/health/live", "/v2/health/ready", "/livez", "/readyz"):
            assert client.get(path).status_code == 200
        asked = [client.get(path) for path in ("/models", "/metrics", "/docs.json", "/v2", f"/v2/models/{MODEL}")]
        asked += [client.post(path, content=b"{}", headers=JSON) for path in ("/predict/onnx", "/echo")]
        asked += [client.get("/")] if port == "api" else []
        asked += [client.get("/models", headers={"X-API-Key": KEY[:-1]}), client.get("/models?key=" + KEY)]
        for answer in asked:
            assert answer.status_code == 401, answer.url
            assert answer.headers["www-authenticate"] == "Bearer"
            assert KEY[:-1] not in answer.text


def test_a_body_without_a_key_is_not_waited_for(guarded: Server) -> None:
    with guarded.connect(guarded.data_port) as connection, connection.makefile("rb") as answers:
        lines = ["POST /predict/onnx HTTP/1.1", "Host: x", "Content-Type: application/json", "Content-Length: 5000000"]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        assert read_answer(answers)[0] == 401


@pytest.mark.parametrize("port", PORTS)
def test_pages_of_a_named_origin_may_ask_and_of_others_not(port: str, guarded: Server) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    with guarded.client(number(guarded, port)) as client:
        answer = client.options("/predict/onnx", headers={"Origin": ORIGIN, **ask})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "x-api-key" in answer.headers["access-control-allow-headers"]
        assert client.options("/predict/onnx", headers={"Origin": "https://other", **ask}).status_code == 403
        for origin, allowed in ((ORIGIN, ORIGIN), ("https://other", None)):
            found = client.get("/models", headers={"Origin": origin, "X-API-Key": KEY})
            assert found.headers.get("access-control-allow-origin") == allowed
            assert found.headers["x-content-type-options"] == "nosniff"
            assert found.headers["cache-control"] == "no-store"


# Limits


@pytest.fixture(scope="module")
def narrow(trained_home: Path) -> Iterator[Server]:
    require("onnxruntime")
    require_recipe("torch-relu")
    limits = {
        "MAX_CONNECTIONS": 12,
        "MAX_CONNECTIONS_PER_ADDRESS": 8,
        "MAX_REQUESTS": 3,
        "MAX_BODY_BYTES": 100_000,
        "MAX_REQUEST_BYTES": 150_000,
        "MAX_HEAD_BYTES": 4000,
        "MAX_TARGET_BYTES": 500,
        "MAX_HEADERS": 20,
        "MAX_IMAGES": 4,
        "HEAD_SECONDS": 2,
        "BODY_SECONDS": 6,
        "MIN_BODY_BYTES_PER_SECOND": 1000,
        "IDLE_SECONDS": 3,
    }
    with serving(
        trained_home, ONE_MODEL | {f"SAMEDIGIT_{name}": str(value) for name, value in limits.items()}
    ) as found:
        yield found


def head(length: int, *headers: str, target: str = "/predict/onnx") -> bytes:
    lines = [
        f"POST {target} HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head(100_001), 413),
        (head(0, "Filler: " + "v" * 4000), 431),
        (head(0, *(f"Filler-{i}: v" for i in range(20))), 431),
        (head(0, target="/" + "x" * 501), 414),
        (b"GET /x", 408),
        (head(50) + b"12", 408),
        (raw_infer(MODEL, IMAGE * 5, "0"), 400),
    ],
    ids=["body", "head", "headers", "target", "head in time", "trickle", "images"],
)
def test_a_request_beyond_a_limit_is_refused(sent: bytes, status: int, port: str, narrow: Server) -> None:
    with narrow.connect(number(narrow, port)) as connection, connection.makefile("rb") as answers:
        connection.sendall(sent)
        came, headers, text = read_answer(answers)
        assert came == status
        assert "error" in orjson.loads(text)
        assert (headers.get(b"connection") == b"close") == (status != 400)


@pytest.mark.parametrize("port", PORTS)
def test_an_idle_connection_is_ended(port: str, narrow: Server) -> None:
    with narrow.connect(number(narrow, port)) as connection:
        connection.settimeout(15)
        assert connection.recv(1) == b""


def test_connections_beyond_the_limit_are_told_so_and_those_there_are_go_on(narrow: Server) -> None:
    """All come from one address, whose limit is the smaller one; over both ports together."""
    settle(narrow)
    before = counted(narrow, 'samedigit_shed_total{reason="connections"}')
    settle(narrow)
    with ExitStack() as stack:
        ports = [narrow.port, narrow.data_port] * 4
        kept = [stack.enter_context(narrow.connect(port)) for port in ports]
        for connection in kept:
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        for port in (narrow.port, narrow.data_port):
            answer = everything_from(stack.enter_context(narrow.connect(port)))
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nretry-after: 1\r\n" in answer
            assert b"8 connections from 127.0.0.1 are open" in answer
        kept[0].sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept[0].recv(1000).startswith(b"HTTP/1.1 200 ")
    settle(narrow)
    assert counted(narrow, 'samedigit_shed_total{reason="connections"}') - before == 2


def settle(server: Server) -> None:
    """Waits until the server has seen that all connections are closed."""
    deadline = time.monotonic() + 10
    while True:
        try:
            if counted(server, "samedigit_connections{") <= 1:  # that which asks
                return
        except (httpx.TransportError, IndexError, ValueError):
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("port", PORTS)
def test_requests_under_way_are_limited_health_and_metrics_answer_and_who_leaves_makes_room(
    port: str, narrow: Server
) -> None:
    settle(narrow)
    before = counted(narrow, 'samedigit_shed_total{reason="requests"}')
    settle(narrow)
    with ExitStack() as stack:
        slow = [stack.enter_context(narrow.connect(number(narrow, port))) for _ in range(3)]
        for connection in slow:
            connection.sendall(head(20_000) + b" " * 5000)
        time.sleep(0.2)
        with narrow.client(number(narrow, port)) as client:
            refused = client.post("/predict/onnx", content=b"{}", headers=JSON)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"] == "3 requests are under way. Try again later."
            assert client.get("/v2/health/ready").status_code == 200
            assert client.get("/metrics").status_code == 200
            slow[0].close()
            time.sleep(0.2)
            assert client.post("/predict/onnx", content=b"{}", headers=JSON).status_code == 400  # it was read
    settle(narrow)
    assert counted(narrow, 'samedigit_shed_total{reason="requests"}') - before == 1


def test_what_bentoml_answers_gives_its_place_back(narrow: Server) -> None:
    with narrow.client() as client:
        for path in ("/", "/nothing", "/schema.json", "/") * 3:  # more than may be under way
            assert client.get(path).status_code in (200, 404), path


@pytest.mark.parametrize("chunked", [False, True])
def test_the_bodies_of_requests_under_way_have_so_much_room(chunked: bool, narrow: Server) -> None:
    settle(narrow)
    with ExitStack() as stack:
        first = stack.enter_context(narrow.connect(narrow.data_port))
        first.sendall(head(100_000) + b" " * 9_000)
        time.sleep(0.2)
        second = stack.enter_context(narrow.connect(narrow.data_port))
        if chunked:
            second.sendall(b"POST /predict/onnx HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            second.sendall(b"Transfer-Encoding: chunked\r\n\r\n" + b"2710\r\n%s\r\n" % (b" " * 10_000) * 6)
        else:
            second.sendall(head(60_000))
        with second.makefile("rb") as answers:
            status, headers, text = read_answer(answers)
        assert status == 503
        assert headers[b"retry-after"] == b"1"
        assert b"fill their room of 150000 bytes" in text
    settle(narrow)


def test_a_clients_rate_is_limited(trained_home: Path) -> None:
    with serving(trained_home, {**ONE_MODEL, "SAMEDIGIT_MAX_RATE": "5"}) as server, server.client() as client:
        statuses = [client.get("/v2").status_code for _ in range(12)]
        assert statuses[:5] == [200] * 5
        assert 429 in statuses
        late = client.get("/v2")
        if late.status_code == 429:
            assert late.headers["retry-after"] == "1"
        assert client.get("/v2/health/live").status_code == 200
        time.sleep(1.1)
        assert client.get("/v2").status_code == 200


# The end


@pytest.mark.parametrize("by_bentoml", WAYS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_ends_is_not_ready_takes_nobody_and_answers_what_it_accepted(
    number: signal.Signals, by_bentoml: bool, trained_home: Path
) -> None:
    with serving(trained_home, ONE_MODEL, by_bentoml=by_bentoml) as server, ExitStack() as stack:
        half_sent = [stack.enter_context(server.connect(port)) for port in (server.port, server.data_port)]
        asked = raw_infer(MODEL, IMAGE, "0")
        probe = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
        for connection in half_sent:
            connection.sendall(asked[:-100])
        time.sleep(0.3)
        server.process.send_signal(number)
        time.sleep(1)
        # By `bentoml serve` the socket of its port is the supervisor's too: until that ends, the kernel takes connections.
        for port in (server.data_port,) if by_bentoml else (server.data_port, server.port):
            with pytest.raises(ConnectionRefusedError):
                server.connect(port).close()
        answers = []
        # What is pipelined behind the last answer is dropped: nobody takes it for answered.
        threads = [threading.Thread(target=lambda one=one: answers.append(everything_from(one))) for one in half_sent]
        for connection in half_sent:
            connection.sendall(asked[-100:] + probe)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=10)
        assert len(answers) == 2
        for answer in answers:
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in answer
            assert answer.count(b"HTTP/1.1 ") == 1
        assert server.process.wait(timeout=10) == 0
        assert "Traceback" not in server.log.read_text()
