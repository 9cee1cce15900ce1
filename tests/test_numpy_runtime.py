"""The NumPy backend: what it opens, in what blocks it works, and how much of the machine it takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import python

from digits.network import BatchNorm, Conv, Dense, MaxPool, Network, Relu, arrays, to_data, with_inputs
from runtimes.device import CPU
from runtimes.numpy_runtime import BLOCK, open_model

NETWORK: Network = (
    Conv(filters=3, kernel=3, padding=0, bias=True), MaxPool(4), BatchNorm(momentum=0.9, epsilon=1e-3), Relu(), Dense(10),
)  # fmt: skip


@pytest.fixture
def convolutional(tmp_path: Path) -> Path:
    generator = np.random.default_rng(1)
    held = [arrays(layer, shape) for layer, shape in with_inputs(NETWORK)]
    stored = {
        f"{name}_{i}": np.abs(generator.normal(0, 0.1, shape)).astype(np.float32)
        for i, layer in enumerate(layer for layer in held if layer)
        for name, shape in layer.items()
    }
    path = tmp_path / "model.npz"
    np.savez(
        path,
        allow_pickle=False,
        network=json.dumps(to_data(NETWORK)),
        pixel_step=np.float32(1 / 255),
        pixel_low=np.float32(0),
        **stored,
    )
    return path


@pytest.mark.parametrize("number", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_images_are_answered_alike_alone_and_in_blocks(convolutional: Path, number: int) -> None:
    images = np.random.default_rng(2).integers(0, 256, (number, 28, 28), np.uint8)
    runtime = open_model(convolutional, device=CPU)
    alone = np.concatenate([runtime.predict(images[i : i + 1]) for i in range(number)])
    together = runtime.predict(images)
    assert together.shape == (number, 10)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert together.std(axis=0).max() > 1e-4 or number == 1


def test_an_answer_stays_when_the_next_is_asked_for(convolutional: Path) -> None:
    images = np.random.default_rng(3).integers(0, 256, (2, 28, 28), np.uint8)
    runtime = open_model(convolutional, device=CPU)
    first = runtime.predict(images[:1])
    kept = first.copy()
    runtime.predict(images[1:])
    np.testing.assert_array_equal(first, kept)


def test_a_file_from_before_layers_were_data_opens(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    weights = [generator.normal(0, 0.1, shape).astype(np.float32) for shape in ((784, 20), (20,), (20, 10), (10,))]
    names = ("weight_0", "bias_0", "weight_1", "bias_1")
    for activation in ("relu", "sigmoid"):
        path = tmp_path / f"{activation}.npz"
        scaling = {"pixel_step": np.float32(2 / 255), "pixel_low": np.float32(-1)}
        np.savez(path, allow_pickle=False, activation=activation, **scaling, **dict(zip(names, weights, strict=True)))
        images = generator.integers(0, 256, (5, 28, 28), np.uint8)
        hidden = (images.reshape(-1, 784) / 255 * 2 - 1) @ weights[0] + weights[1]
        hidden = np.maximum(hidden, 0) if activation == "relu" else 1 / (1 + np.exp(-hidden))
        exponentials = np.exp(hidden @ weights[2] + weights[3])
        expected = exponentials / exponentials.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(open_model(path, device=CPU).predict(images), expected, atol=1e-5)


def test_it_multiplies_on_one_thread(convolutional: Path) -> None:
    code = """
import sys
from pathlib import Path
from threadpoolctl import threadpool_info
from runtimes.device import CPU
from runtimes.numpy_runtime import open_model
open_model(Path(sys.argv[1]), device=CPU)
print({library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"})
"""
    assert python(code, convolutional, environment={"OPENBLAS_NUM_THREADS": "2"}) == "{1}\n"
