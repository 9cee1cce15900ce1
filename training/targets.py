"""What a network is to answer: of a digit that digit, and of what is none every digit as probably as any other."""

from __future__ import annotations

from typing import Final

import numpy as np

from digits.contract import CLASSES

STRANGER: Final = CLASSES  # the label of what is no digit
# The probabilities that each label stands for: [11, 10]. Of a stranger the loss is least where all are 1/10: the target of
# Hendrycks, Mazeika and Dietterich 2019, "Deep Anomaly Detection with Outlier Exposure", equation 2.
TARGETS: Final = np.vstack([np.eye(CLASSES), np.full(CLASSES, 1 / CLASSES)])
