"""The one contract, and the words that every room uses for it.

Every exported model, in every format, and every runtime takes `images`, uint8 `[N, 28, 28]` (0 is background), and
gives `probabilities`, float32 `[N, 10]`. Scaling is the model's first step and softmax its last, inside the exported
file, so that nobody who uses one can scale wrongly. N is free, and at least 1.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]  # [N, 28, 28]
Labels = npt.NDArray[np.uint8]  # [N]
Logits = npt.NDArray[np.float32]  # [N, 10]
Probabilities = npt.NDArray[np.float32]  # [N, 10]

Framework = Literal["numpy", "torch", "keras"]
Backend = Literal["numpy", "torch", "tensorflow", "onnx"]
FRAMEWORKS: Final[tuple[Framework, ...]] = get_args(Framework)
BACKENDS: Final[tuple[Backend, ...]] = get_args(Backend)

SIDE: Final = 28
PIXELS: Final = SIDE * SIDE
CLASSES: Final = 10

# Where a stored model keeps what each backend opens.
EXPORTED: Final[dict[Backend, str]] = {
    "numpy": "model.npz",
    "torch": "model.pt2",
    "tensorflow": "saved_model",
    "onnx": "model.onnx",
}
