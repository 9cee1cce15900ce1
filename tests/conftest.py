"""What the tests share: trained models, processes to try things in, and the rule for a missing framework."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # BentoML uses a name that pathspec has deprecated
    import bentoml.models  # noqa: F401

from digits import mnist
from digits.mnist import LabelledImages
from runtimes.backends import predict_all
from runtimes.device import CPU
from runtimes.numpy_runtime import open_model
from training import trainers
from training.recipes import RECIPES

Expected = Callable[[str, int], npt.NDArray[np.float32]]  # what a recipe's stored file answers to the first images
PROJECT: Final = Path(__file__).resolve().parent.parent
# One recipe of each framework, and those with dropout and L2, which an export must leave out.
TRAINED: Final = ("numpy-sigmoid", "torch-relu", "torch-improved", "keras-sequential", "keras-enhanced")

_Remembering: Final = type(lru_cache(len))

os.environ["BENTOML_DO_NOT_TRACK"] = "true"
_OF_THE_MACHINE: Final = (mnist.DATA_DIR_VARIABLE, "SAMEDIGIT_SCHEMAS")
for _name in [name for name in os.environ if name.startswith("SAMEDIGIT_") and name not in _OF_THE_MACHINE]:
    del os.environ[_name]  # a developer's own settings


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests that passed have measured: what they recorded as "table", by `record_property`."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "table":
                terminalreporter.write_line("")
                terminalreporter.write_line(str(text))


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> None:
    """What the server reads once and then remembers is read anew in each test: a mistake in reading it is seen by any test."""
    for name, module in list(sys.modules.items()):
        if name.startswith("serving."):
            for value in vars(module).values():
                if isinstance(value, _Remembering):
                    value.cache_clear()


def require(*packages: str) -> None:
    """Skips the test where a package is missing; in CI, where all must be there, fails it."""
    missing = [package for package in packages if find_spec(package) is None]
    if not missing:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"not installed, and CI must not skip: {', '.join(missing)}")
    pytest.skip(f"not installed: {', '.join(missing)}")


def require_recipe(recipe: str) -> None:
    """The same for what the recipe's training needs; without it `trained_home` lacks the model."""
    require(*trainers.NEEDS[RECIPES[recipe].framework])


def python(
    code: str,
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    cwd: Path = PROJECT,
    timeout: float = 120,
) -> str:
    """What `code` prints in a process of its own, which sees `environment` beside this one's; it must end well."""
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **(environment or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert process.returncode == 0, f"exit {process.returncode}\n{process.stdout}\n{process.stderr}"
    return process.stdout


@contextmanager
def bentoml_home(home: Path) -> Iterator[Path]:
    """BENTOML_HOME at `home`. BentoML reads the variable once in a process and must be told of the change."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    before = os.environ.get("BENTOML_HOME")
    os.environ["BENTOML_HOME"] = str(home)
    (home / "models").mkdir(parents=True, exist_ok=True)
    BentoMLContainer.model_store.set(ModelStore(home / "models"))
    try:
        yield home
    finally:
        BentoMLContainer.model_store.reset()
        if before is None:
            del os.environ["BENTOML_HOME"]
        else:
            os.environ["BENTOML_HOME"] = before


def pytest_make_parametrize_id(val: object) -> str | None:
    """Names without backslashes, of which tests/mutants.py could not ask for one again."""
    name = ascii(val) if isinstance(val, str | bytes) else ""
    return name.replace("\\", "|")[:40] if "\\" in name else None


@pytest.fixture(scope="session", autouse=True)
def _nobodys_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees or touches the models of who runs it."""
    os.environ["BENTOML_HOME"] = str(tmp_path_factory.mktemp("bentoml"))


@pytest.fixture
def empty_home(tmp_path: Path) -> Iterator[Path]:
    """An empty model store, for this process and those it starts."""
    with bentoml_home(tmp_path / "bentoml") as home:
        yield home


@pytest.fixture(scope="session")
def without(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """Gives, for packages, the environment of a process in which they are not installed."""
    if "SERVER_IMAGE" in os.environ:
        pytest.skip("the servers run out of an image, in which nothing can be hidden")

    def hide(*packages: str) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("without")
        (folder / "sitecustomize.py").write_text(
            "from importlib.machinery import PathFinder\n"
            "class Hiding(PathFinder):\n"
            "    @classmethod\n"
            "    def find_spec(cls, name, path=None, target=None):\n"
            f"        return None if name.partition('.')[0] in {packages!r} else found(name, path, target)\n"
            "found = PathFinder.find_spec\n"
            "PathFinder.find_spec = Hiding.find_spec\n"
        )
        return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}

    return hide


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The BENTOML_HOME of a store that holds the recipes TRAINED, trained for one epoch. Not to be written to.

    Each is promoted: a run of one epoch departs from its recipe, and would be served only by name.
    Trained once for all xdist workers, each recipe in a process of its own, all at once. Recipes of a framework that is
    not installed are left out.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    home = root / "trained"
    with FileLock(root / "trained.lock"):
        if not home.is_dir():
            _train(home.with_name("training"))
            home.with_name("training").rename(home)
    return home


def _train(home: Path) -> None:
    code = """
import dataclasses, sys
from digits.store import promote
from training.recipes import RECIPES
from training.train import train_and_store
recipe = dataclasses.replace(RECIPES[sys.argv[1]], epochs=1)
promote(train_and_store(recipe, device="cpu", on_epoch=lambda epoch: None).tag)
"""
    environment = {**os.environ, "BENTOML_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", code, name],
            env=environment,
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in TRAINED
        if trainers.is_installed(RECIPES[name].framework)
    }
    said = {name: process.communicate(timeout=280)[0] for name, process in processes.items()}
    for name, process in processes.items():
        assert process.returncode == 0, f"{name} could not be trained:\n{said[name]}"


@pytest.fixture(scope="session")
def drawn_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The BENTOML_HOME of a store that holds the models of drawn_models.py. Not to be written to; made once for all workers."""
    require("torch", "onnx", "onnxruntime")
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    home = root / "drawn"
    with FileLock(root / "drawn.lock"):
        if not home.is_dir():
            python(
                "import sys; sys.path.insert(0, 'tests'); import drawn_models; drawn_models.keep_all()",
                environment={"BENTOML_HOME": str(root / "drawing"), "CUDA_VISIBLE_DEVICES": ""},
            )
            (root / "drawing").rename(home)
    return home


@pytest.fixture(scope="session")
def test_set() -> LabelledImages:
    """MNIST's 10,000 test images."""
    images = mnist.test_images()
    assert images.images.dtype == np.uint8
    return images


@pytest.fixture(scope="session")
def expected(trained_home: Path, test_set: LabelledImages) -> Expected:
    """What the stored file of a recipe answers for the first test images, in this process."""

    def of(recipe: str, number: int) -> npt.NDArray[np.float32]:
        (file,) = (trained_home / "models" / recipe).glob("*/model.npz")
        return predict_all(open_model(file, device=CPU), test_set.images[:number])

    return of
