"""What the environment and a TOML file may say, and what they are told when they say nonsense."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import PROJECT

from digits.errors import DeviceError, SettingError
from runtimes.device import CPU, Device, choose_device, count_gpus
from serving.settings import (
    OTHERS,
    TABLE,
    Settings,
    absolute_paths,
    help_text,
    markdown_table,
    read,
    read_settings,
    shown,
)

FIRST = "first-key-0123456789"
SECOND = "second-key-0123456789"


class Example(NamedTuple):
    text: str  # of a variable
    toml: str
    value: Any


def whole(number: int) -> Example:
    return Example(str(number), str(number), number)


# Another value than the default for each setting. Those that need each other are set together below.
EXAMPLES = {
    "backends": Example("onnx, numpy,", '["onnx", "numpy"]', ("onnx", "numpy")),
    "models": Example(
        " torch-relu ,numpy-sigmoid:abc", '["torch-relu", "numpy-sigmoid:abc"]', ("torch-relu", "numpy-sigmoid:abc")
    ),
    "model_folder": Example("/models", '"/models"', "/models"),
    "device": Example("cuda:1", '"cuda:1"', "cuda:1"),
    "data_host": Example("::1", '"::1"', "::1"),
    "data_port": whole(65535),
    "grpc_port": whole(8001),
    "workers": whole(2),
    "max_batch": whole(16),
    "batch_budget_ms": whole(20),
    "max_queue": whole(17),
    "max_waiting": whole(19),
    "deadline_ms": whole(18),
    "max_images": whole(3),
    "max_body_bytes": whole(4096),
    "max_pixels": whole(1000),
    "max_pictures": whole(3),
    "max_head_bytes": whole(4097),
    "max_target_bytes": whole(4098),
    "max_headers": whole(20),
    "max_connections": whole(21),
    "max_connections_per_address": whole(22),
    "max_requests": whole(23),
    "max_request_bytes": whole(16 * 1024 * 1024),
    "max_streams": whole(41),
    "max_resets": whole(42),
    "max_control_frames": whole(43),
    "max_unsent_bytes": whole(44),
    "max_rate": whole(24),
    "head_seconds": whole(1),
    "body_seconds": whole(2),
    "min_body_bytes_per_second": whole(0),
    "idle_seconds": whole(4),
    "grace_seconds": whole(86400),
    "tls_certificate": Example("/etc/server.pem", '"/etc/server.pem"', "/etc/server.pem"),
    "tls_key": Example("/etc/server.key", '"/etc/server.key"', "/etc/server.key"),
    "keys": Example(f"{FIRST},{SECOND}", f'["{FIRST}", "{SECOND}"]', (FIRST, SECOND)),
    "keys_file": Example("/etc/keys", '"/etc/keys"', "/etc/keys"),
    "control": Example("on", "true", True),
    "control_keys": Example(SECOND, f'["{SECOND}"]', (SECOND,)),
    "control_keys_file": Example("/etc/control", '"/etc/control"', "/etc/control"),
    "cors_origins": Example(
        "https://a.example, http://localhost:5173", '["https://a.example", "http://localhost:5173"]',
        ("https://a.example", "http://localhost:5173"),
    ),
    "watch": Example("on", '"on"', True),
    "access_log": Example("-", '"-"', "-"),
    "access_log_sample": Example("0.25", "0.25", 0.25),
}  # fmt: skip
TOGETHER = {"tls_certificate": "tls_key", "tls_key": "tls_certificate", "control": "control_keys"}


def variable(name: str) -> str:
    return f"SAMEDIGIT_{name.upper()}"


def toml(folder: Path, text: str) -> dict[str, str]:
    """The environment that names a TOML file of this text."""
    file = folder / "settings.toml"
    file.write_text(text)
    return {"SAMEDIGIT_SETTINGS": str(file)}


def refused(environment: dict[str, str]) -> str:
    with pytest.raises(SettingError) as stopped:
        read_settings(environment)
    said = str(stopped.value)
    assert "\n" not in said
    return said


def test_without_variables_everything_is_served_with_the_documented_limits() -> None:
    settings = read_settings({})
    assert settings == Settings()
    assert settings.backends is None
    assert settings.models is None
    assert settings.device == "auto"
    assert settings.max_images == 1024
    assert settings.max_body_bytes == 8 * 1024 * 1024
    assert (settings.data_host, settings.data_port) == ("127.0.0.1", 8000)
    assert settings.workers == 1
    assert settings.max_batch == 256
    assert settings.max_queue == 4096
    assert settings.deadline_ms == 5000
    assert (settings.control, settings.keys, settings.cors_origins) == (False, (), ())
    assert settings.access_log_sample == 1


def test_there_is_an_example_of_every_setting_and_none_is_the_default() -> None:
    assert list(EXAMPLES) == [row.name for row in TABLE] == [field.name for field in dataclasses.fields(Settings)]
    assert all(EXAMPLES[row.name].value != row.default for row in TABLE)


def test_an_empty_variable_counts_as_unset() -> None:
    assert read_settings({variable(name): "" for name in EXAMPLES}) == read_settings({})
    assert read_settings({"SAMEDIGIT_NO_SUCH_SETTING": "", "SAMEDIGIT_SETTINGS": ""}) == read_settings({})


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_setting_is_read_from_the_environment_and_no_other_changes(name: str) -> None:
    names = {name, TOGETHER.get(name, name)}
    settings, origins = read({variable(each): EXAMPLES[each].text for each in names})
    assert settings == dataclasses.replace(Settings(), **{each: EXAMPLES[each].value for each in names})
    assert type(getattr(settings, name)) is type(EXAMPLES[name].value)
    assert {each for each, origin in origins.items() if origin == "environment"} == names


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_setting_is_read_from_a_file_and_no_other_changes(name: str, tmp_path: Path) -> None:
    names = {name, TOGETHER.get(name, name)}
    environment = toml(tmp_path, "".join(f"{each} = {EXAMPLES[each].toml}\n" for each in names))
    settings, origins = read(environment)
    assert settings == dataclasses.replace(Settings(), **{each: EXAMPLES[each].value for each in names})
    assert type(getattr(settings, name)) is type(EXAMPLES[name].value)
    assert {origins[each] for each in names} == {f"file {tmp_path / 'settings.toml'}"}
    assert {origins[each] for each in EXAMPLES.keys() - names} == {"default"}


def test_the_environment_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    environment = toml(tmp_path, "max_images = 7\nmax_queue = 8\n")
    settings, origins = read({**environment, "SAMEDIGIT_MAX_IMAGES": "9", "SAMEDIGIT_MAX_QUEUE": ""})
    assert (settings.max_images, settings.max_queue, settings.max_batch) == (9, 8, 256)
    file = f"file {tmp_path / 'settings.toml'}"
    assert (origins["max_images"], origins["max_queue"], origins["max_batch"]) == ("environment", file, "default")


@pytest.mark.parametrize("text", ["control = true", 'control = "on"'])
def test_a_switch_in_a_file_is_a_boolean_or_a_word(text: str, tmp_path: Path) -> None:
    assert read_settings(toml(tmp_path, f'{text}\nwatch = false\ncontrol_keys = ["{FIRST}"]')).control
    assert not read_settings(toml(tmp_path, 'control = "off"')).control


def test_files_named_in_a_file_are_beside_it_and_those_of_the_environment_where_the_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deploy").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deploy" / "s.toml").write_text(
        'keys_file = "keys"\naccess_log = "-"\ntls_key = "/k"\ntls_certificate = "c"'
    )
    given = {
        "SAMEDIGIT_SETTINGS": "deploy/s.toml",
        "SAMEDIGIT_ACCESS_LOG": "log",
        "SAMEDIGIT_CONTROL_KEYS_FILE": "/control",
        "SAMEDIGIT_DEVICE": "cpu",
        "SAMEDIGIT_TLS_KEY": "",
    }
    settings = read_settings(given)
    assert settings.keys_file == str(tmp_path / "deploy" / "keys")
    assert (settings.tls_key, settings.tls_certificate) == ("/k", str(tmp_path / "deploy" / "c"))
    assert absolute_paths(given) == {
        "SAMEDIGIT_SETTINGS": str(tmp_path / "deploy" / "s.toml"),
        "SAMEDIGIT_ACCESS_LOG": str(tmp_path / "log"),
    }
    assert absolute_paths({"SAMEDIGIT_ACCESS_LOG": "-"}) == {}


@pytest.mark.parametrize("value", ["jax", "onnx,jax", "ONNX", "keras"])
def test_an_unknown_backend_is_named_with_those_there_are(value: str) -> None:
    said = refused({"SAMEDIGIT_BACKENDS": value})
    assert said.startswith("SAMEDIGIT_BACKENDS takes numpy, torch, tensorflow, onnx, comma-separated")
    assert said.endswith(f"; got {value.split(',')[-1]!r}.")


@pytest.mark.parametrize("name", ["MAX_IMAGES", "MAX_CONNECTIONS", "MAX_BATCH", "MAX_QUEUE", "MAX_REQUESTS"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "1e3", "many", " 5", "²", "٣", "1000001"])
def test_a_limit_that_is_no_whole_number_in_its_range_is_refused_with_its_name(name: str, value: str) -> None:
    said = refused({f"SAMEDIGIT_{name}": value})
    assert said == f"SAMEDIGIT_{name} takes a whole number from 1 to 1000000; got {value!r}."


WHOLE = [row.name for row in TABLE if row.form.takes.startswith("takes a whole number")]


@pytest.mark.parametrize("name", WHOLE)
def test_each_limit_takes_its_least_and_its_most_and_nothing_beyond(name: str) -> None:
    (row,) = (row for row in TABLE if row.name == name)
    least, most = map(int, re.findall(r"\d+", row.form.takes))
    # The one that another must not exceed follows it.
    room = {"SAMEDIGIT_MAX_REQUEST_BYTES": str(2**40)} if name == "max_body_bytes" else {}
    room |= {"SAMEDIGIT_MAX_BODY_BYTES": "1"} if name == "max_request_bytes" else {}
    for good in (least, most):
        assert getattr(read_settings({**room, variable(name): str(good)}), name) == good
    for bad in (least - 1, most + 1):
        assert refused({**room, variable(name): str(bad)}).startswith(
            f"{variable(name)} takes a whole number from {least}"
        )


def test_a_number_of_thousands_of_digits_is_refused_and_not_quoted_whole() -> None:
    assert len(refused({"SAMEDIGIT_MAX_IMAGES": "9" * 5000})) < 200


@pytest.mark.parametrize("value", ["0", "65536", "-1", "http", "²", "8000 ", "tcp://10.0.0.1:8000"])
def test_a_data_port_that_is_none_is_refused_with_those_there_are(value: str) -> None:
    said = refused({"SAMEDIGIT_DATA_PORT": value})
    assert said == f"SAMEDIGIT_DATA_PORT takes a whole number from 1 to 65535; got {value!r}."


@pytest.mark.parametrize("value", ["localhost", "256.0.0.1", "127.0.0.1:8000", "*", "[::1]"])
def test_a_data_host_that_is_no_address_is_refused(value: str) -> None:
    assert refused({"SAMEDIGIT_DATA_HOST": value}) == (
        f"SAMEDIGIT_DATA_HOST, like --host, takes an IP address; got {value!r}."
    )


@pytest.mark.parametrize("value", ["0", "-0.5", "1.1", "nan", "inf", "half", "50%"])
def test_a_share_that_is_none_is_refused(value: str) -> None:
    said = refused({"SAMEDIGIT_ACCESS_LOG_SAMPLE": value})
    assert said == f"SAMEDIGIT_ACCESS_LOG_SAMPLE takes a number above 0 and up to 1; got {value!r}."


@pytest.mark.parametrize("name", ["CONTROL", "WATCH"])
@pytest.mark.parametrize("value", ["yes", "ON", "true", "1", " on"])
def test_a_switch_takes_on_or_off_so_that_no_typing_error_turns_it_off(name: str, value: str) -> None:
    assert refused({f"SAMEDIGIT_{name}": value}) == f"SAMEDIGIT_{name} takes on or off; got {value!r}."


@pytest.mark.parametrize(
    "value",
    [
        "example.org",
        "https://example.org/",
        "https://Example.org",
        "null",
        "https://a.b\r\nx: y",
        "https://*.org",
        "**",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(value: str) -> None:
    said = refused({"SAMEDIGIT_CORS_ORIGINS": f"https://good.example,{value}"})
    assert said.startswith("SAMEDIGIT_CORS_ORIGINS takes origins such as https://example.org, or *")
    assert said.endswith(f"; got {value!r}.")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SAMEDIGIT_MAX_IMAGE", "SAMEDIGIT_MAX_IMAGES"),
        ("SAMEDIGIT_DEVICES", "SAMEDIGIT_DEVICE"),
        ("SAMEDIGIT_MAXQUEUE", "SAMEDIGIT_MAX_QUEUE"),
        ("SAMEDIGIT_API_KEYS", "SAMEDIGIT_KEYS"),
        ("SAMEDIGIT_SETTING", "SAMEDIGIT_SETTINGS"),
        ("SAMEDIGIT_DATAPORT", "SAMEDIGIT_DATA_PORT"),
        ("SAMEDIGIT_max_images", "SAMEDIGIT_"),
        ("SAMEDIGIT_", "SAMEDIGIT_"),
    ],
)
def test_a_variable_that_is_no_setting_stops_the_start_and_names_the_nearest(name: str, nearest: str) -> None:
    said = refused({name: "3000"})
    assert said.startswith(f"{name} is no setting; the nearest is {nearest}")
    assert "3000" not in said


@pytest.mark.parametrize("name", sorted(OTHERS - {"SAMEDIGIT_SETTINGS"}))
def test_a_variable_that_belongs_to_another_part_is_left_alone(name: str) -> None:
    assert read_settings({name: "anything"}) == Settings()


def test_every_variable_that_the_project_names_is_known() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    known = OTHERS | {row.variable for row in TABLE}
    for name in listed.splitlines():
        if not name.startswith("tests/") and (PROJECT / name).suffix in {".py", ".md", ".yaml", "", ".ipynb"}:
            named = set(re.findall(r"SAMEDIGIT_[A-Z_]*[A-Z]\b", (PROJECT / name).read_text()))
            assert named <= known, name


def test_what_kubernetes_says_of_a_service_of_that_name_is_no_setting() -> None:
    links = {
        "SAMEDIGIT_SERVICE_HOST": "10.0.0.1",
        "SAMEDIGIT_SERVICE_PORT": "3000",
        "SAMEDIGIT_SERVICE_PORT_HTTP": "3000",
        "SAMEDIGIT_PORT": "tcp://10.0.0.1:3000",
        "SAMEDIGIT_PORT_3000_TCP": "tcp://10.0.0.1:3000",
        "SAMEDIGIT_PORT_3000_TCP_PROTO": "tcp",
        "SAMEDIGIT_PORT_3000_TCP_PORT": "3000",
        "SAMEDIGIT_PORT_3000_TCP_ADDR": "10.0.0.1",
        "SAMEDIGIT_CANARY_SERVICE_HOST": "10.0.0.2",
        "SAMEDIGIT_CANARY_PORT": "tcp://10.0.0.2:3000",
    }
    assert read_settings(links) == Settings()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_image = 3", "'max_image' in FILE is no setting; the nearest is max_images."),
        ("MAX_IMAGES = 3", "'MAX_IMAGES' in FILE is no setting; the nearest is"),
        ("[limits]\nmax_images = 3", "'limits' in FILE is no setting; the nearest is"),
        ('max_images = "3"', "max_images in FILE takes a whole number from 1 to 1000000; got '3'."),
        ("max_images = 3.0", "max_images in FILE takes a whole number from 1 to 1000000; got 3.0."),
        ("max_images = true", "max_images in FILE takes a whole number from 1 to 1000000; got True."),
        ("max_images = 0", "max_images in FILE takes a whole number from 1 to 1000000; got 0."),
        ("max_images = [3]", "max_images in FILE takes a whole number from 1 to 1000000; got [3]."),
        ('access_log_sample = "1"', "access_log_sample in FILE takes a number above 0 and up to 1; got '1'."),
        ("access_log_sample = nan", "access_log_sample in FILE takes a number above 0 and up to 1; got nan."),
        ("access_log_sample = true", "access_log_sample in FILE takes a number above 0 and up to 1; got True."),
        ("watch = 1", "watch in FILE takes on or off; got 1."),
        ("data_host = 127", "data_host in FILE, like --host, takes an IP address; got 127."),
        ('device = ""', "device in FILE takes auto, cpu, cuda or cuda:INDEX; got ''."),
        ("device = 1", "device in FILE takes auto, cpu, cuda or cuda:INDEX; got 1."),
        ('backends = "onnx"', "backends in FILE takes numpy, torch, tensorflow, onnx, comma-separated (in TOML, a list)"),
        ('backends = ["jax"]', "(in TOML, a list); got 'jax'."),
        ("models = [1]", "; got 1."),
        ('models = [""]', "; got ''."),
        ('keys_file = "a\\u0000b"', "keys_file in FILE takes the path of a file; got 'a\\x00b'."),
        ("max_images = ", "SAMEDIGIT_SETTINGS, FILE, is not TOML: Invalid value (at end of document)."),
        ("max_images == 3", "SAMEDIGIT_SETTINGS, FILE, is not TOML: Invalid value (at line 1, column 13)."),
        ("workers = 1\nworkers = 2", "SAMEDIGIT_SETTINGS, FILE, is not TOML: Cannot overwrite a value (at end of document)."),
        ("max_images = " + "9" * 5000, "SAMEDIGIT_SETTINGS, FILE, is not TOML."),
        ("models = " + "[" * 5000, "SAMEDIGIT_SETTINGS, FILE, is not TOML."),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_stops_the_start_with_its_place(text: str, says: str, tmp_path: Path) -> None:
    said = refused(toml(tmp_path, text))
    assert says.rstrip() in said.replace(str(tmp_path / "settings.toml"), "FILE")


def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere.toml")
    assert refused({"SAMEDIGIT_SETTINGS": nowhere}) == (
        f"SAMEDIGIT_SETTINGS, {nowhere}, cannot be read: No such file or directory."
    )
    assert refused({"SAMEDIGIT_SETTINGS": str(tmp_path)}).endswith("cannot be read: Is a directory.")
    (tmp_path / "latin.toml").write_bytes(b'device = "\xe9"')
    assert refused({"SAMEDIGIT_SETTINGS": str(tmp_path / "latin.toml")}).endswith("latin.toml, is not TOML.")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (
            {"SAMEDIGIT_CONTROL": "on"},
            "SAMEDIGIT_CONTROL is on, and nobody could use it: it needs a key of its own. "
            "Make one: export SAMEDIGIT_CONTROL_KEYS=$(openssl rand -hex 24)",
        ),
        ({"SAMEDIGIT_CONTROL": "on", "SAMEDIGIT_KEYS": FIRST}, "SAMEDIGIT_CONTROL is on, and nobody could use it"),
        ({"SAMEDIGIT_TLS_CERTIFICATE": "/c"}, "SAMEDIGIT_TLS_CERTIFICATE is set and SAMEDIGIT_TLS_KEY is not: TLS needs both."),
        ({"SAMEDIGIT_TLS_KEY": "/k"}, "SAMEDIGIT_TLS_KEY is set and SAMEDIGIT_TLS_CERTIFICATE is not: TLS needs both."),
        (
            {"SAMEDIGIT_MAX_BODY_BYTES": "268435457"},
            "SAMEDIGIT_MAX_BODY_BYTES is 268435457, and all bodies together may have SAMEDIGIT_MAX_REQUEST_BYTES, 268435456: "
            "the longest would never be admitted.",
        ),
        ({"SAMEDIGIT_MAX_REQUEST_BYTES": "1000"}, "SAMEDIGIT_MAX_BODY_BYTES is 8388608"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_together_stop_the_start(environment: dict[str, str], says: str) -> None:
    assert refused(environment).startswith(says)


def test_settings_that_just_go_together_are_taken() -> None:
    assert read_settings({"SAMEDIGIT_CONTROL": "on", "SAMEDIGIT_CONTROL_KEYS_FILE": "/keys"}).control
    assert read_settings({"SAMEDIGIT_MAX_BODY_BYTES": "268435456"}).max_body_bytes == 268435456
    assert not read_settings({"SAMEDIGIT_CONTROL_KEYS": FIRST}).control


@pytest.mark.parametrize("name", ["keys", "control_keys"])
def test_no_message_and_no_table_quotes_a_key(name: str, tmp_path: Path) -> None:
    assert (name, "2 keys", "environment") in shown(read({variable(name): f"{FIRST},{SECOND}"}))
    assert (name, "1 key", "environment") in shown(read({variable(name): FIRST}))
    assert (name, "none", "default") in shown(read({}))
    for text in (f'{name} = "{FIRST}"', f'{name} = ["{FIRST}", 3]', f"{name} = {FIRST}", f'{name} = ["{FIRST}"'):
        assert FIRST not in refused(toml(tmp_path, text))
    assert FIRST not in refused({variable(name) + "S": FIRST})


def test_the_table_that_is_shown_has_every_setting_with_its_unit_and_origin() -> None:
    rows = {
        name: (value, origin)
        for name, value, origin in shown(read({"SAMEDIGIT_IDLE_SECONDS": "3", "SAMEDIGIT_WATCH": "on"}))
    }
    assert list(rows) == list(EXAMPLES)
    assert rows["idle_seconds"] == ("3 s", "environment")
    assert rows["watch"] == ("on", "environment")
    assert rows["control"] == ("off", "default")
    assert rows["backends"] == ("all installed", "default")
    assert rows["max_body_bytes"] == ("8388608 bytes", "default")
    assert rows["access_log_sample"] == ("1", "default")


def test_the_readme_holds_the_table() -> None:
    assert markdown_table() in (PROJECT / "docs" / "serving.md").read_text()


def test_the_help_has_a_line_for_every_setting() -> None:
    assert [line.split(" ")[0] for line in help_text().splitlines()] == [variable(name) for name in EXAMPLES]


def test_the_cpu_is_there() -> None:
    assert choose_device("cpu") == CPU
    assert str(CPU) == "cpu"


def test_auto_takes_the_first_gpu_and_else_the_cpu() -> None:
    assert choose_device("auto") == (Device("cuda", 0) if count_gpus() else CPU)


@pytest.mark.parametrize("wish", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", "", "cpu:0", "cuda:0 ", "cuda:0\n"])
def test_a_device_of_no_known_kind_is_refused_with_those_there_are(wish: str) -> None:
    with pytest.raises(SettingError) as refused:
        choose_device(wish)
    assert "auto, cpu, cuda or cuda:INDEX" in str(refused.value)
    assert repr(wish) in str(refused.value)


def test_a_gpu_that_is_not_there_is_an_error_and_never_a_silent_cpu() -> None:
    wish = f"cuda:{count_gpus()}"
    with pytest.raises(DeviceError, match=f"The device {wish} was asked for, but CUDA sees"):
        choose_device(wish)


@pytest.mark.skipif(count_gpus() > 0, reason="has a GPU")
def test_without_a_gpu_cuda_is_an_error_that_says_what_to_use() -> None:
    with pytest.raises(DeviceError, match=r"CUDA sees no GPU here\. Use auto or cpu"):
        choose_device("cuda")
