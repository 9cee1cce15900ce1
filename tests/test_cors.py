"""CORS: whose pages may ask, and what a browser is told of it."""

from __future__ import annotations

import pytest

from serving.cors import SECURITY_LINES, Cors
from serving.errors import Kind, RequestError

HERE = b"https://here.example"
ASKS = {b"origin": HERE, b"access-control-request-method": b"POST"}


def fields(lines: bytes) -> dict[str, str]:
    assert lines == b"" or lines.endswith(b"\r\n")
    found = [line.partition(": ") for line in lines.decode().split("\r\n")[:-1]]
    assert len({name for name, _, _ in found}) == len(found)
    return {name: value for name, _, value in found}


def test_without_origins_nothing_is_said() -> None:
    cors = Cors(())
    assert cors.lines({b"origin": HERE}) == b""
    assert cors.preflight("OPTIONS", ASKS) is None


def test_a_page_of_a_named_origin_may_read_the_answer_and_the_headers_it_needs() -> None:
    cors = Cors(("https://other.example", HERE.decode()))
    assert fields(cors.lines({b"origin": HERE})) == {
        "access-control-allow-origin": "https://here.example",
        "access-control-expose-headers": "inference-header-content-length, retry-after",
        "vary": "origin",
    }


@pytest.mark.parametrize(
    "origin",
    [b"https://elsewhere.example", b"http://here.example", b"https://here.example:443", b"https://here.example.evil", b"null",
     b"HTTPS://HERE.EXAMPLE", b"", b"https://here.example, https://here.example", b"*", b"\xff"],
)  # fmt: skip
def test_a_page_of_another_origin_may_not_and_a_cache_knows_that_answers_differ(origin: bytes) -> None:
    cors = Cors((HERE.decode(),))
    assert fields(cors.lines({b"origin": origin})) == {"vary": "origin"}
    with pytest.raises(RequestError, match="Pages of this origin may not ask") as refused:
        cors.preflight("OPTIONS", {**ASKS, b"origin": origin})
    assert refused.value.kind is Kind.FORBIDDEN
    assert not origin or origin.decode("latin-1") not in str(refused.value)


def test_without_an_origin_the_answer_still_varies() -> None:
    assert fields(Cors((HERE.decode(),)).lines({})) == {"vary": "origin"}


def test_a_star_is_every_page() -> None:
    cors = Cors(("*",))
    for headers in ({}, {b"origin": HERE}, {b"origin": b"null"}):
        assert fields(cors.lines(headers)) == {
            "access-control-allow-origin": "*",
            "access-control-expose-headers": "inference-header-content-length, retry-after",
        }
    assert cors.preflight("OPTIONS", {**ASKS, b"origin": b"null"}) is not None


@pytest.mark.parametrize("origins", [("*",), (HERE.decode(),), (HERE.decode(), "*")])
def test_a_preflight_names_methods_and_headers(origins: tuple[str, ...]) -> None:
    answer = Cors(origins).preflight("OPTIONS", ASKS)
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"")
    found = dict(answer.headers)
    assert found[b"access-control-allow-methods"] == b"GET, POST"
    allowed = found[b"access-control-allow-headers"].split(b", ")
    assert {b"authorization", b"x-api-key", b"content-type", b"inference-header-content-length"} <= set(allowed)
    assert int(found[b"access-control-max-age"]) > 0


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", ASKS),
        ("GET", ASKS),
        ("OPTIONS", {}),
        ("OPTIONS", {b"origin": HERE}),
        ("OPTIONS", {b"access-control-request-method": b"POST"}),
    ],
)
def test_what_is_no_preflight_goes_its_usual_way(method: str, headers: dict[bytes, bytes]) -> None:
    for origins in (("*",), (HERE.decode(),)):
        assert Cors(origins).preflight(method, headers) is None


def test_json_is_neither_sniffed_nor_kept() -> None:
    assert fields(SECURITY_LINES) == {"x-content-type-options": "nosniff", "cache-control": "no-store"}
