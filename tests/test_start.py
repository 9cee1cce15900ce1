"""How a server is started: BentoML's options and ours agree, and `samedigit serve` shows what it would start."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from certificates import make_certificate
from conftest import PROJECT, require_recipe
from servers import start_of

from digits.errors import SettingError
from loadtests.server import DidNotStart, free_ports, started
from serving.keys import keys_of
from serving.settings import Settings, read_settings
from serving.start import adopt_options, bentoml_command, serve_command, serve_environment

FIRST = "first-key-0123456789"
SECOND = "second-key-0123456789"


def serve(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "samedigit", "serve", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )


def refused(params: Mapping[str, object], environment: dict[str, str]) -> str:
    with pytest.raises(SettingError) as stopped:
        adopt_options(params, environment)
    return str(stopped.value)


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), (None, "0.0.0.0")])
def test_the_data_plane_listens_where_bentoml_does(host: str | None, expected: str) -> None:
    environment: dict[str, str] = {}
    adopt_options({"host": host}, environment)
    assert environment == {"SAMEDIGIT_DATA_HOST": expected}


def test_a_data_host_of_its_own_stays(tmp_path: Path) -> None:
    environment = {"SAMEDIGIT_DATA_HOST": "10.0.0.1"}
    adopt_options({"host": "127.0.0.1"}, environment)
    assert environment == {"SAMEDIGIT_DATA_HOST": "10.0.0.1"}
    (tmp_path / "s.toml").write_text('data_host = "10.0.0.2"')
    environment = {"SAMEDIGIT_SETTINGS": str(tmp_path / "s.toml")}
    adopt_options({"host": "127.0.0.1"}, environment)
    assert read_settings(environment).data_host == "10.0.0.2"


def test_the_data_plane_takes_bentomls_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment: dict[str, str] = {}
    adopt_options({"host": "::1", "ssl_certfile": "c.pem", "ssl_keyfile": "/k.pem", "ssl_ciphers": None}, environment)
    settings = read_settings(environment)
    assert (settings.tls_certificate, settings.tls_key) == (str(tmp_path / "c.pem"), "/k.pem")
    environment = {}
    adopt_options({"ssl_certfile": "/both.pem", "ssl_keyfile": None}, environment)
    assert (environment["SAMEDIGIT_TLS_CERTIFICATE"], environment["SAMEDIGIT_TLS_KEY"]) == ("/both.pem", "/both.pem")


def test_the_same_certificate_by_both_ways_is_no_contradiction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"SAMEDIGIT_TLS_CERTIFICATE": "c.pem", "SAMEDIGIT_TLS_KEY": str(tmp_path / "k.pem")}
    adopt_options({"ssl_certfile": str(tmp_path / "c.pem"), "ssl_keyfile": "k.pem"}, environment)
    assert environment["SAMEDIGIT_TLS_CERTIFICATE"] == str(tmp_path / "c.pem")


def test_tls_on_one_port_alone_stops_the_start() -> None:
    both = {"SAMEDIGIT_TLS_CERTIFICATE": "/c", "SAMEDIGIT_TLS_KEY": "/k"}
    assert "BentoML was given no certificate: its port would speak plain HTTP" in refused({"host": None}, dict(both))
    given = {"ssl_certfile": "/other", "ssl_keyfile": "/k"}
    assert "BentoML was given another certificate" in refused(given, dict(both))
    assert "BentoML was given another certificate" in refused(
        {"ssl_certfile": "/c", "ssl_keyfile": "/other"}, dict(both)
    )
    assert "--ssl-keyfile and no --ssl-certfile" in refused({"ssl_certfile": None, "ssl_keyfile": "/k"}, {})


@pytest.mark.parametrize("option", ["keyfile-password", "version", "cert-reqs", "ca-certs", "ciphers"])
def test_what_bentoml_would_ask_of_clients_on_its_port_alone_stops_the_start(option: str) -> None:
    params = {"ssl_certfile": "/c", "ssl_keyfile": "/k", f"ssl_{option.replace('-', '_')}": 0}
    said = refused(params, {})
    assert said == f"BentoML was given --ssl-{option}, which the data plane would not follow. Leave it out."
    assert "/k" not in said


def test_relative_paths_become_absolute_for_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"SAMEDIGIT_KEYS_FILE": "keys"}
    adopt_options({"host": "::1"}, environment)
    assert environment["SAMEDIGIT_KEYS_FILE"] == str(tmp_path / "keys")


def test_bentomls_command_has_the_grace_and_the_certificate_of_the_settings() -> None:
    command = bentoml_command(
        host="::1", port=5, settings=Settings(grace_seconds=7, tls_certificate="/c", tls_key="/k")
    )
    options = dict(zip(command[5::2], command[6::2], strict=True))
    assert options["--timeout-graceful-shutdown"] == "7"
    assert (options["--ssl-certfile"], options["--ssl-keyfile"]) == ("/c", "/k")
    plain = bentoml_command(host="::1", port=5)
    assert plain[-2:] == ["--timeout-graceful-shutdown", "10"]


def test_a_folder_that_has_the_same_name_and_lies_about_is_not_taken_for_the_server(tmp_path: Path) -> None:
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving/__init__.py").touch()
    (tmp_path / "serving/__main__.py").write_text("print('not this one')")
    command = [*serve_command(host="127.0.0.1", port=5), "--help"]
    said = subprocess.run(
        command, env=serve_environment({}), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert "Serve the stored models in this process" in said.stdout


def test_a_port_of_bentomls_that_is_taken_stops_the_start_with_a_sentence(trained_home: Path) -> None:
    require_recipe("numpy-sigmoid")
    free, data_port = free_ports(2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        start = start_of(trained_home, {"SAMEDIGIT_BACKENDS": "numpy"}, port=port, data_port=data_port)
        # Whoever has the port is not asked whether it is ready.
        start = dataclasses.replace(start, ready=[f"http://127.0.0.1:{free}/readyz"])
        with pytest.raises(DidNotStart) as failed, started(start):
            pass
    assert failed.value.exit_code == 1
    assert failed.value.printed == (
        f"Error: BentoML's port cannot listen on 127.0.0.1, port {port}: Address already in use. Give --port a free one.\n"
    )


def test_a_host_that_is_no_address_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "serving", "--host", "localhost"],
        cwd=PROJECT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == "Error: SAMEDIGIT_DATA_HOST, like --host, takes an IP address; got 'localhost'.\n"


def test_keys_of_requests_and_of_control_are_apart(tmp_path: Path) -> None:
    keys, control = keys_of(Settings(keys=(FIRST,), control_keys=(SECOND,)))
    assert keys.check({b"x-api-key": FIRST.encode()}) is not None
    assert control.check({b"x-api-key": SECOND.encode()}) is not None
    assert not keys.shares_one_with(control)
    file = tmp_path / "keys"
    file.write_text(SECOND)
    for settings in (
        Settings(keys=(FIRST, SECOND), control_keys=(SECOND,)),
        Settings(keys=(FIRST,), keys_file=str(file), control_keys=(SECOND,)),
    ):
        with pytest.raises(SettingError, match="A key for control over models is among those for requests") as stopped:
            keys_of(settings)
        assert SECOND not in str(stopped.value)


def test_settings_are_shown_with_their_origin_and_without_keys(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    (tmp_path / "s.toml").write_text("max_images = 64\nmax_queue = 65\n")
    said = serve(
        "--settings", "s.toml", "--show-settings", "--watch", "--host", "::1",
        "--tls-certificate", "server.pem", "--tls-key", made.key,
        cwd=tmp_path, SAMEDIGIT_MAX_QUEUE="66", SAMEDIGIT_KEYS=f"{FIRST},{SECOND}",
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    rows = {name: (value, origin) for name, value, origin in (line.split("  ") for line in squeezed(said.stdout))}
    assert list(rows) == list(vars(Settings()))
    assert rows["max_images"] == ("64 images", f"file {tmp_path / 's.toml'}")
    assert rows["max_queue"] == ("66 images", "environment")
    assert rows["max_batch"] == ("256 images", "default")
    assert rows["watch"] == ("on", "command line")
    assert rows["data_host"] == ("::1", "--host")
    assert rows["tls_certificate"] == (str(made.certificate), "command line")
    assert rows["keys"] == ("2 keys", "environment")
    assert FIRST not in said.stdout


def squeezed(text: str) -> list[str]:
    return ["  ".join(part.strip() for part in line.split("  ") if part.strip()) for line in text.splitlines()]


@pytest.mark.parametrize("arguments", [[], ["--show-settings"]])
def test_an_unknown_or_impossible_setting_stops_the_command_with_a_sentence(
    arguments: list[str], tmp_path: Path
) -> None:
    said = serve(*arguments, cwd=tmp_path, SAMEDIGIT_MAX_IMAGE="3")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("Error: SAMEDIGIT_MAX_IMAGE is no setting; the nearest is SAMEDIGIT_MAX_IMAGES.")
    assert "Traceback" not in said.stderr


def test_showing_settings_looks_at_the_files_that_a_start_would_open(tmp_path: Path) -> None:
    said = serve("--show-settings", cwd=tmp_path, SAMEDIGIT_KEYS_FILE="nowhere")
    assert said.returncode == 2
    assert f"SAMEDIGIT_KEYS_FILE, {tmp_path / 'nowhere'}, cannot be read: No such file or directory." in said.stderr
    said = serve("--show-settings", "--tls-certificate", "c", "--tls-key", "k", cwd=tmp_path)
    assert said.returncode == 2
    assert f"SAMEDIGIT_TLS_CERTIFICATE, {tmp_path / 'c'}, cannot be read" in said.stderr
