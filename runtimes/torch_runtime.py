"""A torch export (.pt2): a graph and its weights, opened without pickle and without the code that made them."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch.export.passes import move_to_device_pass

from digits.contract import Images, Probabilities
from digits.errors import DeviceError
from runtimes.device import Device

logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # else it warns of triton, which we do without


class TorchRuntime:
    def __init__(self, path: Path, device: Device) -> None:
        torch.set_num_threads(1)  # at this size a second thread costs more than it gives
        program = torch.export.load(path)
        if device.kind == "cuda":
            program = move_to_device_pass(program, str(device))
        # The graph itself, with its weights as arguments: 37 us for one image. `program.module()` checks its guards and
        # flattens containers at every call: 113 us.
        self._graph = program.graph_module
        signature = program.graph_signature
        self._weights = [program.state_dict[name] for name in (*signature.parameters, *signature.buffers)]
        self._device = str(device)

    def predict(self, images: Images) -> Probabilities:
        with torch.inference_mode():
            (probabilities,) = self._graph(*self._weights, torch.tensor(images, device=self._device))
            result: Probabilities = probabilities.cpu().numpy()
        return result


def open_model(path: Path, *, device: Device) -> TorchRuntime:
    if device.kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"The torch backend was asked to use {device}, but this torch has no working CUDA: "
            f"install a CUDA build of torch that fits the driver, or use SAMEDIGIT_DEVICE=cpu."
        )
    return TorchRuntime(path, device)
