"""The model behind Triton's C++ server and its Python backend, out of the package nvidia-pytriton.

MODEL=model.onnx PORT=8000 GRPC_PORT=8001 METRICS_PORT=8002 python triton_server.py

The package has the server, the backend, and a stub of the backend for each version of Python. This puts them together, and the
model into a repository, below the current folder, and becomes the server.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytriton

# With dynamic batching a JSON request costs it 0.7 of the CPU time.
CONFIG = """
backend: "python"
max_batch_size: 64
dynamic_batching {}
input [{name: "images", data_type: TYPE_UINT8, dims: [28, 28]}]
output [{name: "probabilities", data_type: TYPE_FP32, dims: [10]}]
"""

server = Path(pytriton.__file__).parent / "tritonserver"
libraries = server.parent.parent / "nvidia_pytriton.libs"
model = Path("models").absolute() / "digits"
(model / "1").mkdir(parents=True)
(model / "config.pbtxt").write_text(CONFIG)
shutil.copy(Path(__file__).with_name("triton_model.py"), model / "1" / "model.py")
python_version = f"{sys.version_info.major}.{sys.version_info.minor}"
backend = Path("backends").absolute() / "python"
shutil.copytree(server / "backends" / "python", backend)
shutil.copy(server / "python_backend_stubs" / python_version / "triton_python_backend_stub", backend)
environment = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # the stub finds the environment's packages by it
    # The stub is linked to libpython: to this Python's own, where there is one, and not to another of the system.
    "LD_LIBRARY_PATH": f"{sysconfig.get_config_var('LIBDIR')}:{libraries}",
}
command = [
    str(server / "bin" / "tritonserver"),
    "--model-repository", str(model.parent),
    "--backend-directory", str(backend.parent),
    "--http-address", "127.0.0.1", "--http-port", os.environ["PORT"],
    "--grpc-address", "127.0.0.1", "--grpc-port", os.environ["GRPC_PORT"],
    "--metrics-address", "127.0.0.1", "--metrics-port", os.environ["METRICS_PORT"],
]  # fmt: skip
os.execve(command[0], command, environment)
