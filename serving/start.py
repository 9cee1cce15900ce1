"""How a server is started, in one process or by `bentoml serve`, and what BentoML's own options mean for the settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

from digits.errors import SettingError
from serving.settings import Settings, absolute_paths, read

BENTOML_PORT: Final = 3000  # BentoML's default
ROOT: Final = Path(__file__).parent.parent  # where the rooms are
# What BentoML would do with TLS on its port alone.
_TLS_OPTIONS: Final = ("ssl_keyfile_password", "ssl_version", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ciphers")
_DEFAULTS: Final = Settings()


def serve_command(*, host: str, port: int) -> list[str]:
    """The server in one process, or what it becomes where several workers are asked for (serving/__main__.py).

    To be run in the environment that `serve_environment` gives.
    """
    return [
        sys.executable,
        "-P",
        "-m",
        "serving",
        "--host",
        host,
        "--port",
        str(port),
    ]  # -P: no `serving` that lies about


def bentoml_command(*, host: str, port: int, settings: Settings = _DEFAULTS) -> list[str]:
    """BentoML's supervisor, which starts the workers, and starts one anew that has ended."""
    command = [
        sys.executable, "-m", "bentoml", "serve", "serving.service:Samedigit", "--working-dir", str(ROOT),
        "--host", host, "--port", str(port),
        "--timeout-graceful-shutdown", str(settings.grace_seconds),  # BentoML's default is a day
    ]  # fmt: skip
    if settings.tls_certificate is not None and settings.tls_key is not None:
        command += ["--ssl-certfile", settings.tls_certificate, "--ssl-keyfile", settings.tls_key]
    return command


def serve_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `settings`, with where the rooms are, and without bentoml's reports of usage."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return unreported({"PYTHONPATH": path, **settings})


def unreported(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `variables`, and without bentoml's reports of usage."""
    return {"BENTOML_DO_NOT_TRACK": "true", **os.environ, **variables}


def adopt_options(params: Mapping[str, Any], environment: MutableMapping[str, str]) -> None:
    """Sets in `environment` what `bentoml serve` was told by its own options, so that workers and the data plane follow.

    Whoever hides BentoML's port hides the data plane too, unless a setting gives that an address of its own; both ports
    speak TLS or neither; and paths of files become absolute. BentoML imports the service in the folder `--working-dir`, so a
    relative path given to plain `bentoml serve` begins there, as it does for its own port.

    Args:
        params: BentoML's options, by the names that click gives them.

    Raises:
        SettingError: what makes no sense by itself, and what would make one port speak TLS and the other not, or otherwise.
    """
    environment.update(absolute_paths(environment))
    settings, origins = read(environment)
    if origins["data_host"] == "default":
        environment["SAMEDIGIT_DATA_HOST"] = params.get("host") or "0.0.0.0"  # BentoML's default
    certificate, key = params.get("ssl_certfile"), params.get("ssl_keyfile")
    if certificate is None:
        if key is not None:
            raise SettingError("BentoML was given --ssl-keyfile and no --ssl-certfile: TLS needs both.")
        if settings.tls_certificate is not None:
            raise SettingError(
                "SAMEDIGIT_TLS_CERTIFICATE is set, and BentoML was given no certificate: its port would speak plain HTTP. "
                "Start it with `samedigit serve`, or with --ssl-certfile and --ssl-keyfile."
            )
        return
    for option in _TLS_OPTIONS:
        if params.get(option) is not None:
            name = "--" + option.replace("_", "-")
            raise SettingError(f"BentoML was given {name}, which the data plane would not follow. Leave it out.")
    given = (_absolute(certificate), _absolute(key or certificate))  # one file may hold both
    if settings.tls_certificate is not None and (settings.tls_certificate, settings.tls_key) != given:
        raise SettingError(
            "BentoML was given another certificate than SAMEDIGIT_TLS_CERTIFICATE and SAMEDIGIT_TLS_KEY. Leave one out."
        )
    environment["SAMEDIGIT_TLS_CERTIFICATE"], environment["SAMEDIGIT_TLS_KEY"] = given


def _absolute(path: str) -> str:
    return str(Path(path).absolute())
