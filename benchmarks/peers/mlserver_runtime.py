r"""The model behind MLServer, a custom runtime.

MODEL=model.onnx MLSERVER_MODEL_NAME=digits MLSERVER_MODEL_IMPLEMENTATION=mlserver_runtime.Digits \
MLSERVER_PARALLEL_WORKERS=0 MLSERVER_DEBUG=false mlserver start .

Without parallel workers the model runs in the server's own process: a pool of processes costs one as light as this more than
it gives. Without debug there is no access log.
"""

from __future__ import annotations

import os

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Digits(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        probabilities = self.session.run(None, {"images": images})[0]
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", probabilities)]
        )
