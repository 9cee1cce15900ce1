"""Takes out of an image's packages what no request can reach, and compiles what the server imports; runs while it is built.

    python docker/leave_out.py onnx /opt/venv /app /srv/models

Bytecode is what a start would else spend seconds on, for what is imported (torch imports a third of its modules only when it
opens a model); of the rest it is half of the packages' size. It is
checked against no source, so that two builds of one commit hold the same bytes. A test serves every endpoint without what is
left out, and finds nothing that is imported and not compiled.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

LEFT_OUT: Final[dict[str, tuple[str, ...]]] = {  # why no request can reach it -> patterns in site-packages
    "packages' own tests": (
        "**/tests", "numpy/_core/_simd.*", "onnxruntime/backend", "tensorflow/python/**/*_test.py",
        "torch/bin/protoc*", "torch/bin/test_*",
    ),
    "types, for checkers": ("**/*.pyi",),
    "sources of what is compiled": ("**/*.pyx", "**/*.pxd", "**/*.[ch]"),
    "for compiling against a package": (
        "numpy/_core/include", "numpy/_core/lib", "numpy/random/lib", "nvidia/*/include", "nvidia/*/lib/*.a",
        "tensorflow/include", "tensorflow/xla_aot_runtime_src", "torch/include", "torch/share",
    ),
    "compiles Fortran": ("numpy/f2py",),
    "onnxruntime for programs in C: Python's module has its own inside": ("onnxruntime/capi/libonnxruntime.so.*",),
    "makes and changes ONNX models": (
        "onnxruntime/datasets", "onnxruntime/quantization", "onnxruntime/tools", "onnxruntime/transformers",
    ),
    "AVIF, which /classify does not take": ("PIL/_avif.*", "pillow.libs/libavif-*"),
    "colour profiles, which are not followed": ("PIL/_imagingcms.*", "pillow.libs/liblcms2-*"),
    "writes text into pictures": (
        "PIL/_imagingft.*", "pillow.libs/libfreetype-*", "pillow.libs/libharfbuzz-*", "pillow.libs/libbrotli*",
        "pillow.libs/libpng16-*",  # of FreeType; Pillow reads PNG by itself
    ),
    "windows on a screen": ("PIL/_imagingtk.*",),
    "onnxruntime for TensorRT, which no runtime here asks for": ("onnxruntime/capi/libonnxruntime_providers_tensorrt.so",),
    "colours for other languages than Python, in tracebacks": ("pygments/lexers/[!_p]*", "pygments/lexers/p[!y]*"),
}  # fmt: skip
# Of torch's build for CUDA, on a CPU: `import torch` loads libtorch_cuda.so, and that these, which stay: cublas, cublasLt,
# cudart, cufft, cufile, cupti, libcudnn.so (a door to the others), cusparse, cusparseLt, nccl, nvrtc, nvshmem_host.
ONLY_ON_A_GPU: Final = {
    "CUDA's libraries that torch loads on a GPU alone": (
        "nvidia/cu*/lib/libcheckpoint.*", "nvidia/cu*/lib/libcufftw.*", "nvidia/cu*/lib/libnvblas.*",
        "nvidia/cu*/lib/libnvperf_*", "nvidia/cu*/lib/libnvrtc-builtins.*", "nvidia/cu*/lib/libpcsamplingutil.*",
        "nvidia/cudnn/lib/libcudnn_*", "nvidia/nccl/lib/*.bc", "nvidia/nvshmem/lib/*.bc", "nvidia/nvshmem/lib/nvshmem_*",
        "torch/lib/libtorch_cuda_linalg.so",
    ),
}  # fmt: skip

# What is imported only once the server starts, or is asked; some of it in vain, for want of a package.
IMPORTED_LATER: Final = (
    "_bentoml_impl.client",
    "_bentoml_impl.client.proxy2",
    "_bentoml_impl.server.app",
    "_bentoml_sdk.service.openapi",
    "anyio.from_thread",
    "bentoml._internal.configuration.v2",
    "bentoml._internal.runner.container",
    "bentoml._internal.server.http.traffic",
    "bentoml._internal.server.http_app",
    "bentoml._internal.utils.pickle",
    "bentoml._internal.utils.telemetry",
    "bentoml.container",
    "bentoml.models",
    "dateutil.tz.win",
    "httpcore._async.http2",
    "httpcore._async.socks_proxy",
    "httpcore._backends.trio",
    "httpcore._sync.http2",
    "httpcore._sync.socks_proxy",
    "numpy.ma",
    "opentelemetry.instrumentation.asgi",
    "pydantic._internal._dataclasses",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.auto",
)

_IMPORT: Final = """
import importlib, importlib.util, json, pkgutil, sys
MODELS, *names = sys.argv[1:]
for room in ("digits", "runtimes", "scratch", "serving"):
    names += [module.name for module in pkgutil.walk_packages(importlib.import_module(room).__path__, room + ".")]
files = []
for name in names:
    try:
        importlib.import_module(name)
    except ImportError:  # of a backend that this image does not have, or of a package's own choice
        files += [importlib.util.find_spec(name).origin]
from pathlib import Path
from digits.contract import BACKENDS, EXPORTED
from runtimes.backends import is_installed, open_runtime
from runtimes.device import CPU
for backend in filter(is_installed, BACKENDS):
    for path in Path(MODELS).glob("*/*/" + EXPORTED[backend]):
        open_runtime(backend, path, device=CPU)
files += [module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
print(json.dumps(files))
"""


def main(target: str, venv: Path, rooms: Path, models: Path) -> None:
    (packages,) = venv.glob("lib/python*/site-packages")
    leave_out(packages, LEFT_OUT if target == "gpu" else LEFT_OUT | ONLY_ON_A_GPU)
    compile_imported(venv / "bin" / "python", packages, rooms, models)


def leave_out(packages: Path, what: dict[str, tuple[str, ...]]) -> None:
    """Removes what `what` names, and says how much that is."""
    for why, patterns in what.items():
        size = 0
        for path in [path for pattern in patterns for path in packages.glob(pattern)]:
            if path.exists():  # and is not inside what is gone
                size += _size(path)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        print(f"left out: {size / 1e6:6.1f} MB  {why}")


def compile_imported(python: Path, packages: Path, rooms: Path, models: Path) -> None:
    """Leaves bytecode of the rooms and of those modules in `packages` alone that the server imports, to open `models` too."""
    for folder in (packages, rooms):
        for cache in list(folder.rglob("__pycache__")):
            shutil.rmtree(cache)
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.run(
            [python, "-B", "-c", _IMPORT, models, *IMPORTED_LATER],
            cwd=rooms,
            env={**os.environ, "BENTOML_HOME": home, "SAMEDIGIT_MODEL_FOLDER": "", "PYTHONPATH": str(rooms)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    files = [Path(file) for file in json.loads(process.stdout.splitlines()[-1])]
    chosen = [file for file in files if file.suffix == ".py" and file.is_relative_to(packages)]
    unchecked = "import compileall, py_compile, sys\n" + (
        "for file in sys.stdin.read().splitlines():\n"
        "    compileall.compile_file(file, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)\n"
    )
    every = sorted(str(file) for file in [*chosen, *rooms.rglob("*.py")])
    subprocess.run([python, "-c", unchecked], input="\n".join(every), text=True, check=True)
    print(f"compiled: {len(chosen)} modules that the server imports, and its own")


def _size(path: Path) -> int:
    files = [path] if not path.is_dir() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
