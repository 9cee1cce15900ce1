"""The test images that a model gets wrong, kept beside it: where models disagree can then be shown without MNIST's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from digits.contract import Images, Labels, Probabilities
from digits.mnist import LabelledImages

FILE: Final = "misread.npz"


@dataclass(frozen=True)
class Misread:
    """Test images whose most probable digit is not their label."""

    places: npt.NDArray[np.int64]  # [M], among the test images
    images: Images  # [M, 28, 28]
    labels: Labels  # [M]
    digits: Labels  # [M], what was read instead

    @classmethod
    def of(cls, probabilities: Probabilities, test_images: LabelledImages) -> Misread:
        digits = probabilities.argmax(axis=1).astype(np.uint8)
        places = np.flatnonzero(digits != test_images.labels)
        return cls(places, test_images.images[places], test_images.labels[places], digits[places])

    def write(self, folder: Path) -> None:
        np.savez_compressed(
            folder / FILE, places=self.places, images=self.images, labels=self.labels, digits=self.digits
        )

    @classmethod
    def read(cls, folder: Path) -> Misread | None:
        """None where a model was stored without them."""
        if not (folder / FILE).is_file():
            return None
        with np.load(folder / FILE, allow_pickle=False) as arrays:
            return cls(arrays["places"], arrays["images"], arrays["labels"], arrays["digits"])
