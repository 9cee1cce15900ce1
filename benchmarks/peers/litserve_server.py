"""The model behind LitServe.

MODEL=model.onnx PORT=8000 python litserve_server.py
"""

from __future__ import annotations

import os
from typing import Any

import litserve
import numpy as np
import onnxruntime


class Digits(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request) -> np.ndarray:
        return np.array(request["images"], dtype=np.uint8)

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"images": images})[0]

    def encode_response(self, probabilities: np.ndarray) -> dict[str, Any]:
        return {"probabilities": probabilities.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Digits(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), num_api_servers=1, generate_client_file=False, access_log=False
    )
