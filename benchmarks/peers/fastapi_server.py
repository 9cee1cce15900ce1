"""The model behind FastAPI and pydantic.

MODEL=model.onnx python -m uvicorn fastapi_server:app --no-access-log
"""

from __future__ import annotations

import os

import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
app = FastAPI()


class Images(BaseModel):
    images: list[list[list[int]]]


class Probabilities(BaseModel):
    probabilities: list[list[float]]


@app.post("/predict")
async def predict(request: Images) -> Probabilities:  # async: a thread for each request would cost more than the model
    images = np.array(request.images, dtype=np.uint8)
    return Probabilities(probabilities=session.run(None, {"images": images})[0].tolist())
