"""Who may come in, and how many at once: decided by a request's head, without a server."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from serving import routes
from serving.admission import REMEMBERED_CLIENTS, Admission, Rate
from serving.errors import Kind, RequestError
from serving.messages import Answer, Exchange, Head
from serving.settings import read_settings

KEY = "k" * 20
CONTROL_KEY = "c" * 20
INFER = "/v2/models/torch-relu.onnx/infer"
LOAD = "/v2/repository/models/torch-relu.onnx/load"


class Own:
    """An admission with settings, and what it counted as shed."""

    def __init__(self, **settings: str) -> None:
        self.shed: Counter[str] = Counter()

        def count(reason: str) -> None:
            self.shed[reason] += 1

        environment = {f"SAMEDIGIT_{name.upper()}": value for name, value in settings.items()}
        self.admission = Admission(read_settings(environment), count)

    def ask(
        self,
        path: str = INFER,
        method: str = "POST",
        *,
        length: int | None = 100,
        address: str = "10.0.0.1",
        key: str | None = None,
    ) -> Exchange:
        headers = {} if key is None else {b"authorization": b"Bearer " + key.encode()}
        head = Head(method, path.encode(), path, "", headers, False, length, True, False)
        exchange = Exchange(head, address=address, port="data", reply=nobody)
        route, exchange.parameters = routes.find(method, path)
        self.admission.check_key(exchange, route)
        self.admission.admit(exchange, route)
        return exchange

    def refusal(self, *arguments: str, **named: object) -> RequestError:
        with pytest.raises(RequestError) as refused:
            self.ask(*arguments, **named)  # type: ignore[arg-type]
        return refused.value


def nobody(exchange: Exchange, answer: Answer) -> None:
    raise AssertionError("admission answers nothing itself")


def test_requests_under_way_are_limited_and_an_answer_makes_room() -> None:
    own = Own(max_requests="2")
    first, _ = own.ask(), own.ask()
    refused = own.refusal()
    assert refused.kind is Kind.BUSY
    assert refused.retry_after_seconds == 1
    assert str(refused) == "2 requests are under way. Try again later."
    assert own.shed == {"requests": 1}
    own.admission.release(first)
    own.ask()
    assert own.admission.requests == 2


def test_a_place_is_freed_once() -> None:
    own = Own(max_requests="2")
    first, _ = own.ask(), own.ask()
    for _ in range(3):
        own.admission.release(first)
    assert own.admission.requests == 1
    assert own.admission.request_bytes == 100


def test_the_room_for_bodies_is_limited_by_what_is_announced() -> None:
    own = Own(max_body_bytes="600", max_request_bytes="1000")
    first = own.ask(length=600)
    refused = own.refusal(length=401)
    assert refused.kind is Kind.BUSY
    assert refused.retry_after_seconds == 1
    assert own.shed == {"bytes": 1}
    assert own.admission.requests == 1  # who was refused holds no place
    own.ask(length=400)
    own.admission.release(first)
    assert (own.admission.requests, own.admission.request_bytes) == (1, 400)


def test_a_chunked_body_takes_room_as_it_grows() -> None:
    own = Own(max_body_bytes="1000", max_request_bytes="1000")
    one, other = own.ask(length=None), own.ask(length=None)
    own.admission.reserve(one, 400)
    own.admission.reserve(one, 500)
    own.admission.reserve(other, 500)
    assert own.admission.request_bytes == 1000
    with pytest.raises(RequestError) as refused:
        own.admission.reserve(other, 501)
    assert refused.value.kind is Kind.BUSY
    own.admission.release(other)
    assert own.admission.request_bytes == 500
    own.admission.release(one)
    assert (own.admission.requests, own.admission.request_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("path", "method"), [("/v2/health/live", "GET"), ("/v2/health/ready", "GET"), ("/metrics", "GET")]
)
def test_health_and_metrics_find_room_where_nothing_else_does(path: str, method: str) -> None:
    own = Own(max_requests="1", max_rate="1")
    own.ask()
    assert own.refusal().kind is Kind.TOO_OFTEN
    for _ in range(5):
        own.ask(path, method, length=0)
    assert own.admission.requests == 1


def test_with_keys_a_request_needs_one_and_health_none() -> None:
    own = Own(keys=KEY)
    assert own.refusal().kind is Kind.UNAUTHENTICATED
    assert own.refusal(key="x" * 20).kind is Kind.UNAUTHENTICATED
    assert own.refusal("/metrics", "GET").kind is Kind.UNAUTHENTICATED
    assert own.ask(key=KEY).key is not None
    own.ask("/v2/health/live", "GET")
    own.ask("/v2/health/ready", "GET")


def test_control_is_off_unless_it_is_turned_on() -> None:
    for own in (Own(), Own(keys=KEY)):
        refused = own.refusal(LOAD, key=KEY)
        assert refused.kind is Kind.FORBIDDEN
        assert "SAMEDIGIT_CONTROL=on" in str(refused)


def test_control_needs_a_key_of_its_own() -> None:
    own = Own(keys=KEY, control="on", control_keys=CONTROL_KEY)
    assert own.refusal(LOAD).kind is Kind.UNAUTHENTICATED
    assert own.refusal(LOAD, key=KEY).kind is Kind.UNAUTHENTICATED
    own.ask(LOAD, key=CONTROL_KEY)
    assert own.refusal(key=CONTROL_KEY).kind is Kind.UNAUTHENTICATED


def test_one_clients_rate_is_limited_and_not_anothers() -> None:
    own = Own(max_rate="3")
    for _ in range(3):
        own.ask(address="10.0.0.1")
    refused = own.refusal(address="10.0.0.1")
    assert refused.kind is Kind.TOO_OFTEN
    assert refused.retry_after_seconds == 1
    assert own.shed == {"rate": 1}
    own.ask(address="10.0.0.2")


def test_with_keys_the_rate_is_the_keys_wherever_it_comes_from() -> None:
    own = Own(max_rate="2", keys=f"{KEY},{KEY}2")
    own.ask(address="10.0.0.1", key=KEY)
    own.ask(address="10.0.0.2", key=KEY)
    assert own.refusal(address="10.0.0.3", key=KEY).kind is Kind.TOO_OFTEN
    own.ask(address="10.0.0.1", key=f"{KEY}2")


def test_a_rate_refills_steadily_and_never_beyond_a_second() -> None:
    rate = Rate(4)
    assert [rate.wait_seconds("a", 10.0) for _ in range(4)] == [0, 0, 0, 0]
    assert rate.wait_seconds("a", 10.0) == pytest.approx(0.25)
    assert rate.wait_seconds("a", 10.125) == pytest.approx(0.125)
    assert rate.wait_seconds("a", 10.25) == 0
    assert rate.wait_seconds("a", 10.25) > 0
    assert [rate.wait_seconds("a", 99.0) for _ in range(4)] == [0, 0, 0, 0]
    assert rate.wait_seconds("a", 99.0) > 0


def test_clients_of_whom_nothing_was_heard_are_forgotten() -> None:
    rate = Rate(1)
    for i in range(3 * REMEMBERED_CLIENTS):
        assert rate.wait_seconds(str(i), float(i)) == 0
    assert len(rate._buckets) <= REMEMBERED_CLIENTS
    for i in range(3 * REMEMBERED_CLIENTS):  # all at once
        rate.wait_seconds(f"again {i}", 1e6)
    assert len(rate._buckets) <= REMEMBERED_CLIENTS


def test_those_who_asked_within_a_second_are_not_forgotten_with_the_others() -> None:
    rate = Rate(1)
    for i in range(REMEMBERED_CLIENTS - 3):
        rate.wait_seconds(str(i), 0.0)
    for client, now in (("before", 9.0), ("a second ago", 9.5), ("recent", 9.75)):
        rate.wait_seconds(client, now)
    assert len(rate._buckets) == REMEMBERED_CLIENTS
    assert rate.wait_seconds("recent", 10.5) == pytest.approx(0.25)  # who is known makes nobody be forgotten
    assert len(rate._buckets) == REMEMBERED_CLIENTS
    assert rate.wait_seconds("new", 10.5) == 0
    assert set(rate._buckets) == {"recent", "new"}
    assert rate.wait_seconds("recent", 10.5) == pytest.approx(0.25)


def test_where_all_have_asked_within_a_second_all_are_forgotten() -> None:
    rate = Rate(1)
    for i in range(REMEMBERED_CLIENTS + 1):
        assert rate.wait_seconds(str(i), 1.0) == 0
    assert set(rate._buckets) == {str(REMEMBERED_CLIENTS)}


def test_keys_may_stand_in_files(tmp_path: Path) -> None:
    for name, key in (("keys", KEY), ("control", CONTROL_KEY)):
        (tmp_path / name).write_text(key + "\n")
        (tmp_path / name).chmod(0o600)
    files = {"keys_file": str(tmp_path / "keys"), "control_keys_file": str(tmp_path / "control")}
    own = Own(control="on", **files)
    assert own.ask(key=KEY).key is not None
    own.ask(LOAD, key=CONTROL_KEY)
    assert own.refusal(key=CONTROL_KEY).kind is Kind.UNAUTHENTICATED
    assert own.refusal(LOAD, key=KEY).kind is Kind.UNAUTHENTICATED


def test_what_is_released_holds_nothing_and_says_so() -> None:
    own = Own()
    one = own.ask(length=300)
    assert (one.held, one.reserved_bytes) == (True, 300)
    own.admission.release(one)
    assert (one.held, one.reserved_bytes) == (False, 0)


def test_each_refusal_says_which_limit_it_was_and_what_helps() -> None:
    assert str(Own(max_body_bytes="600", max_request_bytes="600").refusal(length=601)).endswith(
        " 600 bytes. Try again later."
    )
    own = Own(max_rate="1")
    own.ask()
    assert str(own.refusal()) == "At most 1 requests a second, please. Try again later."
    assert str(Own().refusal(LOAD)) == (
        "Models are neither loaded nor unloaded over the network here. SAMEDIGIT_CONTROL=on allows it, with a key of "
        "SAMEDIGIT_CONTROL_KEYS."
    )
