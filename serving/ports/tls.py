"""TLS for the data port; BentoML makes its own for its port, from the same two files."""

from __future__ import annotations

import ssl
from pathlib import Path

from digits.errors import SettingError
from serving.settings import Settings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """What the data port speaks TLS with: 1.2 or later, HTTP/2 or HTTP/1.1. None where it speaks plain HTTP.

    The files are read once. A renewed certificate is taken by a restart, as BentoML's port does too.

    Raises:
        SettingError: a file that cannot be read, is not PEM, or needs a password; two that do not belong together.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    certificate, key = settings.tls_certificate, settings.tls_key
    if b"-----BEGIN CERTIFICATE-----" not in _read("SAMEDIGIT_TLS_CERTIFICATE", certificate):
        raise SettingError(f"SAMEDIGIT_TLS_CERTIFICATE, {certificate}, is no certificate in PEM.")
    text = _read("SAMEDIGIT_TLS_KEY", key)
    if b"PRIVATE KEY-----" not in text:
        raise SettingError(f"SAMEDIGIT_TLS_KEY, {key}, is no private key in PEM.")
    if b"ENCRYPTED" in text:
        raise SettingError(
            f"SAMEDIGIT_TLS_KEY, {key}, needs a password, and a server has nobody to ask. "
            f"Write it without one: openssl pkey -in {key} -out FILE"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingError(f"SAMEDIGIT_TLS_KEY, {key}, is not the key of {certificate}.") from error
        raise SettingError(
            f"SAMEDIGIT_TLS_CERTIFICATE, {certificate}, and SAMEDIGIT_TLS_KEY, {key}, cannot be used: "
            f"{error.reason or 'damaged'}."
        ) from error
    return context


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingError(f"{name}, {path}, cannot be read: {error.strerror}.") from error
