"""How `bentoml serve` is started, with the settings that do not belong to the service itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent  # where the rooms are
GRACEFUL_SECONDS: Final = 10  # for requests under way when the server is stopped; bentoml's default is a day


def serve_command(*, host: str, port: int) -> list[str]:
    return [
        sys.executable, "-m", "bentoml", "serve", "serving.service:Samedigit", "--working-dir", str(ROOT),
        "--host", host, "--port", str(port), "--timeout-graceful-shutdown", str(GRACEFUL_SECONDS),
    ]  # fmt: skip


def serve_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `settings`, and without bentoml's reports of usage."""
    return {"BENTOML_DO_NOT_TRACK": "true", **os.environ, **settings}
