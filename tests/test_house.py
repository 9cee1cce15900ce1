"""The plan of the house: who may import whom, and what a process holds."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROJECT, python, require, require_recipe

from loadtests.server import free_ports

# From the front door down to the ground floor. A room may import those that come after it.
ROOMS = ("samedigit", "comparison", "loadtests", "training", "serving", "runtimes", "scratch", "digits")
OUTSIDE = {"benchmarks", "tests"}  # which no room may import

# Where each framework may be imported: its own trainers and its own runtime.
FRAMEWORKS = {
    "torch": {"training/torch_trainer.py", "training/given/torch_given.py", "runtimes/torch_runtime.py"},
    "tensorflow": {"training/keras_trainer.py", "training/given/keras_given.py", "runtimes/tensorflow_runtime.py"},
    "keras": {"training/keras_trainer.py", "training/given/keras_given.py"},
    "tf2onnx": {"training/keras_trainer.py"},
    "onnxruntime": {"runtimes/onnx_runtime.py", "training/smaller.py"},
}
HEAVY = "torch", "tensorflow", "keras", "onnxruntime", "onnx", "matplotlib", "scipy", "locust", "PIL"


def imported(file: Path) -> Iterator[str]:
    """The full name of every module that `file` imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)  # which may be a module too
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in ("import_module", "__import__") and node.args:
                yield spelled(node.args[0])


def spelled(argument: ast.expr) -> str:
    """The beginning of a name that is put together at run time."""
    if isinstance(argument, ast.JoinedStr):
        argument = argument.values[0]
    return argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else ""


def files_of(room: str) -> list[Path]:
    files = sorted((PROJECT / room).rglob("*.py"))
    assert files, f"the room {room} is empty"
    return files


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_no_room_above_it(room: str) -> None:
    forbidden = {*ROOMS[: ROOMS.index(room)], *OUTSIDE}
    found = {
        f"{file.relative_to(PROJECT)} imports {name}"
        for file in files_of(room)
        for name in imported(file)
        if name.partition(".")[0] in forbidden
    }
    assert found == set()


def test_training_and_serving_know_nothing_of_each_other() -> None:
    """They meet in the stored files, which runtimes open."""
    imports = {name.partition(".")[0] for file in files_of("training") for name in imported(file)}
    assert "serving" not in imports
    assert "runtimes" in imports


# Within a room: what a module may not know.
MODELS = {"serving.models", "serving.opening", "serving.choice", "serving.batching", "runtimes"}
PORTS = {"serving.ports", "uvicorn", "uvloop", "socket", "ssl"}
DOOR = {"serving.door", "serving.server", "serving.service", "serving.admission"}
COMPARED = {"comparison.study", "comparison.load", "comparison.cost", "comparison.pictures"}
INPUT_AND_OUTPUT = {"asyncio", "socket", "ssl", "uvloop", "uvicorn", "httptools", "h11", "time"}


@pytest.mark.parametrize(
    ("files", "forbidden"),
    [
        ("serving/ports/*.py", MODELS | {"serving.protocols"}),  # a port knows no model, and not what bytes mean
        ("serving/ports/http1.py", INPUT_AND_OUTPUT | DOOR),  # a machine: bytes and times in, events and bytes out
        ("serving/ports/http2*.py", INPUT_AND_OUTPUT | DOOR | {"h2"}),
        ("serving/ports/hpack.py", INPUT_AND_OUTPUT | DOOR),
        ("serving/protocols/*.py", PORTS | DOOR | {"asyncio"}),  # a protocol knows no socket
        ("serving/admission.py", PORTS | MODELS),
        ("serving/batching.py", PORTS | DOOR | {"serving.protocols"}),
        ("serving/models.py", PORTS | DOOR | {"serving.protocols"}),
        ("serving/door.py", PORTS),
        ("serving/server.py", {"bentoml", "_bentoml_impl"}),
        ("comparison/*.py", COMPARED),  # what the rooms share
        ("comparison/study/*.py", COMPARED - {"comparison.study"}),
        ("comparison/load/*.py", COMPARED - {"comparison.load"}),
        ("comparison/cost/*.py", COMPARED - {"comparison.cost"}),
        ("comparison/pictures/*.py", COMPARED),
    ],
)
def test_within_a_room_each_knows_its_own_business_alone(files: str, forbidden: set[str]) -> None:
    checked = [file for file in PROJECT.glob(files) if file.name != "__init__.py"]
    assert checked
    found = {
        f"{file.relative_to(PROJECT)} imports {name}"
        for file in checked
        for name in imported(file)
        for one in forbidden
        if name == one or name.startswith(f"{one}.")
    }
    assert found == set()


def test_the_reader_of_imports_sees_every_kind() -> None:
    """So that the test above can fail."""
    assert {*imported(PROJECT / "runtimes/backends.py")} >= {"importlib", "digits.contract", "runtimes."}
    assert "bentoml" in {*imported(PROJECT / "digits/store.py")}  # inside a function
    assert "training." in {*imported(PROJECT / "training/trainers.py")}


def test_every_room_with_code_is_in_the_plan() -> None:
    packages = {folder.parent.name for folder in PROJECT.glob("*/__init__.py")}
    assert packages - OUTSIDE == set(ROOMS)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_framework_is_imported_by_its_own_trainer_and_runtime_alone(framework: str) -> None:
    importers = {
        file.relative_to(PROJECT).as_posix()
        for room in ROOMS
        for file in files_of(room)
        for name in imported(file)
        if name.partition(".")[0] == framework
    }
    assert importers <= FRAMEWORKS[framework]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "onnx"])
def test_a_process_that_serves_a_light_backend_holds_no_other_framework(backend: str, trained_home: Path) -> None:
    """All of what a server does: it finds the models, opens and warms them, and answers."""
    require_recipe("numpy-sigmoid")
    if backend == "onnx":
        require("onnxruntime")
    code = """
import asyncio, sys
from serving.messages import Exchange, Head
from serving.server import Server
from serving.service import settings
server = Server(settings)
server.models.check()
server.open()

async def ask(path, headers, body):
    answered = asyncio.get_running_loop().create_future()
    head = Head("POST", path.encode(), path, "", headers, False, len(body), True, False)
    exchange = Exchange(head, address="::1", port="data", reply=lambda exchange, answer: answered.set_result(answer))
    server.door.admit(exchange, foreign=False)
    exchange.body = body
    server.door.handle(exchange)
    return await answered

model = server.models.all()[0].name
assert model.endswith("." + sys.argv[1])
answer = asyncio.run(ask(f"/v2/models/{model}/infer", {b"inference-header-content-length": b"0"}, bytes(784)))
assert answer.status == 200, answer
assert server.models.describe()["models"]
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    (port,) = free_ports(1)  # whoever runs this may have a server of their own on the default one
    environment = {"BENTOML_HOME": str(trained_home), "SAMEDIGIT_BACKENDS": backend, "SAMEDIGIT_DATA_PORT": str(port)}
    said = python(code, backend, environment=environment)
    held = set(said.split())
    assert "bentoml" in held
    assert ("onnxruntime" in held) == (backend == "onnx")
    assert held & set(HEAVY) - {"onnxruntime"} == set()


def test_the_data_and_the_recipes_are_read_without_any_framework() -> None:
    code = "import sys, digits.mnist, digits.store, training.recipes, training.train; print(*sys.modules)"
    assert {name.partition(".")[0] for name in python(code).split()} & {*HEAVY, "bentoml", "pooch"} == set()


def test_no_file_names_a_package_registry() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    registry = re.compile(rb"py(pi|thonhosted)\.(org|io)|--(extra-)?index-url|download\.pytorch\.org")
    files = [PROJECT / name for name in listed.stdout.split("\0") if name and name != "tests/test_house.py"]
    assert len(files) > 20
    named = [str(file) for file in files if file.is_file() and registry.search(file.read_bytes())]
    assert named == []
