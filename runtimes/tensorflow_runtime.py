"""A TensorFlow SavedModel, called through its serving signature."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from digits.contract import Images, Probabilities
from digits.errors import DeviceError
from runtimes.device import Device


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what TensorFlow's C++ writes about missing GPUs and CPU features before its log level is read."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


with _quiet():
    import tensorflow as tf

# At this size a second thread costs more than it gives. Must be set before TensorFlow runs anything.
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)


class TensorflowRuntime:
    def __init__(self, path: Path, device: Device) -> None:
        self._device = "/CPU:0" if device.kind == "cpu" else f"/GPU:{device.index}"
        with tf.device(self._device):
            self._saved_model = tf.saved_model.load(str(path))  # kept: the function below does not own its variables
        self._function = self._saved_model.signatures["serving_default"]

    def predict(self, images: Images) -> Probabilities:
        with tf.device(self._device):
            result: Probabilities = self._function(images=tf.constant(images))["probabilities"].numpy()
        return result


def open_model(path: Path, *, device: Device) -> TensorflowRuntime:
    if device.kind == "cuda" and device.index >= len(tf.config.list_physical_devices("GPU")):
        raise DeviceError(
            f"The tensorflow backend was asked to use {device}, but this TensorFlow sees no such GPU: "
            f"pip install 'tensorflow[and-cuda]', or use SAMEDIGIT_DEVICE=cpu."
        )
    return TensorflowRuntime(path, device)
