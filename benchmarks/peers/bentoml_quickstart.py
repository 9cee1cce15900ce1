"""The model behind bentoml, as its quickstart has it.

MODEL=model.onnx python -m bentoml serve bentoml_quickstart:Digits
"""

from __future__ import annotations

import os

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1)
class Digits:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api
    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"images": images.astype(np.uint8)})[0]
