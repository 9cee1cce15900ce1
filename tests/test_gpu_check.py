"""What says what works on a GPU: here without one, and with the CPU in its place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT, bentoml_home, require

from benchmarks import gpu_check
from digits.contract import Images, Probabilities
from digits.errors import SamedigitError
from digits.mnist import LabelledImages
from digits.store import served_models
from runtimes.backends import Runtime, open_runtime
from runtimes.device import CPU, count_gpus

pytestmark = pytest.mark.slow


def run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", *arguments],
        cwd=PROJECT,
        env={**os.environ, "BENTOML_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.skipif(count_gpus() > 0, reason="has a GPU")
def test_without_a_gpu_the_first_step_says_that_it_found_none(trained_home: Path) -> None:
    done = run(trained_home)
    assert done.returncode == 1
    assert done.stdout == ""
    sentence = "The device cuda was asked for, but CUDA sees no GPU here. Use auto or cpu, or check the driver."
    assert done.stderr == f"driver      FAILED: {sentence}\n"


def test_every_step_says_what_it_found_with_figures(trained_home: Path, without: Callable[..., dict[str, str]]) -> None:
    require("torch", "onnxruntime")
    done = run(trained_home, "--device", "cpu", **without("tensorflow"))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    steps = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert steps == ["driver", "torch", "onnx", "training", "server", "tensorflow", "Everything"]
    for batch in gpu_check.BATCHES:
        assert sum(f"batches of {batch:3}:" in line and "images/s" in line for line in lines) == 2
    assert done.stdout.count("0 of 10,000 digits differ from the CPU's, 0.0e+00 at most") == 2
    assert "tensorflow  not installed here, and not looked at" in lines


class Wrong:
    """Is a thousandth and a half off in one probability of one image."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def predict(self, images: Images) -> Probabilities:
        probabilities = self._runtime.predict(images).copy()
        probabilities[0, 0] += np.float32(0.0015)
        return probabilities


def test_a_backend_that_does_not_answer_as_the_cpu_does_fails(
    trained_home: Path, test_set: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("onnxruntime")
    opened: list[Runtime] = []

    def open_wrong_first(*arguments: object, **options: object) -> Runtime:
        runtime = open_runtime(*arguments, **options)  # type: ignore[arg-type]
        opened.append(runtime)
        return Wrong(runtime) if len(opened) == 1 else runtime

    monkeypatch.setattr(gpu_check, "open_runtime", open_wrong_first)
    with bentoml_home(trained_home):
        with pytest.raises(SamedigitError, match=r"1\.5e-03 at most, and 0\.001 is allowed"):
            gpu_check.check_backend("onnx", served_models(), CPU, test_set)
        monkeypatch.setattr(gpu_check, "open_runtime", open_runtime)
        assert "images/s" in gpu_check.check_backend("onnx", served_models(), CPU, test_set)
