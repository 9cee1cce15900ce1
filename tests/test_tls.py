"""TLS on the data port: what its context speaks, and certificates that stop the start."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import pytest
from certificates import Certificate, make_certificate, openssl

from digits.errors import SettingError
from serving.ports.tls import server_context
from serving.settings import Settings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def settings(certificate: Path, key: Path) -> Settings:
    return Settings(tls_certificate=str(certificate), tls_key=str(key))


def refused(certificate: Path, key: Path) -> str:
    with pytest.raises(SettingError) as stopped:
        server_context(settings(certificate, key))
    return str(stopped.value)


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """A handshake without sockets; the client's end."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for end in (ours, theirs):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
    assert done == {ours, theirs}
    return ours


def test_without_a_certificate_the_port_speaks_plain_http() -> None:
    assert server_context(Settings()) is None


def test_a_client_that_trusts_the_certificate_gets_the_protocol_that_it_asks_for_over_tls_1_3(
    made: Certificate,
) -> None:
    server, client = server_context(settings(made.certificate, made.key)), made.client_context()
    assert server is not None
    for offered, agreed in ((["http/1.1", "h2"], "h2"), (["http/1.1"], "http/1.1"), (["h3"], None)):
        client.set_alpn_protocols(offered)
        end = shake_hands(server, client)
        assert (end.version(), end.selected_alpn_protocol()) == ("TLSv1.3", agreed)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake_hands(server, client).version() == "TLSv1.2"


def test_tls_1_1_is_not_spoken(made: Certificate) -> None:
    server = server_context(settings(made.certificate, made.key))
    assert server is not None
    assert server.minimum_version is ssl.TLSVersion.TLSv1_2


def test_one_file_may_hold_both(made: Certificate, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(made.key.read_bytes() + made.certificate.read_bytes())
    assert server_context(settings(both, both)) is not None


def test_a_file_that_is_not_there_or_not_pem_stops_the_start(made: Certificate, tmp_path: Path) -> None:
    nowhere, text = tmp_path / "nowhere", tmp_path / "text"
    text.write_text("not PEM")
    missing = f"{nowhere}, cannot be read: No such file or directory."
    assert refused(nowhere, made.key) == f"SAMEDIGIT_TLS_CERTIFICATE, {missing}"
    assert refused(made.certificate, nowhere) == f"SAMEDIGIT_TLS_KEY, {missing}"
    assert refused(tmp_path, made.key) == f"SAMEDIGIT_TLS_CERTIFICATE, {tmp_path}, cannot be read: Is a directory."
    assert refused(text, made.key) == f"SAMEDIGIT_TLS_CERTIFICATE, {text}, is no certificate in PEM."
    assert refused(made.certificate, text) == f"SAMEDIGIT_TLS_KEY, {text}, is no private key in PEM."
    assert "is no certificate in PEM" in refused(made.key, made.certificate)  # the two confused


def test_a_key_of_another_certificate_stops_the_start(made: Certificate, tmp_path: Path) -> None:
    other = make_certificate(tmp_path, "other")
    said = refused(made.certificate, other.key)
    assert said == f"SAMEDIGIT_TLS_KEY, {other.key}, is not the key of {made.certificate}."


@pytest.mark.parametrize("damaged", ["certificate", "key"])
def test_damaged_pem_stops_the_start(damaged: str, made: Certificate, tmp_path: Path) -> None:
    copies = {name: tmp_path / name for name in ("certificate", "key")}
    for name, copy in copies.items():
        shutil.copy(getattr(made, name), copy)
    lines = copies[damaged].read_text().splitlines()
    copies[damaged].write_text("\n".join([lines[0], "AAAA" + lines[1][4:], *lines[2:]]))
    said = refused(copies["certificate"], copies["key"])
    assert "cannot be used" in said
    assert "\n" not in said


@pytest.mark.timeout(30)  # openssl would ask at the terminal
def test_a_key_with_a_password_stops_the_start_and_nobody_is_asked(made: Certificate, tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    openssl("pkey", "-in", str(made.key), "-aes256", "-passout", "pass:secret", "-out", str(locked))
    said = refused(made.certificate, locked)
    assert said.startswith(f"SAMEDIGIT_TLS_KEY, {locked}, needs a password")
