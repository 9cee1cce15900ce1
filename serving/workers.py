from typing import Any


def run_folder() -> None:
    return None


def make_run_folder(settings: Any) -> None: ...
