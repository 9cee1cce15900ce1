from typing import Any


class AccessLog:
    def answered(self, *a: Any) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


def open_access_log(settings: Any) -> AccessLog | None:
    return None
