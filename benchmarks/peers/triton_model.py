"""The model in Triton's Python backend; `triton_server.py` puts it where Triton looks for it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, arguments: dict[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        inputs = [triton.get_input_tensor_by_name(request, "images").as_numpy() for request in requests]
        (probabilities,) = self.session.run(None, {"images": np.concatenate(inputs)})
        ends = np.cumsum([len(images) for images in inputs])
        return [
            triton.InferenceResponse([triton.Tensor("probabilities", part)])
            for part in np.split(probabilities, ends[:-1])
        ]
