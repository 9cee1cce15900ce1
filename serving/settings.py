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
    models: tuple[str, ...] | None  # recipe or recipe:version; None: of every recipe the promoted or newest version
    device: str  # auto, cpu, cuda or cuda:INDEX
    max_images: int  # in one request
    max_body_bytes: int  # of one request
    max_head_bytes: int  # of a request's line and headers together; of trailers too
    max_target_bytes: int  # of the path and query in a request's line
    max_headers: int  # in one request
    max_connections: int  # in one worker, over both ports
    max_connections_per_address: int  # the same, from one address
    max_requests: int  # under way in one worker: admitted and not yet answered
    max_request_bytes: int  # of the bodies of these together
    max_rate: int  # requests a second of one key, or of one address where there are no keys; 0: any
    head_seconds: int  # from a request's first byte to the end of its head
    body_seconds: int  # from there to its last byte
    min_body_bytes_per_second: int  # of a body, on average; 0: any
    idle_seconds: int  # without a request, before a connection is closed
    grace_seconds: int  # for requests under way when the server is stopped
    data_host: str  # where the data plane listens: an IP address,
    data_port: int  # and its port
    tls_certificate: str | None  # PEM file; both ports speak TLS then
    tls_key: str | None  # PEM file
    keys: tuple[str, ...]  # of which a request needs one; none: everybody may ask
    keys_file: str | None  # further ones, one a line, read again when it changes
    control: bool  # whether models may be loaded and unloaded over the network
    control_keys: tuple[str, ...]  # of which such a request needs one
    control_keys_file: str | None
    cors_origins: tuple[str, ...]  # whose pages may ask; "*": all
    watch: bool  # whether a version newly stored or promoted is served by itself
    access_log: str | None  # a file, or "-" for standard output; None: no log
    access_log_sample: float  # the share of answers that are logged, in (0, 1]; refusals and failures always are
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
        max_head_bytes=_positive(environment, "SAMEDIGIT_MAX_HEAD_BYTES", 65536),
        max_target_bytes=_positive(environment, "SAMEDIGIT_MAX_TARGET_BYTES", 8192),
        max_headers=_positive(environment, "SAMEDIGIT_MAX_HEADERS", 100),
        max_connections=_positive(environment, "SAMEDIGIT_MAX_CONNECTIONS", 4096),
        max_connections_per_address=_positive(environment, "SAMEDIGIT_MAX_CONNECTIONS_PER_ADDRESS", 4096),
        max_requests=_positive(environment, "SAMEDIGIT_MAX_REQUESTS", 1024),
        max_request_bytes=_positive(environment, "SAMEDIGIT_MAX_REQUEST_BYTES", 256 * 1024 * 1024),
        max_rate=_natural(environment, "SAMEDIGIT_MAX_RATE", 0),
        head_seconds=_positive(environment, "SAMEDIGIT_HEAD_SECONDS", 10),
        body_seconds=_positive(environment, "SAMEDIGIT_BODY_SECONDS", 60),
        min_body_bytes_per_second=_natural(environment, "SAMEDIGIT_MIN_BODY_BYTES_PER_SECOND", 1024),
        idle_seconds=_positive(environment, "SAMEDIGIT_IDLE_SECONDS", 75),
        grace_seconds=_positive(environment, "SAMEDIGIT_GRACE_SECONDS", 10),
        tls_certificate=environment.get("SAMEDIGIT_TLS_CERTIFICATE") or None,
        tls_key=environment.get("SAMEDIGIT_TLS_KEY") or None,
        keys=_list(environment, "SAMEDIGIT_KEYS") or (),
        keys_file=environment.get("SAMEDIGIT_KEYS_FILE") or None,
        control=environment.get("SAMEDIGIT_CONTROL", "off") == "on",
        control_keys=_list(environment, "SAMEDIGIT_CONTROL_KEYS") or (),
        control_keys_file=environment.get("SAMEDIGIT_CONTROL_KEYS_FILE") or None,
        cors_origins=_list(environment, "SAMEDIGIT_CORS_ORIGINS") or (),
        watch=environment.get("SAMEDIGIT_WATCH", "off") == "on",
        access_log=environment.get("SAMEDIGIT_ACCESS_LOG") or None,
        access_log_sample=float(environment.get("SAMEDIGIT_ACCESS_LOG_SAMPLE") or 1),
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


def _natural(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise SettingError(f"{name} takes a whole number of at least 0; got {text!r}.")
    return int(text)


def _address(environment: Mapping[str, str], name: str, default: str) -> str:
    text = environment.get(name) or default
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise SettingError(f"{name}, like --host, takes an IP address; got {text!r}.") from error
