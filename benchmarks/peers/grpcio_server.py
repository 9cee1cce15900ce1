"""The model behind grpcio's own server, in threads or on asyncio: MODEL=model.onnx PORT=8000 GRPC_PORT=8001 MODE=threads

PORT answers 200 to whatever is asked, once the server is ready.
"""

from __future__ import annotations

import asyncio
import http.server
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import onnxruntime

from serving.protocols.v2_grpc import INFER, RESPONSE

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])


def answer(request: Any, context: Any) -> Any:
    images = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(request.inputs[0].shape)
    (probabilities,) = session.run(None, {"images": images})
    return RESPONSE(
        model_name=request.model_name,
        model_version="1",
        outputs=[{"name": "probabilities", "datatype": "FP32", "shape": probabilities.shape}],
        raw_output_contents=[probabilities.tobytes()],
    )


async def answer_on_loop(request: Any, context: Any) -> Any:
    return answer(request, context)


def handler(method: Any) -> grpc.GenericRpcHandler:
    one = grpc.unary_unary_rpc_method_handler(method, INFER.FromString, RESPONSE.SerializeToString)
    return grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": one})


class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def say_ready() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Ready)
    threading.Thread(target=server.serve_forever, daemon=True).start()


async def serve_on_asyncio(address: str) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler(answer_on_loop),))
    server.add_insecure_port(address)
    await server.start()
    say_ready()
    await server.wait_for_termination()


def serve_in_threads(address: str) -> None:
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((handler(answer),))
    server.add_insecure_port(address)
    server.start()
    say_ready()
    server.wait_for_termination()


if __name__ == "__main__":
    address = f"127.0.0.1:{os.environ['GRPC_PORT']}"
    if os.environ["MODE"] == "asyncio":
        asyncio.run(serve_on_asyncio(address))
    else:
        serve_in_threads(address)
