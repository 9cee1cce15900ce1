"""A bentoml service with nothing in it but its runtime's import: what starting and staying up cost at least.

python -m bentoml serve bentoml_empty:Empty, in the project's own environment, so with uvloop and httptools.
"""

from __future__ import annotations

import bentoml
import onnxruntime  # noqa: F401


@bentoml.service(workers=1)
class Empty:
    @bentoml.api
    def nothing(self) -> str:
        return ""
