"""The server in one process: `python -m serving`, the room by its own name, since all of it is what runs.

`bentoml serve` is two processes that import BentoML in turn: a supervisor, and the worker that it starts, and starts again.
A container's engine does the second already. Here the same service runs under uvicorn in the process that was started; what
it does is the same, but that nothing starts it again. Where the settings ask for several workers, it becomes `bentoml serve`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from digits.errors import SamedigitError, SettingError
from serving.settings import Settings, read_settings
from serving.start import BENTOML_PORT, adopt_options, bentoml_command

log = logging.getLogger("serving")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for every one.")
@click.option("--port", default=BENTOML_PORT, show_default=True, type=click.IntRange(1, 65535), help="BentoML's port.")
def main(host: str, port: int) -> None:
    """Serve the stored models in this process. Settings come from SAMEDIGIT_* variables."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        settings = _settings(host)
        if settings.workers > 1:
            command = bentoml_command(host=host, port=port, settings=settings)
            os.execv(command[0], command)
        _serve(settings, host=host, port=port)
    except SamedigitError as error:
        raise click.ClickException(str(error)) from error


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Before uvicorn listens to signals, and after it has followed one, which it then raises again."""
    sys.exit(0)


def _settings(host: str) -> Settings:
    """The settings, with those that follow from `host` put into the environment, where the service reads them."""
    given = read_settings()
    tls = {"ssl_certfile": given.tls_certificate, "ssl_keyfile": given.tls_key}
    adopt_options({"host": host, **tls}, os.environ)
    return read_settings()


def _serve(settings: Settings, *, host: str, port: int) -> None:
    from serving.checks import check_start
    from serving.ports.data_port import BACKLOG, bound_socket

    check_start(settings, port=port)
    try:
        listener = bound_socket(host, port)
    except OSError as error:
        raise SettingError(
            f"BentoML's port cannot listen on {host}, port {port}: {error.strerror}. Give --port a free one."
        ) from error
    _configure_logging()

    import uvicorn

    from serving.service import service

    config = uvicorn.Config(
        service.to_asgi(),
        backlog=BACKLOG,
        log_config=None,
        server_header=False,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=settings.grace_seconds,
    )
    scheme = "http" if settings.tls_certificate is None else "https"
    log.info(
        "Starting: BentoML's port is %s://%s:%d, the data plane %s://%s:%d (Ctrl-C ends it)",
        scheme, host, port, scheme, settings.data_host, settings.data_port,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])


def _configure_logging() -> None:
    """To standard output, as BentoML's workers do."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s [%(levelname)s] %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        stream=sys.stdout,
    )
    for name in ("bentoml", "serving"):
        logging.getLogger(name).setLevel(logging.INFO)


if __name__ == "__main__":
    main(prog_name="python -m serving")
