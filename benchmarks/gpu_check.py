"""What works on a GPU, with figures: for whoever has one. `make gpu-check` runs it.

    python -m benchmarks.gpu_check [--device cuda:0]

In order: the driver sees the GPU; each backend that is installed opens a stored model on it, answers MNIST's test images as on
the CPU, and how fast; torch trains an epoch on it; the server serves from it. Each step says what it found; the exit status is
1 if any failed. `--device cpu` takes the same steps without a GPU, which shows that they work, and nothing of a GPU.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import httpx
import numpy as np
import orjson

from digits import mnist, store
from digits.card import Epoch
from digits.contract import BACKENDS, EXPORTED, Backend, Images
from digits.errors import ModelNotFound, SamedigitError
from digits.mnist import LabelledImages
from digits.store import StoredModel
from loadtests.server import fresh_server
from runtimes.backends import HAS_GPU, Runtime, is_installed, open_runtime, predict_all
from runtimes.device import CPU, Device, choose_device

BATCHES: Final = (1, 64, 256)
SECONDS: Final = 0.5  # of each batch size
MOST_DIFFERENT: Final = 1e-3  # of a probability: a GPU multiplies in another order, and by default in TF32
RECIPE: Final = "torch-relu"  # which is trained for an epoch


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cuda", help="cuda, cuda:INDEX, or cpu")
    options.add_argument("--driver", action="store_true", help="look for a GPU, and no further")
    given = options.parse_args()
    wish = given.device
    try:
        device = choose_device(wish)
        print(f"driver      {_describe(device)}", flush=True)
        if given.driver:
            return
        models, test_images = store.served_models(), mnist.test_images()
        if not models:
            raise ModelNotFound(f"There is nothing to open: {store.nothing_served()}")
    except SamedigitError as error:
        sys.exit(f"driver      FAILED: {error}")
    steps: dict[str, Callable[[], str]] = {}
    # In the order of BACKENDS: torch must be imported before TensorFlow (serving/choice.py).
    opened = [backend for backend in BACKENDS if backend in HAS_GPU and is_installed(backend)]
    for backend in opened:
        steps[backend] = partial(check_backend, backend, models, device, test_images)
    if is_installed("torch"):
        steps["training"] = lambda: check_training(device)
    steps["server"] = lambda: check_server(opened, models, wish, test_images.images[:64])
    failed = [name for name, step in steps.items() if not _passes(name, step)]
    for backend in sorted(HAS_GPU - set(opened)):
        print(f"{backend:12}not installed here, and not looked at")
    if failed:
        sys.exit(f"FAILED: {', '.join(failed)}")
    print(f"Everything that is installed works on {device}.")


def check_backend(backend: Backend, models: list[StoredModel], device: Device, test_images: LabelledImages) -> str:
    """Opens one of `models` on `device` and on the CPU: what it answers there, and how fast.

    Raises:
        SamedigitError: it does not open, or does not answer as on the CPU.
    """
    model = _with(models, backend)
    path = model.path(backend)
    there, here = (open_runtime(backend, path, device=one) for one in (device, CPU))
    found, expected = (predict_all(one, test_images.images) for one in (there, here))
    difference = float(np.abs(found - expected).max())
    digits = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    right = float((found.argmax(axis=1) == test_images.labels).mean())
    said = f"{model.tag}: {right:.2%} right; {digits} of {len(found):,} digits differ from the CPU's, {difference:.1e} at most"
    if not difference <= MOST_DIFFERENT:
        raise SamedigitError(f"{said}, and {MOST_DIFFERENT} is allowed")
    for batch in BATCHES:
        rates = [images_a_second(one, test_images.images[:batch]) for one in (there, here)]
        said += (
            f"\n            batches of {batch:3}: {rates[0]:10,.0f} images/s, {rates[0] / rates[1]:.2f} of the CPU's"
        )
    return said


def images_a_second(runtime: Runtime, images: Images) -> float:
    """Of one caller, who waits for each answer; after one call that is not counted."""
    runtime.predict(images)
    started, calls = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < SECONDS or calls == 0:
        runtime.predict(images)
        calls += 1
    return calls * len(images) / seconds


def check_training(device: Device) -> str:
    """One epoch of RECIPE in torch on `device`.

    Raises:
        SamedigitError: there is no data, or it learnt nothing.
    """
    from training import torch_trainer  # only where torch is installed
    from training.recipes import RECIPES
    from training.train import split_for

    if device.kind == "cuda" and not torch_trainer.sees_gpu(device.index):
        raise SamedigitError(f"torch sees no {device}")
    recipe = dataclasses.replace(RECIPES[RECIPE], epochs=1)
    history: list[Epoch] = []
    torch_trainer.train(recipe, split_for(recipe), device=device, on_epoch=history.append)
    (epoch,) = history
    said = f"{RECIPE}: an epoch in {epoch.seconds:.1f} s, then {epoch.held_out_accuracy:.2%} right"
    if epoch.held_out_accuracy < 0.9:
        raise SamedigitError(f"{said}: expected 90 % or more")
    return said


def check_server(backends: list[Backend], models: list[StoredModel], wish: str, images: Images) -> str:
    """Serves the models with SAMEDIGIT_DEVICE=`wish`, and asks each backend for the digits of `images`.

    Raises:
        SamedigitError: it does not start, or does not answer as the model opened here on the CPU.
    """
    settings = {"SAMEDIGIT_DEVICE": wish, "SAMEDIGIT_BACKENDS": ",".join(backends)}
    with fresh_server(settings, core=None) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        for backend in backends:
            model = _with(models, backend)
            content = orjson.dumps({"images": images.tolist(), "model": model.tag})
            answer = client.post(f"/predict/{backend}", content=content, headers={"content-type": "application/json"})
            if answer.status_code != 200:
                raise SamedigitError(f"/predict/{backend} answered {answer.status_code}: {answer.text}")
            digits = [one["digit"] for one in answer.json()["predictions"]]
            expected = open_runtime(backend, model.path(backend), device=CPU).predict(images).argmax(axis=1).tolist()
            if digits != expected:
                raise SamedigitError(f"/predict/{backend} found {digits}, and the CPU {expected}")
        return f"ready in {server.server.ready_seconds:.1f} s; {', '.join(backends)} answer as the CPU does"


def _passes(name: str, step: Callable[[], str]) -> bool:
    try:
        print(f"{name:12}{step()}", flush=True)
    except Exception as error:  # whatever a framework raises on a GPU; the other steps are of use all the same
        print(f"{name:12}FAILED: {type(error).__name__}: {error}", flush=True)
        return False
    return True


def _with(models: list[StoredModel], backend: Backend) -> StoredModel:
    """The first of `models` that `backend` opens."""
    for model in models:
        if backend in model.card.backends:
            return model
    raise ModelNotFound(f"No stored model has {EXPORTED[backend]}, which {backend} opens: samedigit train {RECIPE}")


def _describe(device: Device) -> str:
    if device.kind == "cpu":
        return "not asked: this is the CPU, and says nothing of a GPU"
    driver = ctypes.CDLL("libcuda.so.1")
    name, memory = ctypes.create_string_buffer(100), ctypes.c_size_t(0)
    driver.cuDeviceGetName(name, len(name), device.index)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device.index)
    return f"{device}: {name.value.decode()}, {memory.value / 2**30:.0f} GiB"


if __name__ == "__main__":
    main()
