"""The one table of a server's settings: the fields of `Settings`, each with what it takes, its default and what it is.

What is read from the environment and from a TOML file, `samedigit serve --show-settings`, its help and the README's table all
follow from it. Read once, at import of the service, so that a mistake stops `bentoml serve`.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple

from digits.contract import BACKENDS, Backend
from digits.errors import SettingError

PREFIX: Final = "SAMEDIGIT_"
FILE: Final = "SAMEDIGIT_SETTINGS"  # names the TOML file

# Variables of that name which are not a server's settings.
OTHERS: Final = frozenset(
    PREFIX + name
    for name in (
        "SETTINGS",
        "DATA_DIR",  # where MNIST is: digits/mnist.py
        "SCHEMAS",  # of custom resources: tests/test_deploy.py
        "LATENCIES", "COUNTS", "WARM_UP_SECONDS", "DURATION_SECONDS", "RUN_FOLDER",  # of a load test
        "NOTEBOOK_TRAIN_IMAGES", "NOTEBOOK_EPOCHS", "NOTEBOOK_SEEDS",
        "IMAGE",  # docker/compose.yaml
    )
)  # fmt: skip
# What Kubernetes gives every container of a namespace that has a Service named samedigit; NAME=VALUE.
_SERVICE_LINK: Final = re.compile(
    r"SAMEDIGIT_(\w+_)?(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT=\w+://|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=)"
)

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.:\[\]_-]+")  # as a browser spells it: lower case, no path


class _Wrong(Exception):
    """A value that a setting does not take; its argument is what came."""


class Form(NamedTuple):
    """What a setting takes."""

    takes: str
    from_text: Callable[[str], Any]  # of an environment variable; raises _Wrong
    from_toml: Callable[[Any], Any]  # of a TOML file; raises _Wrong


class Row(NamedTuple):
    """A line of the table."""

    name: str  # the field's, and the key in a TOML file; the variable's in capitals after SAMEDIGIT_
    form: Form
    default: Any
    unit: str
    says: str
    unset: str  # what it is called where it has no value
    secret: bool  # never printed

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


def _setting(default: Any, form: Form, says: str, *, unit: str = "", unset: str = "none", secret: bool = False) -> Any:
    row = {"form": form, "says": says, "unit": unit, "unset": unset, "secret": secret}
    return dataclasses.field(default=default, metadata=row)


def _whole(least: int, most: int) -> Form:
    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:  # a bool is an int too
            raise _Wrong(value)
        return value

    def from_text(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most))):
            raise _Wrong(text)
        try:
            return check(int(text))
        except _Wrong:
            raise _Wrong(text) from None

    return Form(f"takes a whole number from {least} to {most}", from_text, check)


def _share() -> Form:
    def check(value: Any) -> float:
        if type(value) not in (int, float) or not 0 < value <= 1:  # so neither is nan
            raise _Wrong(value)
        return float(value)

    def from_text(text: str) -> float:
        try:
            return check(float(text))
        except (ValueError, _Wrong):
            raise _Wrong(text) from None

    return Form("takes a number above 0 and up to 1", from_text, check)


def _switch() -> Form:
    def check(value: Any) -> bool:
        if value is True or value == "on":
            return True
        if value is False or value == "off":
            return False
        raise _Wrong(value)

    return Form("takes on or off", check, check)


def _text(takes: str, read: Callable[[str], str] = str) -> Form:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not value or "\0" in value:
            raise _Wrong(value)
        try:
            return read(value)
        except ValueError:
            raise _Wrong(value) from None

    return Form(takes, check, check)


def _list(takes: str, fits: Callable[[str], object] = bool, *, empty: tuple[()] | None = ()) -> Form:
    def check(value: Any) -> tuple[str, ...] | None:
        if not isinstance(value, list):
            raise _Wrong(value)
        for item in value:
            if not isinstance(item, str) or not fits(item):
                raise _Wrong(item)
        return tuple(value) or empty

    def from_text(text: str) -> tuple[str, ...] | None:
        return check([item.strip() for item in text.split(",") if item.strip()])

    return Form(takes + ", comma-separated (in TOML, a list)", from_text, check)


_FILE: Final = _text("takes the path of a file")
_FOLDER: Final = _text("takes the path of a folder")
_KEYS: Final = _list("takes keys of at least 16 characters")  # which serving/keys.py checks
_SECONDS: Final = _whole(1, 86400)
_COUNT: Final = _whole(1, 1_000_000)
_BYTES: Final = _whole(1, 2**40)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server is told. Sizes are in bytes, times in seconds or, where the name says so, in milliseconds."""

    backends: tuple[Backend, ...] | None = _setting(
        None, _list(f"takes {', '.join(BACKENDS)}", BACKENDS.__contains__, empty=None),
        "which backends, such as `onnx,numpy`", unset="all installed",
    )  # fmt: skip
    models: tuple[str, ...] | None = _setting(
        None, _list("takes recipes, or recipe:version", empty=None),
        "which models, such as `torch-relu,keras-sequential:VERSION`", unset="the served version of every recipe",
    )  # fmt: skip
    model_folder: str | None = _setting(
        None, _FOLDER, "of models that `samedigit export` wrote: `RECIPE/VERSION` with its files", unset="BentoML's store"
    )  # fmt: skip
    device: str = _setting(
        "auto", _text("takes auto, cpu, cuda or cuda:INDEX"),
        "`auto`, `cpu`, `cuda`, `cuda:1`; a GPU that is asked for and not there stops the start",
    )  # fmt: skip
    data_host: str = _setting(
        "127.0.0.1", _text(", like --host, takes an IP address", lambda text: str(ip_address(text))),
        "the data plane's address; unset, what BentoML was given as `--host`",
    )  # fmt: skip
    data_port: int = _setting(8000, _whole(1, 65535), "the data plane's port")
    grpc_port: int | None = _setting(
        None,
        _whole(1, 65535),
        "a further port of the data plane's, for who expects gRPC on 8001; it is on `data_port` too",
    )
    workers: int = _setting(1, _whole(1, 1024), "processes, each with every model; they share both ports")
    max_batch: int = _setting(256, _COUNT, "that run together; 1: no batching", unit="images")
    batch_budget_ms: int = _setting(
        10, _whole(1, 60_000), "that one batch may take: batches grow only as far as they pay, and within it", unit="ms"
    )
    max_queue: int = _setting(4096, _COUNT, "that may wait for one model", unit="images")
    max_waiting: int = _setting(
        64,
        _COUNT,
        "that may wait for one model, however long it takes; more of up to 4 images each, if they run within 20 ms. Once one "
        "was refused only 16, of larger ones 8, or what runs within 1 ms, until as many in a row found room, or for a second",
        unit="requests",
    )
    deadline_ms: int = _setting(
        5000, _whole(1, 86_400_000), "that a request may wait; the protocol's `timeout` shortens it", unit="ms"
    )
    max_images: int = _setting(1024, _COUNT, "in one request", unit="images")
    max_body_bytes: int = _setting(8 * 1024 * 1024, _BYTES, "of one request", unit="bytes")
    max_pixels: int = _setting(
        40_000_000, _whole(1, 1_000_000_000), "of one picture, which is refused before it is decoded", unit="pixels"
    )
    max_pictures: int = _setting(
        32, _COUNT, "that may wait to be read in one worker, which reads one at a time", unit="pictures"
    )
    max_head_bytes: int = _setting(
        65536, _BYTES, "of a request's line and headers together; of trailers too", unit="bytes"
    )
    max_target_bytes: int = _setting(8192, _BYTES, "of the path and query in a request's line", unit="bytes")
    max_headers: int = _setting(100, _COUNT, "in one request", unit="headers")
    max_connections: int = _setting(4096, _COUNT, "of one worker, over both ports", unit="connections")
    max_connections_per_address: int = _setting(4096, _COUNT, "the same, from one address", unit="connections")
    max_requests: int = _setting(1024, _COUNT, "under way in one worker: admitted, not yet answered", unit="requests")
    max_request_bytes: int = _setting(256 * 1024 * 1024, _BYTES, "of their bodies together", unit="bytes")
    max_streams: int = _setting(128, _COUNT, "at once on one HTTP/2 connection", unit="streams")
    max_resets: int = _setting(
        200, _COUNT, "a second on one HTTP/2 connection: streams that its client gives up, or makes the server give up",
        unit="streams",
    )  # fmt: skip
    max_control_frames: int = _setting(
        2000, _COUNT, "a second on one HTTP/2 connection that ask for nothing; 16 more for each request", unit="frames"
    )
    max_unsent_bytes: int = _setting(
        64 * 1024 * 1024,
        _BYTES,
        "of answers that HTTP/2's clients leave untaken, in one worker; above it, who leaves the most is cut off",
        unit="bytes",
    )
    max_rate: int = _setting(
        0, _whole(0, 1_000_000), "a second from one key, or from one address where there are no keys; 0: any",
        unit="requests",
    )  # fmt: skip
    head_seconds: int = _setting(10, _SECONDS, "from a request's first byte to the end of its head", unit="s")
    body_seconds: int = _setting(60, _SECONDS, "from there to its last byte", unit="s")
    min_body_bytes_per_second: int = _setting(1024, _whole(0, 2**40), "of a body, on average; 0: any", unit="bytes")
    idle_seconds: int = _setting(75, _SECONDS, "without a request, before a connection is closed", unit="s")
    grace_seconds: int = _setting(10, _SECONDS, "for requests under way when the server is stopped", unit="s")
    tls_certificate: str | None = _setting(None, _FILE, "PEM file; both ports speak TLS then")
    tls_key: str | None = _setting(None, _FILE, "PEM file, without a password")
    keys: tuple[str, ...] = _setting((), _KEYS, "of which a request needs one; health needs none", secret=True)
    keys_file: str | None = _setting(None, _FILE, "further ones, one a line; read again when it changes")
    control: bool = _setting(False, _switch(), "`on`: models may be loaded and unloaded over the network")
    control_keys: tuple[str, ...] = _setting((), _KEYS, "of which such a request needs one", secret=True)
    control_keys_file: str | None = _setting(None, _FILE, "further ones, one a line; read again when it changes")
    cors_origins: tuple[str, ...] = _setting(
        (), _list("takes origins such as https://example.org, or *", lambda text: text == "*" or _ORIGIN.fullmatch(text)),
        "whose pages may ask, such as `https://example.org`; `*`: all",
    )  # fmt: skip
    watch: bool = _setting(False, _switch(), "`on`: a version newly stored or promoted is served by itself")
    access_log: str | None = _setting(
        None, _text("takes the path of a file, or -"), "JSON lines to a file, or to standard output with `-`"
    )
    access_log_sample: float = _setting(
        1.0, _share(), "the share of answers that is logged; refusals and failures always are"
    )


TABLE: Final[tuple[Row, ...]] = tuple(
    Row(name=field.name, default=field.default, **field.metadata) for field in dataclasses.fields(Settings)
)
_ROWS: Final = {row.name: row for row in TABLE}
_PATHS: Final = tuple(row for row in TABLE if row.form in (_FILE, _FOLDER) or row.name == "access_log")


class Reading(NamedTuple):
    """Settings, and where each comes from."""

    settings: Settings
    origins: dict[str, str]  # by name: "default", "file PATH" or "environment"


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings from `SAMEDIGIT_*` variables, and from the TOML file that SAMEDIGIT_SETTINGS names.

    A variable counts for more than the file; an empty one counts as unset.

    Raises:
        SettingError: a value that makes no sense or does not go with another, a setting that there is not, a file that
            cannot be read; the message names the variable, or the file and its key, and what it takes.
    """
    return read(environment).settings


def read(environment: Mapping[str, str]) -> Reading:
    """The same with where each setting comes from."""
    _refuse_unknown(environment)
    values: dict[str, Any] = {}
    origins = dict.fromkeys(_ROWS, "default")
    if path := environment.get(FILE):
        for name, value in _from_file(Path(path)).items():
            values[name] = value
            origins[name] = f"file {path}"
    for row in TABLE:
        if text := environment.get(row.variable):
            values[row.name] = _take(row, row.form.from_text, text, row.variable)
            origins[row.name] = "environment"
    settings = Settings(**values)
    _refuse_impossible(settings)
    return Reading(settings, origins)


def absolute_paths(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environment` that name files by a relative path, made absolute.

    BentoML starts its workers in the folder of the service, which need not be where the command was given.
    """
    named = [FILE, *(row.variable for row in _PATHS)]
    return {
        name: str(Path(path).absolute())
        for name in named
        if (path := environment.get(name)) and path != "-" and not Path(path).is_absolute()
    }


def shown(reading: Reading) -> list[tuple[str, str, str]]:
    """Every setting's name, value and origin, as `--show-settings` prints them: of keys, only how many there are."""
    return [(row.name, _written(row, getattr(reading.settings, row.name)), reading.origins[row.name]) for row in TABLE]


def help_text() -> str:
    """The variables with their defaults, a line each, for a command's help."""
    return "\n".join(f"{row.variable} ({_written(row, row.default)}): {row.says.replace('`', '')}" for row in TABLE)


def markdown_table() -> str:
    """The table for the README."""
    lines = ["| setting | default | |", "|---|---|---|"]
    lines += [f"| `{row.name}` | {_written(row, row.default)} | {row.says} |" for row in TABLE]
    return "\n".join(lines) + "\n"


def _written(row: Row, value: Any) -> str:
    if value is None or value == ():
        return row.unset
    if row.secret:
        return "1 key" if len(value) == 1 else f"{len(value)} keys"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else f"{value} {row.unit}".rstrip()


def _take(row: Row, convert: Callable[[Any], Any], came: Any, where: str) -> Any:
    try:
        return convert(came)
    except _Wrong as wrong:
        got = "" if row.secret else f"; got {repr(wrong.args[0])[:80]}"
        between = "" if row.form.takes.startswith(",") else " "
        raise SettingError(f"{where}{between}{row.form.takes}{got}.") from None


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    known = {row.variable for row in TABLE}
    for name, value in environment.items():
        if not value or not name.startswith(PREFIX) or name in known or name in OTHERS:
            continue
        if _SERVICE_LINK.match(f"{name}={value}"):
            continue
        raise SettingError(
            f"{name} is no setting; the nearest is {_nearest(name, [*known, FILE])}. "
            "`samedigit serve --show-settings` has them all."
        )


def _nearest(name: str, known: list[str]) -> str:
    return difflib.get_close_matches(name, sorted(known), n=1, cutoff=0)[0]


def _from_file(path: Path) -> dict[str, Any]:
    """The values in a TOML file; paths in it are relative to its folder."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingError(f"{FILE}, {path}, cannot be read: {error.strerror}.") from error
    except tomllib.TOMLDecodeError as error:  # its text quotes single characters, so no key
        raise SettingError(f"{FILE}, {path}, is not TOML: {error}.") from None
    except (ValueError, RecursionError):  # not UTF-8, a number of thousands of digits, thousands of brackets
        raise SettingError(f"{FILE}, {path}, is not TOML.") from None
    values = {}
    for name, came in document.items():
        row = _ROWS.get(name)
        if row is None:
            raise SettingError(f"{name!r} in {path} is no setting; the nearest is {_nearest(name, list(_ROWS))}.")
        value = _take(row, row.form.from_toml, came, f"{name} in {path}")
        values[name] = str(path.absolute().parent / value) if row in _PATHS and value != "-" else value
    return values


def _refuse_impossible(settings: Settings) -> None:
    """Settings that are each right, and together make a server that nobody could use, or not as it was meant."""
    if settings.control and not settings.control_keys and settings.control_keys_file is None:
        raise SettingError(
            "SAMEDIGIT_CONTROL is on, and nobody could use it: it needs a key of its own. "
            "Make one: export SAMEDIGIT_CONTROL_KEYS=$(openssl rand -hex 24)"
        )
    if settings.tls_certificate is not None and settings.tls_key is None:
        raise SettingError("SAMEDIGIT_TLS_CERTIFICATE is set and SAMEDIGIT_TLS_KEY is not: TLS needs both.")
    if settings.tls_key is not None and settings.tls_certificate is None:
        raise SettingError("SAMEDIGIT_TLS_KEY is set and SAMEDIGIT_TLS_CERTIFICATE is not: TLS needs both.")
    if settings.grpc_port == settings.data_port:
        raise SettingError(
            f"SAMEDIGIT_GRPC_PORT is SAMEDIGIT_DATA_PORT, {settings.data_port}, which speaks gRPC too: leave it out."
        )
    if settings.max_body_bytes > settings.max_request_bytes:
        raise SettingError(
            f"SAMEDIGIT_MAX_BODY_BYTES is {settings.max_body_bytes}, and all bodies together may have "
            f"SAMEDIGIT_MAX_REQUEST_BYTES, {settings.max_request_bytes}: the longest would never be admitted."
        )
