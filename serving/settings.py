"""What the environment says of a server. Read once, at import of the service, so that a mistake stops `bentoml serve`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import cast

from digits.contract import BACKENDS, Backend
from digits.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class Settings:
    backends: tuple[Backend, ...] | None  # None: every one that is installed
    models: tuple[str, ...] | None  # recipe or recipe:version; None: the newest version of every recipe
    device: str  # auto, cpu, cuda or cuda:INDEX
    max_images: int  # in one request
    max_body_bytes: int  # of one request
    data_host: str  # where the data plane listens: an IP address,
    data_port: int  # and its port
    workers: int  # processes; each opens every model
    max_batch: int  # images that run together; 1: no batching
    max_queue: int  # images that may wait for one model
    deadline_ms: int  # how long a request may wait for its model


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings from `SAMEDIGIT_*` variables; an empty variable counts as unset.

    Raises:
        SettingError: a value that makes no sense; the message names the variable and what it takes.
    """
    backends = _list(environment, "SAMEDIGIT_BACKENDS")
    for name in backends or ():
        if name not in BACKENDS:
            raise SettingError(f"SAMEDIGIT_BACKENDS takes {', '.join(BACKENDS)}, comma-separated; got {name!r}.")
    return Settings(
        backends=cast("tuple[Backend, ...] | None", backends),
        models=_list(environment, "SAMEDIGIT_MODELS"),
        device=environment.get("SAMEDIGIT_DEVICE") or "auto",
        max_images=_positive(environment, "SAMEDIGIT_MAX_IMAGES", 1024),
        max_body_bytes=_positive(environment, "SAMEDIGIT_MAX_BODY_BYTES", 8 * 1024 * 1024),
        data_host=_address(environment, "SAMEDIGIT_DATA_HOST", "127.0.0.1"),
        data_port=_positive(environment, "SAMEDIGIT_DATA_PORT", 8000, most=65535),
        workers=_positive(environment, "SAMEDIGIT_WORKERS", 1),
        max_batch=_positive(environment, "SAMEDIGIT_MAX_BATCH", 256),
        max_queue=_positive(environment, "SAMEDIGIT_MAX_QUEUE", 4096),
        deadline_ms=_positive(environment, "SAMEDIGIT_DEADLINE_MS", 5000),
    )


def _list(environment: Mapping[str, str], name: str) -> tuple[str, ...] | None:
    items = tuple(item.strip() for item in environment.get(name, "").split(",") if item.strip())
    return items or None


def _positive(environment: Mapping[str, str], name: str, default: int, *, most: int | None = None) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or int(text) == 0 or (most is not None and int(text) > most):
        range_ = "of at least 1" if most is None else f"from 1 to {most}"
        raise SettingError(f"{name} takes a whole number {range_}; got {text!r}.")
    return int(text)


def _address(environment: Mapping[str, str], name: str, default: str) -> str:
    text = environment.get(name) or default
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise SettingError(f"{name}, like --host, takes an IP address; got {text!r}.") from error
