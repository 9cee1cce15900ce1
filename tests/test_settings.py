"""What the environment may say, and what it is told when it says nonsense."""

from __future__ import annotations

import dataclasses

import pytest

from digits.errors import DeviceError, SettingError
from runtimes.device import CPU, Device, choose_device, count_gpus
from serving.settings import Settings, read_settings


def test_without_variables_everything_is_served_with_the_documented_limits() -> None:
    settings = read_settings({})
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


def test_an_empty_variable_counts_as_unset() -> None:
    names = [field.name.upper() for field in dataclasses.fields(Settings)]
    assert len(names) == 35
    assert read_settings({f"SAMEDIGIT_{name}": "" for name in names}) == read_settings({})


def test_every_variable_is_read() -> None:
    settings = read_settings(
        {
            "SAMEDIGIT_BACKENDS": "onnx, numpy,",
            "SAMEDIGIT_MODELS": " torch-relu ,numpy-sigmoid:abc",
            "SAMEDIGIT_DEVICE": "cuda:1",
            "SAMEDIGIT_MAX_IMAGES": "3",
            "SAMEDIGIT_MAX_BODY_BYTES": "4096",
            "SAMEDIGIT_DATA_HOST": "::1",
            "SAMEDIGIT_DATA_PORT": "65535",
            "SAMEDIGIT_WORKERS": "2",
            "SAMEDIGIT_MAX_BATCH": "16",
            "SAMEDIGIT_MAX_QUEUE": "17",
            "SAMEDIGIT_DEADLINE_MS": "18",
        }
    )
    assert settings.backends == ("onnx", "numpy")
    assert settings.models == ("torch-relu", "numpy-sigmoid:abc")
    assert settings.device == "cuda:1"
    assert settings.max_images == 3
    assert settings.max_body_bytes == 4096
    assert (settings.data_host, settings.data_port) == ("::1", 65535)
    assert (settings.workers, settings.max_batch, settings.max_queue, settings.deadline_ms) == (2, 16, 17, 18)


@pytest.mark.parametrize("value", ["jax", "onnx,jax", "ONNX", "keras"])
def test_an_unknown_backend_is_named_with_those_there_are(value: str) -> None:
    with pytest.raises(SettingError) as refused:
        read_settings({"SAMEDIGIT_BACKENDS": value})
    assert str(refused.value).startswith("SAMEDIGIT_BACKENDS takes numpy, torch, tensorflow, onnx")
    assert repr(value.split(",")[-1]) in str(refused.value)


@pytest.mark.parametrize("name", ["MAX_IMAGES", "MAX_BODY_BYTES", "WORKERS", "MAX_BATCH", "MAX_QUEUE", "DEADLINE_MS"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "1e3", "many", " 5", "²"])
def test_a_limit_that_is_no_whole_number_is_refused_with_its_name(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"SAMEDIGIT_{name} takes a whole number of at least 1; got {value!r}"):
        read_settings({f"SAMEDIGIT_{name}": value})


@pytest.mark.parametrize("value", ["0", "65536", "-1", "http", "²", "8000 "])
def test_a_data_port_that_is_none_is_refused_with_those_there_are(value: str) -> None:
    with pytest.raises(SettingError) as refused:
        read_settings({"SAMEDIGIT_DATA_PORT": value})
    assert str(refused.value) == f"SAMEDIGIT_DATA_PORT takes a whole number from 1 to 65535; got {value!r}."


@pytest.mark.parametrize("value", ["localhost", "256.0.0.1", "127.0.0.1:8000", "*", "[::1]"])
def test_a_data_host_that_is_no_address_is_refused(value: str) -> None:
    with pytest.raises(SettingError) as refused:
        read_settings({"SAMEDIGIT_DATA_HOST": value})
    assert str(refused.value) == f"SAMEDIGIT_DATA_HOST, like --host, takes an IP address; got {value!r}."


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
