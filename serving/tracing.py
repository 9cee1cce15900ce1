from typing import Any


class Tracer:
    def answered(self, *a: Any) -> None: ...
    def close(self) -> None: ...


def open_tracer() -> Tracer | None:
    return None
