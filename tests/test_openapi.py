"""The OpenAPI document: it follows from the table of routes, and a real server does what it says, at both ports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from conftest import PROJECT, bentoml_home, require
from servers import Server, folder_of, serving
from small_models import keep

from digits.contract import BACKENDS
from serving.messages import STATUS
from serving.protocols.openapi import document
from serving.routes import ROUTES
from serving.settings import read_settings

KEY: Final = "a-key-for-whoever-asks"
CONTROL_KEY: Final = "a-key-for-control-over-models"
EXAMPLES: Final = 30  # for each operation, beside those at the edges of its schema

BENTOMLS: Final[dict[str, Any]] = {
    "openapi": "3.0.2",
    "info": {"title": "theirs"},
    "servers": [{"url": "."}],
    "tags": [{"name": "theirs"}],
    "paths": {"/livez": {"get": {}}, "/metrics": {"get": {"summary": "theirs"}}},
    "components": {"schemas": {"Theirs": {}}},
}


def described(**environment: str) -> dict[str, Any]:
    return document(read_settings({f"SAMEDIGIT_{name}": value for name, value in environment.items()}))


def operations(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, item in found["paths"].items()
        for method, operation in item.items()
    }


def test_every_route_is_an_operation_with_every_status_that_it_can_give() -> None:
    found = operations(described())
    assert list(found) == [f"{route.method} {route.pattern}" for route in ROUTES]
    for route in ROUTES:
        operation = found[f"{route.method} {route.pattern}"]
        statuses = set(operation["responses"])
        any_request = {"200", "400", "405", "408", "413", "414", "431", "500", "501", "503", "505"}
        assert statuses >= any_request | {str(STATUS[kind]) for kind in route.refuses}
        assert ({"401", "403"} <= statuses) == (not route.open)
        assert ("429" in statuses) == (not route.always)
        parameters = [one["name"] for one in operation["parameters"] if one["in"] == "path"]
        assert parameters == re.findall(r"{(\w+)}", route.pattern)


def test_every_status_of_the_server_is_described_and_every_reference_leads_somewhere() -> None:
    found = described()
    assert {int(status) for status in found["components"]["responses"]} == set(STATUS.values())

    def references(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            yield from ([part["$ref"]] if "$ref" in part else [])
            for inner in part.values():
                yield from references(inner)
        elif isinstance(part, list):
            for inner in part:
                yield from references(inner)

    for reference in references(found):
        target: Any = found
        for name in reference.removeprefix("#/").split("/"):
            target = target[name]
        assert "description" in target or "type" in target


def test_an_input_is_the_one_that_there_is() -> None:
    (take,) = [route for route in ROUTES if route.pattern == "/v2/models/{model}/infer"]
    body = described()["paths"][take.pattern]["post"]["requestBody"]["content"]
    assert body.keys() == {"application/json", "application/octet-stream"}
    tensor = body["application/json"]["schema"]["properties"]["inputs"]["items"]
    assert tensor["properties"]["name"]["enum"] == ["images"]
    assert tensor["properties"]["datatype"]["enum"] == ["UINT8"]
    assert set(tensor["required"]) == {"name", "datatype", "shape", "data"}


def test_every_backend_and_both_outputs_are_named() -> None:
    (backend,) = described()["paths"]["/predict/{backend}"]["post"]["parameters"]
    assert backend["schema"]["enum"] == list(BACKENDS)
    infer = described()["paths"]["/v2/models/{model}/infer"]["post"]
    either = infer["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["outputs"]["items"][
        "oneOf"
    ]
    assert [output["properties"]["name"]["enum"] for output in either] == [["probabilities"], ["digits"]]


def test_keys_are_asked_for_where_the_server_asks_for_them() -> None:
    assert "security" not in described()
    assert "securitySchemes" not in described()["components"]
    found = described(KEYS=KEY)
    assert found["security"] == [{"bearer": []}, {"header": []}]
    assert found["components"]["securitySchemes"].keys() == {"bearer", "header"}
    without = {name for name, operation in operations(found).items() if operation.get("security") == []}
    repository = "POST /v2/repository/models/{model}"
    # Control is off: no key helps.
    assert without == {"GET /v2/health/live", "GET /v2/health/ready", f"{repository}/load", f"{repository}/unload"}
    found = described(CONTROL="on", CONTROL_KEYS=CONTROL_KEY)
    with_key = {name for name, operation in operations(found).items() if operation.get("security")}
    assert with_key == {f"{repository}/load", f"{repository}/unload"}
    assert "security" not in found


def test_the_api_ports_document_has_bentomls_paths_too_and_names_the_data_plane() -> None:
    settings = read_settings({"SAMEDIGIT_DATA_PORT": "8123"})
    found = document(settings, BENTOMLS)
    assert [*found["paths"]] == [*dict.fromkeys(route.pattern for route in ROUTES), "/livez"]
    assert found["paths"]["/metrics"]["get"]["summary"] != "theirs"  # the door answers that
    assert found["info"] == {"title": "theirs"}
    assert {"Theirs", "Error"} <= found["components"]["schemas"].keys()
    assert [server["url"] for server in found["servers"]] == [".", "http://{host}:8123"]
    assert [server["url"] for server in document(settings)["servers"]] == ["."]
    assert BENTOMLS["paths"].keys() == {"/livez", "/metrics"}  # as they were


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two small models."""
    with bentoml_home(tmp_path_factory.mktemp("bentoml")) as home:
        keep("torch-relu", 3)
        keep("numpy-sigmoid", 5)
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    require("schemathesis")
    environment = {
        "SAMEDIGIT_BACKENDS": "numpy",
        "SAMEDIGIT_KEYS": KEY,
        "SAMEDIGIT_CONTROL": "on",
        "SAMEDIGIT_CONTROL_KEYS": CONTROL_KEY,
    }
    with serving(home, environment) as found:
        yield found


def schemathesis(server: Server, port: int, home: Path, *arguments: str) -> str:
    """What schemathesis says of the document of `port`, asking the server there."""
    process = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/docs.json"),
            *("--url", f"http://127.0.0.1:{port}", "--phases", "examples,coverage,fuzzing", "--checks", "all"),
            *("--max-examples", str(EXAMPLES), "--generation-deterministic", "--no-shrink", "--continue-on-failure"),
            *(
                "--generation-with-security-parameters",
                "false",
                "--max-redirects",
                "0",
                "--max-time",
                "240",
                "--no-color",
            ),
            *arguments,
        ],
        cwd=PROJECT,
        env={
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "SCHEMATHESIS_HOOKS": "tests.contradictions",
            "CONTRADICTIONS_MODEL": f"torch-relu.numpy:{folder_of(home, 'torch-relu').name}",
            "CONTRADICTIONS_SPARE": "numpy-sigmoid.numpy",
        },
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.mark.slow
@pytest.mark.parametrize("plane", ["API port", "data plane"])
def test_a_server_contradicts_its_document_in_nothing(plane: str, server: Server, home: Path) -> None:
    port = server.port if plane == "API port" else server.data_port
    control = "^/v2/repository/models/"
    own = "X-API-Key: "
    said = schemathesis(server, port, home, "--exclude-path-regex", control, "--header", own + KEY)
    assert f"Tested: {len(ROUTES) - 2 + (3 if plane == 'API port' else 0)}" in said, said
    said = schemathesis(server, port, home, "--include-path-regex", control, "--header", own + CONTROL_KEY)
    assert "Tested: 2" in said
    with server.client(port) as client:
        counted = client.get("/metrics", headers={"x-api-key": KEY}).text
    answered = {
        line.partition('route="')[2].partition('"')[0]
        for line in counted.splitlines()
        if line.startswith("samedigit_requests_total") and 'status="200"' in line
    }
    assert answered >= {route.pattern for route in ROUTES}  # or nothing was tried but refusals
    assert "Traceback" not in server.log.read_text()
