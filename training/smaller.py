"""The same weights in smaller numbers: 8-bit integers or 16-bit floats, as a model of its own beside the one they come from.

    int8-dynamic   weights as 8-bit integers; what flows between layers becomes one for each batch, by its own largest value
    int8-static    both as 8-bit integers, by the largest values that 1,000 training images gave
    float16        both as 16-bit floats; where a processor has none, as most have not, it computes in 32 bits between

Rounding is what these formats are for, so they are not held to the original's answers, as exact exports are: each is scored by
itself on all test images, and its card says so. It is stored under its own name and served only by name, or once promoted.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, get_args

import numpy as np
import onnx

from digits import mnist, store
from digits.card import Card, Score
from digits.confidence import check, find_confidence
from digits.contract import EXPORTED, Images, Probabilities
from digits.errors import ExportError
from digits.misread import Misread
from digits.store import StoredModel
from runtimes.backends import open_runtime, predict_all
from runtimes.device import CPU
from training.onnx_file import write_onnx
from training.train import versions

Numbers = Literal["int8-dynamic", "int8-static", "float16"]
NUMBERS: Final[tuple[Numbers, ...]] = get_args(Numbers)
CALIBRATION_IMAGES: Final = 1_000  # the first training images: trained on, never a test image, never held out
CALIBRATION_BATCH: Final = 100
QUANTIZED: Final = ("Conv", "Gemm", "MatMul")  # scaling and softmax stay in float32: probabilities must add up to 1
SUM_TOLERANCE: Final = 1e-5


def store_smaller(model: StoredModel, numbers: Numbers) -> StoredModel:
    """Stores `model`, with its weights in smaller numbers, as RECIPE-NUMBERS.

    Raises:
        ModelDamaged: its ONNX file is missing, or another than was stored.
        ExportError: what came out does not give probabilities.
        StoreError: the store cannot be written.
    """
    store.require_space()
    source = model.path("onnx")
    model.verify("onnx")
    test_images = mnist.test_images()
    name = f"{model.recipe}-{numbers}"

    def fill(folder: Path) -> Card:
        file = folder / EXPORTED["onnx"]
        started = time.perf_counter()
        write_smaller(source, file, numbers)
        export_seconds = time.perf_counter() - started
        predict = partial(predict_all, open_runtime("onnx", file, device=CPU))
        probabilities = predict(test_images.images)
        _require_probabilities(probabilities, name)
        exact = predict_all(open_runtime("onnx", source, device=CPU), test_images.images)
        Misread.of(probabilities, test_images).write(folder)
        held_out = _held_out(model.card)
        return dataclasses.replace(
            model.card,
            recipe={**model.card.recipe, "name": name, "numbers": numbers, "weights_of": model.tag},
            departures=(*model.card.departures, "numbers"),
            scores={"onnx": Score.of(probabilities, test_images.labels)},
            largest_difference={"onnx": float(np.abs(probabilities - exact).max())},
            bytes={"onnx": store.size(file)},
            files=store.hashes(folder),
            versions=versions(),
            export_seconds=export_seconds,
            beyond={},
            confidence=None
            if held_out is None
            else find_confidence(predict(held_out.images), held_out.labels, probabilities, test_images.labels),
        )

    return store.save(name, fill=fill)


def write_smaller(source: Path, target: Path, numbers: Numbers) -> None:
    """Writes the ONNX file `source` in smaller numbers to `target`."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if numbers == "float16":
        write_onnx(_in_float16(onnx.load(source)), target)
        return
    with TemporaryDirectory() as folder:
        prepared, written = Path(folder, "prepared.onnx"), Path(folder, "written.onnx")
        quant_pre_process(str(source), str(prepared))  # joins what can be one layer, and infers shapes
        if numbers == "int8-dynamic":
            # Unsigned: for convolutions onnxruntime has a fast path for these alone.
            quantize_dynamic(prepared, written, weight_type=QuantType.QUInt8, op_types_to_quantize=list(QUANTIZED))
        else:
            quantize_static(
                prepared, written, _Calibration(mnist.train_images().images[:CALIBRATION_IMAGES]),
                quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8, op_types_to_quantize=list(QUANTIZED),
            )  # fmt: skip
        onnx.save(onnx.load(written), target)


class _Calibration:
    """Batches of training images, in the form that onnxruntime's quantizer asks for."""

    def __init__(self, images: Images) -> None:
        self._batches: Iterator[dict[str, Images]] = iter(
            [{"images": images[at : at + CALIBRATION_BATCH]} for at in range(0, len(images), CALIBRATION_BATCH)]
        )

    def get_next(self) -> dict[str, Images] | None:
        return next(self._batches, None)


def _in_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Everything but the ends: images come as they were, and softmax ends in float32."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    smaller: onnx.ModelProto = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, "Softmax"]
    )
    graph = smaller.graph
    # The converter rounds what softmax gave to 16 bits, and widens that again: the two casts go.
    made_by = {name: node for node in graph.node for name in node.output}
    last = made_by[graph.output[0].name]
    casts = []
    while last.op_type == "Cast":
        casts.append(last)
        last = made_by[last.input[0]]
    if last.op_type != "Softmax":
        raise ExportError(f"expected a model that ends in Softmax, got {last.op_type}")
    for cast in casts:
        graph.node.remove(cast)
    last.output[0] = graph.output[0].name
    OnnxModel(smaller).topological_sort()  # the converter adds its nodes at the end
    return smaller


def _held_out(card: Card) -> mnist.LabelledImages | None:
    """The training images that the recipe held out; None where it held out none."""
    fraction: Any = card.recipe.get("validation_fraction")
    if not fraction:
        return None
    images = mnist.train_images()
    kept = len(images.labels) - round(fraction * len(images.labels))
    return mnist.LabelledImages(images=images.images[kept:], labels=images.labels[kept:])


def _require_probabilities(probabilities: Probabilities, name: str) -> None:
    check(probabilities, np.zeros(len(probabilities), np.uint8))
    off = float(np.abs(probabilities.sum(axis=1) - 1).max())
    if not off < SUM_TOLERANCE:
        raise ExportError(f"{name}: expected probabilities that add up to 1, got sums that are off by up to {off:.2g}")
