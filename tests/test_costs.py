"""The page of costs; every figure here is made up, and none is a measurement."""

from __future__ import annotations

import html
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from test_rates import PEAK
from test_report import made_up_models

from comparison.calibration import Calibration
from comparison.cost.numbers import Paired, Smaller, keep_numbers
from comparison.cost.report import read_peaks, write_costs
from digits.contract import Backend
from digits.errors import ResultsMissing
from loadtests.cold_start import Files, FirstAnswer
from loadtests.open_test import Peak
from loadtests.protocols import PROTOCOLS

PEAKS = [
    replace(PEAK, server_cpu_us=40.4, server_memory_mb=101),
    replace(PEAK, protocol="predict", server_cpu_us=61, server_memory_mb=102),
    replace(PEAK, backend="tensorflow", server_cpu_us=404, server_memory_mb=390),
]
ORIGINAL = Smaller(
    model="torch-relu:1", numbers="float32", bytes=400_000, correct=9750, total=10_000,
    calibration=Calibration(ece=0.01, nll=0.1, brier=0.05), ece_by_chance=(0.0032, 0.0061), paired=None,
    microseconds={1: 10.0, 64: 1.5}, ratios={1: 1.0, 64: 1.0}, intervals={1: None, 64: None},
)  # fmt: skip
PAIRED = Paired(gained=3, lost=7, agree=0.998, difference=-0.0004, interval=(-0.0011, 0.0003), p=0.34)
INT8 = replace(
    ORIGINAL, model="torch-relu-int8-static:1", numbers="int8-static", bytes=100_000, correct=9746,
    paired=PAIRED, microseconds={1: 6.8, 64: 1.1}, ratios={1: 0.68, 64: 0.74}, intervals={1: (0.66, 0.7), 64: (0.7, 0.78)},
)  # fmt: skip
DYNAMIC = replace(
    INT8, model="torch-relu-int8-dynamic:1", numbers="int8-dynamic", ratios={1: 0.5, 64: 0.9},
    paired=replace(PAIRED, difference=-0.0021, interval=(-0.0031, -0.0011)),
)  # fmt: skip


def write_open(folder: Path, peaks: list[Peak]) -> None:
    (folder / "open.json").write_text(json.dumps({"peaks": [asdict(peak) for peak in peaks]}))


def write_starts(folder: Path) -> None:
    measured: list[tuple[Backend, Files, float]] = [
        ("onnx", "warm", 1.0),
        ("onnx", "cold", 2.0),
        ("torch", "warm", 3.0),
    ]
    answers = [
        FirstAnswer(
            model="torch-relu:1", recipe="torch-relu", backend=backend, files=files,
            seconds={protocol: seconds + 0.1 * i + 0.01 * place for place, protocol in enumerate(PROTOCOLS)},
        )
        for backend, files, seconds in measured
        for i in range(6)
    ]  # fmt: skip
    (folder / "starts.json").write_text(json.dumps({"answers": [asdict(answer) for answer in answers]}))


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", " ", page))


def test_every_cost_that_was_measured_is_on_the_page(tmp_path: Path) -> None:
    write_open(tmp_path, PEAKS)
    write_starts(tmp_path)
    keep_numbers([ORIGINAL, INT8], tmp_path)
    models = made_up_models()
    page = write_costs(tmp_path, models, tmp_path / "costs.html").read_text()
    found = text_of(page[page.index('id="findings"') :].split("</section>")[0])
    assert (
        "A million predictions of torch-relu take 40 CPU seconds through onnx over grpc, and up to 404 through "
        "tensorflow over grpc: 10.0 times." in found
    )
    assert "first right answer of torch-relu, files warm: onnx 1.25 s and torch 3.25 s." in found  # medians of six
    assert "first right answer of torch-relu, files cold: onnx 2.25 s." in found
    assert (
        "Beside float32, for torch-relu int8-static takes 0.68 of the time for one image at 0.25 of the size; none is shown to "
        "move accuracy." in found
    )
    serving = re.findall(r'<tr data-model="torch-relu" data-backend="(\w+)">(.*?)</tr>', page, re.DOTALL)
    cells = {backend: re.findall(r"<td>([^<]*)</td>", row) for backend, row in serving}
    assert cells == {"tensorflow": ["-", "404", "390"], "onnx": ["61", "40", "102"]}  # predict, grpc, memory
    assert page.count("<svg role") == 3
    for model in models:
        assert re.search(rf">{model.recipe}</th>.*{model.card.train_seconds:,.1f}", page)


def test_of_smaller_numbers_the_fastest_comes_first_and_a_loss_that_is_more_than_chance_is_told(tmp_path: Path) -> None:
    keep_numbers([ORIGINAL, INT8, DYNAMIC], tmp_path)
    page = write_costs(tmp_path, made_up_models(), tmp_path / "costs.html").read_text()
    assert (
        "for torch-relu int8-dynamic takes 0.50 of the time for one image at 0.25 of the size and int8-static takes 0.68 of "
        "the time for one image at 0.25 of the size; accuracy moves, with 95 % intervals that hold at once, "
        "int8-dynamic by -0.21 points (-0.31 to -0.11)." in text_of(page)
    )
    (row,) = re.findall(r'<tr data-model="torch-relu:1">(.*?)</tr>', page)
    assert "<td>1.00<small>0.32 to 0.61</small></td>" in row  # ECE, and what chance gives


def test_what_was_not_measured_is_said_with_how_to(tmp_path: Path) -> None:
    page = text_of(write_costs(tmp_path, made_up_models()[:1], tmp_path / "costs.html").read_text())
    for command in ("samedigit loadtest --scenario open", "python -m loadtests.cold_start", "samedigit quantize MODEL"):
        assert f"Not measured yet:  {command} ." in page
    assert "In short" not in page  # of one model there is nothing to say


def test_results_that_are_not_of_this_version_are_told(tmp_path: Path) -> None:
    (tmp_path / "open.json").write_text('{"peaks": [{"model": "a"}]}')
    with pytest.raises(ResultsMissing, match=r"open.json lacks 'recipe'.*--scenario open"):
        read_peaks(tmp_path)
