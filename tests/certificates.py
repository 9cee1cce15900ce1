"""Certificates for servers under test, made by openssl on the spot."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificate:
    """A certificate for localhost that signed itself, and its key: two PEM files."""

    certificate: Path
    key: Path

    @property
    def variables(self) -> dict[str, str]:
        """What makes the data plane use it; BentoML takes `options`."""
        return {"SAMEDIGIT_TLS_CERTIFICATE": str(self.certificate), "SAMEDIGIT_TLS_KEY": str(self.key)}

    @property
    def options(self) -> list[str]:
        """What makes `bentoml serve` use it."""
        return ["--ssl-certfile", str(self.certificate), "--ssl-keyfile", str(self.key)]

    def client_context(self) -> ssl.SSLContext:
        """For a client that trusts this certificate and no other."""
        return ssl.create_default_context(cafile=str(self.certificate))


def make_certificate(folder: Path, name: str = "server") -> Certificate:
    """A new one, for localhost, 127.0.0.1 and ::1, good for two days."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1",
        "-keyout", str(made.key), "-out", str(made.certificate),
    )  # fmt: skip
    return made


def openssl(*arguments: str) -> None:
    command = shutil.which("openssl")
    if command is None:
        if os.environ.get("CI") == "true":
            pytest.fail("openssl is not installed, and CI must not skip")
        pytest.skip("not installed: openssl")
    subprocess.run([command, *arguments], check=True, capture_output=True, timeout=30)
