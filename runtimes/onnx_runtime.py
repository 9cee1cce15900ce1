"""ONNX, through onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import: 1.31 reports usage unless told not to

import onnxruntime

from digits.contract import Images, Probabilities
from digits.errors import DeviceError
from runtimes.device import Device


class OnnxRuntime:
    def __init__(self, path: Path, device: Device) -> None:
        options = onnxruntime.SessionOptions()
        # At this size a second thread costs more than it gives, and requests can use the other cores.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=_providers(device))

    def predict(self, images: Images) -> Probabilities:
        probabilities: Probabilities = self._session.run(None, {"images": images})[0]
        return probabilities


def _providers(device: Device) -> list[str | tuple[str, dict[str, int]]]:
    if device.kind == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise DeviceError(
            f"The onnx backend was asked to use {device}, but the installed onnxruntime has no CUDA in it: "
            f"pip uninstall onnxruntime, then pip install '.[gpu]' in Samedigit's folder"
        )
    onnxruntime.preload_dlls()  # from the nvidia packages, where those are installed
    return [("CUDAExecutionProvider", {"device_id": device.index})]


def open_model(path: Path, *, device: Device) -> OnnxRuntime:
    runtime = OnnxRuntime(path, device)
    # onnxruntime falls back to the CPU without an error when CUDA's libraries do not load.
    if device.kind == "cuda" and "CUDAExecutionProvider" not in runtime._session.get_providers():
        raise DeviceError(
            f"The onnx backend was asked to use {device}, but onnxruntime could not load CUDA's libraries. "
            f"See onnxruntime's requirements for its CUDA provider, or use SAMEDIGIT_DEVICE=cpu."
        )
    return runtime
