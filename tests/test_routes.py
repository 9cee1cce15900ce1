"""The table of routes: what it finds for a path, and what it says where it finds nothing."""

from __future__ import annotations

import pytest

from serving import routes
from serving.errors import Kind, RequestError
from serving.protocols import v2_control
from serving.routes import CALLS, FOREIGN, ROUTES, find, find_call, owns


@pytest.mark.parametrize(
    ("method", "path", "pattern", "parameters"),
    [
        ("POST", "/predict/onnx", "/predict/{backend}", {"backend": "onnx"}),
        ("POST", "/predict/", "/predict/{backend}", {"backend": ""}),
        ("POST", "/predict/a b", "/predict/{backend}", {"backend": "a b"}),
        ("GET", "/v2", "/v2", {}),
        ("GET", "/v2/health/live", "/v2/health/live", {}),
        ("GET", "/v2/models/stats", "/v2/models/stats", {}),
        ("GET", "/v2/models/stats/stats", "/v2/models/{model}/stats", {"model": "stats"}),
        ("GET", "/v2/models/m.onnx", "/v2/models/{model}", {"model": "m.onnx"}),
        ("GET", "/v2/models/m.onnx/versions/7", "/v2/models/{model}/versions/{version}", {"model": "m.onnx", "version": "7"}),
        ("POST", "/v2/models/m/infer", "/v2/models/{model}/infer", {"model": "m"}),
        (
            *("POST", "/v2/models/m/versions/7/infer", "/v2/models/{model}/versions/{version}/infer"),
            {"model": "m", "version": "7"},
        ),
        ("POST", "/v2/repository/models/m/unload", "/v2/repository/models/{model}/unload", {"model": "m"}),
        ("GET", "/metrics", "/metrics", {}),
        ("GET", "/ui", "/ui", {}),
        ("GET", "/ui/", "/ui/", {}),
        ("GET", "/ui/examples", "/ui/examples", {}),
        ("GET", "/ui/page.js", "/ui/{file}", {"file": "page.js"}),
    ],
)  # fmt: skip
def test_a_path_leads_to_its_route_with_the_pattern_s_parameters(
    method: str, path: str, pattern: str, parameters: dict[str, str]
) -> None:
    for _ in range(2):  # the second time from memory
        route, found = find(method, path)
        assert (route.method, route.pattern, dict(found)) == (method, pattern, parameters)
        assert owns(path)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.pattern}")
def test_every_route_is_found_by_its_own_pattern_and_its_door_is_owned(route: routes.Route) -> None:
    assert find(route.method, route.pattern)[0] is route
    assert owns(route.pattern)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.answers)
def test_a_call_is_found_by_its_path_and_refused_over_http_1(call: routes.Route) -> None:
    assert find_call(call.pattern) is call
    with pytest.raises(RequestError) as refused:
        find("POST", call.pattern)
    assert refused.value.kind is Kind.MEDIA_TYPE
    assert str(refused.value) == (
        f"{call.pattern} is a call of gRPC, which comes over HTTP/2 with content-type: application/grpc."
    )


def test_a_call_that_is_none_is_unsupported() -> None:
    path = "/inference.GRPCInferenceService/" + "Model" * 100
    with pytest.raises(RequestError) as refused:
        find_call(path)
    assert (refused.value.kind, str(refused.value)) == (Kind.UNSUPPORTED, f"There is no method {path[:100]}.")


def test_head_is_answered_where_get_is() -> None:
    assert find("HEAD", "/models") == find("GET", "/models")
    with pytest.raises(RequestError) as refused:
        find("HEAD", "/echo")
    assert refused.value.kind is Kind.WRONG_METHOD


@pytest.mark.parametrize(
    ("method", "path", "allow", "message"),
    [
        ("GET", "/echo", "POST", "/echo takes POST, got GET."),
        ("PUT", "/predict/onnx", "POST", "/predict/onnx takes POST, got PUT."),
        ("POST", "/models", "GET, HEAD", "/models takes GET, got POST."),
        ("POST", "/v2/models/stats", "GET, HEAD", "/v2/models/stats takes GET, got POST."),
        ("get", "/models", "GET, HEAD", "/models takes GET, got get."),
        ("GET", "/v2/repository/index", "POST", "/v2/repository/index takes POST, got GET."),
        ("X" * 10_000, "/echo", "POST", "/echo takes POST, got " + "X" * 20 + "."),
    ],
)
def test_another_method_is_refused_and_those_that_are_right_are_allowed(
    method: str, path: str, allow: str, message: str
) -> None:
    with pytest.raises(RequestError) as refused:
        find(method, path)
    assert (refused.value.kind, refused.value.allow, str(refused.value)) == (Kind.WRONG_METHOD, allow, message)


@pytest.mark.parametrize("method", ["GET", "POST", "X" * 10_000])
@pytest.mark.parametrize(
    ("path", "owned", "message"),
    [
        ("/v2/", True, "The protocol has nothing at /v2/."),
        ("/v2/models", True, "The protocol has nothing at /v2/models."),
        ("/v2/models/a/b", True, "The protocol has nothing at /v2/models/a/b."),
        ("/v2/" + "x" * 9000, True, "The protocol has nothing at /v2/" + "x" * 96 + "."),
        (
            "/predict/onnx/",
            True,
            "Nothing is at /predict/onnx/; /v2, /predict/BACKEND, /classify, /models and /ui are here.",
        ),
        ("/predict", False, "Nothing is at /predict; /v2, /predict/BACKEND, /classify, /models and /ui are here."),
        ("/models/", False, "Nothing is at /models/; /v2, /predict/BACKEND, /classify, /models and /ui are here."),
        ("/modelsx", False, "Nothing is at /modelsx; /v2, /predict/BACKEND, /classify, /models and /ui are here."),
        ("", False, "Nothing is at ; /v2, /predict/BACKEND, /classify, /models and /ui are here."),
        ("*", False, "Nothing is at *; /v2, /predict/BACKEND, /classify, /models and /ui are here."),
        ("//v2", False, "Nothing is at //v2; /v2, /predict/BACKEND, /classify, /models and /ui are here."),
        ("/", False, "Nothing is at /; /v2, /predict/BACKEND, /classify, /models and /ui are here."),
    ],
)
def test_a_path_of_nobody_is_unknown_by_any_method(method: str, path: str, owned: bool, message: str) -> None:
    assert owns(path) == owned
    with pytest.raises(RequestError) as refused:
        find(method, path)
    assert (refused.value.kind, str(refused.value)) == (Kind.UNKNOWN, message)


def test_invented_paths_are_remembered_up_to_a_number_and_a_length() -> None:
    routes._find_again.cache_clear()
    for i in range(2000):
        find("GET", f"/v2/models/{i}")
    assert routes._find_again.cache_info().currsize == 1024
    routes._find_again.cache_clear()
    for length, remembered in ((300, 0), (246, 0), (245, 1)):  # with what is before it, 256
        assert find("GET", "/v2/models/" + "x" * length)[1] == {"model": "x" * length}
        assert routes._find_again.cache_info().currsize == remembered


def test_control_is_asked_for_where_what_is_served_changes_and_no_key_for_health_and_the_page() -> None:
    assert {route.answers for route in ROUTES if route.control} == {"load", "unload"}
    assert {route.answers for route in ROUTES if route.open} == {"live", "ready", "page"}


def test_what_the_protocol_answers_is_answered() -> None:
    named = {route.answers for route in ROUTES if route.pattern.startswith("/v2")} - {"infer"}
    assert v2_control.ANSWERS.keys() == named


def test_what_bentoml_answers_needs_a_key_and_a_place_like_anything_else() -> None:
    assert (FOREIGN.open, FOREIGN.always, FOREIGN.control) == (False, False, False)
    assert (FOREIGN.pattern, FOREIGN.answers) == ("", "")
