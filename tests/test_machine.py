"""The processor by which figures are told apart."""

from __future__ import annotations

import pytest

from digits.machine import describe, machine, processor


def cpuinfo(**told: str) -> str:
    return "\n".join(f"{key.replace('_', ' '):<12}: {value}" for key, value in told.items())


@pytest.mark.parametrize(
    ("told", "described"),
    [
        (
            cpuinfo(model="2", cpu_family="26", model_name="AMD EPYC", flags="fpu avx512f sse"),
            "AMD EPYC, family 26, model 2, with AVX-512",
        ),
        (
            cpuinfo(cpu_family="6", model="143", model_name="Intel(R) Xeon(R) Platinum 8481C", flags="avx512 avx2"),
            "Intel(R) Xeon(R) Platinum 8481C, without AVX-512",
        ),
        (cpuinfo(processor="0", BogoMIPS="50.00", Features="fp asimd"), ""),
        ("", ""),
    ],
    ids=["two generations of one name", "a name with a number", "no name", "nothing"],
)
def test_a_processor_is_described_by_what_tells_it_from_others(told: str, described: str) -> None:
    assert describe(told) == described


def test_the_first_processor_stands_for_all() -> None:
    slow = cpuinfo(model_name="B 2")
    assert describe(f"{cpuinfo(model_name='A 1')}\n\n{slow}") == "A 1"


def test_this_machine_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert processor()
    assert "OPENBLAS" not in processor()


def test_kernels_of_another_processor_are_told_with_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert processor().endswith(", OPENBLAS_CORETYPE=Haswell")
    assert ", OPENBLAS_CORETYPE=Haswell, " in machine()
