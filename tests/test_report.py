"""The report, from made-up load tests: every figure below is invented, and none is a measurement."""

from __future__ import annotations

import csv
import gc
import html
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from comparison.intervals import wilson
from comparison.kinds import Spread, rows, spreads
from comparison.load.plots import _spread
from comparison.load.report import write_report
from comparison.load.results import summary_table
from comparison.load.summary import _apart
from digits.card import Card, Epoch, Score
from digits.contract import BACKENDS, Framework
from digits.errors import ReportError, ResultsMissing
from digits.misread import Misread
from digits.store import StoredModel
from loadtests.load_test import Run
from loadtests.protocols import PROTOCOLS
from training.evaluate import Reading, keep_readings

DOOR_MS = {"predict": 0.21, "grpc": 0.4, "v2-json": 0.15, "v2-binary": 0.12}
MODEL_MS = {"numpy": 0.02, "torch": 0.09, "tensorflow": 0.4, "onnx": 0.01, "echo": 0.0}
QUEUE_MS = 0.005
MANY = 16
REQUESTS = 400


def made_up_model(recipe: str, framework: Framework, correct: int, *, epochs: int = 15, seed: int = 1) -> StoredModel:
    generator = np.random.default_rng([seed, len(recipe)])
    ends = 1 - correct / 10_000
    history = tuple(
        Epoch(
            loss=0.02 + 0.35 / (epoch + 1) ** 1.2,
            accuracy=0.99 - 0.08 / (epoch + 1),
            held_out_accuracy=1 - ends - 0.04 * (1 / (epoch + 1) - 1 / epochs) + generator.normal(0, 0.0004),
            seconds=1.5 + generator.exponential(0.05),
        )
        for epoch in range(epochs)
    )
    card = Card(
        recipe={
            "name": recipe, "framework": framework, "hidden": [128], "activation": "relu", "scaling": [-1.0, 1.0],
            "learning_rate": 1e-3, "epsilon": 1e-7, "batch_size": 32, "epochs": epochs, "seed": seed,
            "source": "Made up for <tests> & nothing else.",
        } | ({} if framework == "numpy" else {"reported": 97.46}),
        departures=(),
        framework=framework,
        seed=seed,
        device="cpu",
        parameters=101_770,
        history=history,
        held_out="test images",
        scores={backend: Score(correct=correct, total=10_000) for backend in BACKENDS},
        largest_difference=dict.fromkeys(BACKENDS, 1e-7),
        bytes={"numpy": 408_876, "torch": 423_191, "tensorflow": 852_306, "onnx": 407_659},
        files={},
        data={"t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"},
        versions={"python": "3.11.7", "numpy": "2.4.6", "torch": "2.15.0"},
        machine="Linux x86_64, 2 cores",
        threads=1,
        trained_at="2026-01-02T03:04:05.000000+00:00",
        train_seconds=sum(epoch.seconds for epoch in history),
        export_seconds=9.0,
    )  # fmt: skip
    return StoredModel(recipe=recipe, version=f"{recipe[:3]}4v7x2hfagu", folder=Path("nowhere"), card=card)


def with_misread(model: StoredModel, folder: Path, places: Sequence[int] | npt.NDArray[np.int64]) -> StoredModel:
    """Kept in `folder`, with the places of the test images that it misreads."""
    folder.mkdir(exist_ok=True)
    digits = np.zeros(len(places), np.uint8)
    Misread(np.array(places), np.zeros((len(places), 28, 28), np.uint8), digits, digits).write(folder)
    return replace(model, folder=folder)


def made_up_models() -> list[StoredModel]:
    return [
        made_up_model("keras-sequential", "keras", 9741),
        made_up_model("numpy-sigmoid", "numpy", 9779),
        made_up_model("torch-relu", "torch", 9786),
    ]


def write_made_up_results(
    folder: Path, models: list[StoredModel], *, many: int = MANY, requests: int = REQUESTS, failed: float = 0.0
) -> list[Run]:
    """A load test's folder: lognormal latencies, for every model, backend and protocol, and for the door."""
    generator = np.random.default_rng(0)
    (folder / "latencies").mkdir(parents=True)
    pairs = [(model, backend) for model in models for backend in BACKENDS]
    targets = [*((model, str(backend)) for model, backend in pairs), (models[0], "echo")]
    runs = []
    for (model, target), protocol in product(targets, PROTOCOLS):
        for users in (1, many) if many > 1 else (1,):
            typical = (DOOR_MS[protocol] + MODEL_MS[target]) * (1 if users == 1 else users * 0.8)
            latency_ms = typical * generator.lognormal(0, 0.08, requests) + generator.exponential(0.02, requests)
            share_right = 1.0 if target == "echo" else model.card.accuracy
            outcomes = np.where(generator.random(requests) < share_right, "right", "wrong").astype("U6")
            outcomes[generator.random(requests) < failed] = "failed"
            sent_s = np.cumsum(latency_ms) / 1000 / users
            name = f"latencies/{model.recipe}.{target}.{protocol}.{users}.csv"
            with (folder / name).open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("sent_s", "latency_ms", "outcome"))
                writer.writerows(zip(sent_s.tolist(), latency_ms.tolist(), outcomes.tolist(), strict=True))
            p50, p95, p99 = np.percentile(latency_ms, (50, 95, 99)).tolist()
            failures = int((outcomes == "failed").sum())
            runs.append(
                Run(
                    model=model.tag,
                    recipe=model.recipe,
                    framework=model.card.framework,
                    backend=target,
                    protocol=protocol,
                    users=users,
                    requests=requests,
                    failures=failures,
                    first_failure="status 503: b'<busy>'" if failures else None,
                    correct=int((outcomes == "right").sum()),
                    seconds=float(sent_s[-1]),
                    requests_per_second=requests / float(sent_s[-1]),
                    mean_ms=float(latency_ms.mean()),
                    p50_ms=p50,
                    p95_ms=p95,
                    p99_ms=p99,
                    model_ms=None if target == "echo" else MODEL_MS[target],
                    queue_ms=None if target == "echo" else QUEUE_MS,
                    images_per_batch=None if target == "echo" else (1.0 if users == 1 else 5.5),
                    client_busy=0.4 if users == 1 else 0.95,
                    start_to_ready_seconds=3.4,
                    server_memory_mb=141.5,
                    latencies=name,
                )
            )
    document = {
        "made_at": "2026-01-03T04:05:06+00:00",
        "machine": "Linux x86_64, Made-up Processor 9000",
        "pinning": "server on core 0, client on core 1",
        "duration_seconds": 5,
        "versions": {"bentoml": "1.4.39", "locust": "2.47.0"},
        "runs": [asdict(run) for run in runs],
    }
    (folder / "loadtest.json").write_text(json.dumps(document))
    return runs


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[StoredModel], list[Run], str]:
    """Models, the runs of their load test, and the report on it."""
    folder = tmp_path_factory.mktemp("made-up")
    models = made_up_models()
    runs = write_made_up_results(folder, models)
    return models, runs, write_report(folder, models, folder / "report.html").read_text()


# ---- statistics


def test_labels_are_spread_as_little_as_needed() -> None:
    assert _spread([1.0, 5.0, 3.0], 1.0) == [1.0, 5.0, 3.0]
    assert _spread([2.0, 2.0, 2.0], 1.0) == pytest.approx([1.0, 2.0, 3.0])
    spread = _spread([97.9, 97.5, 97.52, 97.5, 98.0], 0.1)
    assert np.diff(sorted(spread)).min() >= 0.1 - 1e-9
    assert np.argsort(spread, kind="stable").tolist() == [1, 3, 2, 0, 4]


# ---- the numbers


def _percentiles(folder: Path, run: Run) -> list[float]:
    with (folder / run.latencies).open(newline="") as file:
        return [
            float(p) for p in np.percentile([float(row["latency_ms"]) for row in csv.DictReader(file)], (50, 95, 99))
        ]


def _cells(page: str, table: str, row: str) -> list[str]:
    """The text of the cells in one row of a table, without what is set small."""
    body = page[page.index(f'<table id="{table}">') :].split("</table>")[0]
    found = re.search(rf"<tr {row}>(.*?)</tr>", body, re.DOTALL)
    assert found is not None
    cells = re.findall(r"<td>(.*?)(?:<small>.*?</small>)?</td>", found[1], re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in cells]


def _row(model: StoredModel, backend: str) -> str:
    return f'data-model="{model.recipe}" data-backend="{backend}"'


def test_the_table_says_what_the_latency_files_say(tmp_path: Path) -> None:
    models = made_up_models()
    runs = write_made_up_results(tmp_path, models, failed=0.02)
    page = write_report(tmp_path, models, tmp_path / "report.html").read_text()
    for model, backend in product(models, BACKENDS):
        mine = [run for run in runs if run.model == model.tag and run.backend == backend]
        cells = _cells(page, "serving", _row(model, backend))
        answers = sum(run.requests - run.failures for run in mine)
        assert cells[:2] == [
            f"{100 * model.card.accuracy:.2f}",
            f"{100 * sum(run.correct for run in mine) / answers:.2f}",
        ]
        medians = [_percentiles(tmp_path, run)[0] for run in mine if run.users == 1]
        rates = [run.requests_per_second for run in mine if run.users > 1]
        assert len(medians) == len(rates) == len(PROTOCOLS)
        assert [float(cell.replace(",", "").strip("*")) for cell in cells[2:-3]] == pytest.approx(
            medians + rates, rel=5e-3
        )
        failures = sum(run.failures for run in mine)
        assert cells[-3:] == [str(failures), "142", "3.4"]
    medians = [_percentiles(tmp_path, run)[0] for run in runs if run.backend == "echo" and run.users == 1]
    shown = [float(cell) for cell in _cells(page, "serving", 'data-backend="echo"')[2 : 2 + len(PROTOCOLS)]]
    assert shown == pytest.approx(medians, rel=5e-3)
    assert "status 503: b&#39;&lt;busy&gt;&#39;" in page


def test_door_queue_and_model_add_up_to_the_latency(tmp_path: Path) -> None:
    models = made_up_models()
    runs = write_made_up_results(tmp_path, models)
    page = write_report(tmp_path, models, tmp_path / "report.html").read_text()
    for row in summary_table(tmp_path, models):
        assert row.mean_ms is not None
        assert row.door_ms is not None
        assert (row.model_ms, row.queue_ms) == (MODEL_MS[row.backend], QUEUE_MS)
        assert row.door_ms + QUEUE_MS + MODEL_MS[row.backend] == pytest.approx(row.mean_ms, abs=1e-12)
    for model, backend in product(models, BACKENDS):
        cells = iter(float(cell) for cell in _cells(page, "shares", _row(model, backend)))
        for protocol in PROTOCOLS:
            latency, door, queue, in_model = (next(cells) for _ in range(4))
            (run,) = (
                run
                for run in runs
                if (run.model, run.backend, run.protocol, run.users) == (model.tag, backend, protocol, 1)
            )
            assert latency == pytest.approx(run.mean_ms, rel=5e-3)
            assert door + queue + in_model == pytest.approx(latency, abs=2e-3)
    alone = {run.protocol: run.mean_ms for run in runs if run.backend == "echo" and run.users == 1}
    doors = [float(cell) for cell in _cells(page, "shares", 'data-backend="echo"') if cell]
    assert doors == pytest.approx([alone[protocol] for protocol in PROTOCOLS], rel=5e-3)


def test_a_latency_with_failures_in_it_is_not_divided(tmp_path: Path) -> None:
    models = made_up_models()[2:]
    write_made_up_results(tmp_path, models, failed=0.5)
    page = write_report(tmp_path, models, tmp_path / "report.html").read_text()
    assert {row.door_ms for row in summary_table(tmp_path, models)} == {None}
    assert "How much of a latency is the door" not in page


def test_rates_that_are_the_clients_limit_are_marked(tmp_path: Path) -> None:
    models = made_up_models()
    runs = write_made_up_results(tmp_path, models)
    page = write_report(tmp_path, models, tmp_path / "report.html").read_text()
    rates = _cells(page, "serving", _row(models[0], "onnx"))[2 + len(PROTOCOLS) : 2 + 2 * len(PROTOCOLS)]
    assert all(cell.endswith("*") for cell in rates)
    assert "*: Locust computed for more than 90" in page
    document = json.loads((tmp_path / "loadtest.json").read_text())
    document["runs"] = [asdict(run) | {"client_busy": 0.5} for run in runs]
    (tmp_path / "loadtest.json").write_text(json.dumps(document))
    assert "Locust computed" not in write_report(tmp_path, models, tmp_path / "report.html").read_text()


def test_the_summary_table_has_a_row_per_model_backend_and_protocol(tmp_path: Path) -> None:
    models = made_up_models()
    runs = write_made_up_results(tmp_path, models)
    rows = summary_table(tmp_path, models)
    assert [(row.model, row.backend, row.protocol) for row in rows] == [
        (model.tag, backend, protocol) for model in models for backend in BACKENDS for protocol in PROTOCOLS
    ]
    row = rows[-1]
    mine = [run for run in runs if run.model == row.model and run.backend == row.backend]
    one, many = (run for run in mine if run.protocol == row.protocol)
    assert (row.accuracy, row.low, row.high) == (0.9786, *wilson(9786, 10_000))
    assert (row.mean_ms, row.p50_ms, row.p95_ms, row.p99_ms) == (one.mean_ms, one.p50_ms, one.p95_ms, one.p99_ms)
    assert (row.users, row.requests_per_second) == (MANY, many.requests_per_second)
    assert row.images_per_batch == 5.5
    assert row.accuracy_over_requests == pytest.approx(
        sum(run.correct for run in mine) / (2 * len(PROTOCOLS) * REQUESTS)
    )
    assert (row.failures, row.size_bytes, row.framework) == (0, 407_659, "torch")
    json.dumps([asdict(row) for row in rows])


def _summary(page: str) -> list[str]:
    return [html.unescape(item).replace("\xa0", " ") for item in re.findall(r"<li>(.*?)</li>", page)]


def test_without_an_open_scenario_the_choices_say_that_they_are_of_single_runs(
    made_up: tuple[list[StoredModel], list[Run], str],
) -> None:
    models, runs, page = made_up
    section = html.unescape(re.sub(r"<[^>]*>", "", page[page.index('id="choices"') :].split("</section>")[0]))
    finest = [run for run in runs if run.protocol == "v2-binary" and run.users == 1 and run.backend != "echo"]
    ratios = []
    for model in models:
        first, second, *_ = sorted(run.p50_ms for run in finest if run.model == model.tag)
        ratios.append(second / first)
    assert "onnx answered one caller soonest over v2-binary" in section
    assert f"the next took {min(ratios):.2f} to {max(ratios):.2f} times as long" in section
    alone = [run for run in runs if run.users == 1]
    of_each: dict[tuple[str, str], list[Run]] = {}
    for run in alone:
        if run.backend != "echo":
            of_each.setdefault((run.model, run.backend), []).append(run)
    soonest = Counter(min(asked, key=lambda run: run.mean_ms).protocol for asked in of_each.values())
    (most, times), *others = soonest.most_common()
    assert f"{most} ({times} of {soonest.total()})" in section if others else f"{most} answered" in section
    assert "answered one caller soonest, of a model through a backend" in section
    assert "Without a model a request takes" in section
    assert section.count("One run of each, so how far another would lie from it is not known") == 2
    assert "each model was trained once" in section


def test_rates_are_ranked_but_for_models_of_which_the_client_limited_one(tmp_path: Path) -> None:
    models = made_up_models()
    runs = write_made_up_results(tmp_path, models)
    finest = [run for run in runs if (run.protocol, run.users) == ("v2-binary", MANY) and run.backend != "echo"]

    def said(*limited: tuple[str, str]) -> list[str]:
        document = json.loads((tmp_path / "loadtest.json").read_text())
        document["runs"] = [
            asdict(run) | {"client_busy": 0.91 if (run.model, run.backend) in limited else 0.9} for run in runs
        ]
        (tmp_path / "loadtest.json").write_text(json.dumps(document))
        return _summary(write_report(tmp_path, models, tmp_path / "report.html").read_text())

    start = f"With {MANY} callers over v2-binary, most requests are answered through onnx"
    found = said()[1]
    assert found.startswith(f"{start} for every model: ")
    assert "not ranked" not in found
    first = models[0]
    found = said((first.tag, "numpy"))[1]
    highest = sorted(run.requests_per_second for run in finest if run.model != first.tag and run.backend == "onnx")
    assert found.startswith(f"{start}: {highest[0]:,.0f} to {highest[-1]:,.0f} per second, ")
    assert f"Rates with {MANY} callers are not ranked for {first.recipe}: Locust, which asks, computed" in found
    runs = [run for run in runs if run.backend == "onnx"]
    assert "ranked" not in " ".join(said((first.tag, "onnx")))  # one backend has no rank


def test_what_a_study_decided_is_quoted(tmp_path: Path) -> None:
    models = made_up_models()[2:]
    write_made_up_results(tmp_path, models)
    (tmp_path / "decision.json").write_text(
        json.dumps({"answer": "By accuracy <any>", "trainings": 321, "recipe": "numpy-deep"})
    )
    page = write_report(tmp_path, models, tmp_path / "report.html", study=tmp_path).read_text()
    assert "<p>By accuracy &lt;any&gt;.</p>" in page
    assert "How sure: 321 trainings, most of numpy-deep, in a study of their own" in page


def test_the_summary_is_computed(made_up: tuple[list[StoredModel], list[Run], str]) -> None:
    models, runs, page = made_up
    latency, throughput, door, accuracy, answers = _summary(page)
    finest = [run for run in runs if run.protocol == "v2-binary"]
    ones = {(run.model, run.backend): run.p50_ms for run in finest if run.users == 1}
    ratios = sorted(ones[model.tag, "tensorflow"] / ones[model.tag, "onnx"] for model in models)
    assert latency.startswith("Over v2-binary, one caller is answered fastest through onnx for every model")
    assert f"{ratios[0]:.2f} to {ratios[-1]:.2f} times as long through the slowest, tensorflow" in latency
    assert throughput == (
        f"Rates with {MANY} callers are not ranked for keras-sequential, numpy-sigmoid and torch-relu: Locust, which asks, "
        "computed for more than 90 % of the time in a run, so that the server might give more."
    )
    alone = {run.protocol: run.mean_ms for run in runs if run.backend == "echo" and run.users == 1}
    assert door.startswith("Of the mean latency of one caller the model takes ")
    for protocol in PROTOCOLS:
        means = [(run.mean_ms, run.backend) for run in runs if run.protocol == protocol and run.users == 1]
        shares = [100 * MODEL_MS[backend] / mean for mean, backend in means if backend != "echo"]
        assert f"{min(shares):.0f} % (onnx) to {max(shares):.0f} % (tensorflow) over {protocol}" in door
        assert f"{alone[protocol]:.3f} ms over {protocol}" in door
    assert "97.41 % (keras-sequential) and 97.86 % (torch-relu)" in accuracy
    assert "Which of them differ by more than chance is not known: one was stored without" in accuracy
    assert "seed to seed is not measured" in accuracy
    assert f"of {26 * len(PROTOCOLS) * REQUESTS:,} requests none failed" in answers
    gaps = []
    for model in models:
        for backend in BACKENDS:
            mine = [run for run in runs if (run.model, run.backend) == (model.tag, backend)]
            gaps.append(abs(sum(run.correct for run in mine) / (len(mine) * REQUESTS) - model.card.accuracy))
    assert f"{min(gaps):.4f}" != f"{max(gaps):.4f}"
    assert f"accuracy was within {100 * max(gaps):.2f} points of the stored one everywhere" in answers


BY = "image by image, with chance allowed for (McNemar's test; over all pairs Holm's method)"


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ((range(200), range(15, 210), range(20, 212)), f"Compared {BY}, none is shown to be better than another."),
        # 6 that one alone misreads, and none the other: p is 0.03, but 0.06 and more of two such pairs or three.
        ((range(206), range(200), range(200)), f"Compared {BY}, none is shown to be better than another."),
        (
            (range(207), range(200), range(200)),
            f"Compared {BY}, these are shown to differ: made-0 and made-1; made-0 and made-2. The other pairs are not.",
        ),
        (
            (range(300), range(20, 225), range(25, 228)),
            "these are shown to differ: made-0 and made-1; made-0 and made-2. The other pairs are not.",
        ),
        ((range(300), range(200), range(100)), f"Compared {BY}, any two are shown to differ."),
        # As many as 6 are enough for the last of three: Bonferroni, unlike Holm, would call the other two pairs alone.
        ((range(400), range(206), range(200)), f"Compared {BY}, any two are shown to differ."),
        (
            (range(500), range(400), range(300), range(200)[1:], range(200)),
            "made-0 and made-1; made-0 and made-2; made-0 and made-4; and 6 more pairs. The other pairs are not.",
        ),
        ((range(200), range(200)), f"Compared {BY}, none is shown to be better than another."),
    ],
)  # fmt: skip
def test_the_summary_says_which_accuracies_differ(tmp_path: Path, wrong: tuple[range, ...], expected: str) -> None:
    models = [
        with_misread(made_up_model(f"made-{i}", "torch", 10_000 - len(places)), tmp_path / str(i), places)
        for i, places in enumerate(wrong)
    ]
    write_made_up_results(tmp_path, models)
    assert expected in _summary(write_report(tmp_path, models, tmp_path / "r.html").read_text())[3]
    without = [replace(models[0], folder=tmp_path), *models[1:]]
    said = _summary(write_report(tmp_path, without, tmp_path / "r.html").read_text())[3]
    assert "not known: one was stored without the images that it misreads" in said


@pytest.mark.slow
def test_of_models_that_read_as_well_one_is_rarely_called_better(tmp_path: Path) -> None:
    """Three that each misread one in fifty of 10,000 images, half of these the same."""
    generator = np.random.default_rng(29)
    models = [made_up_model(f"made-{i}", "torch", 9800) for i in range(3)]
    called = 0
    gc.freeze()  # statsmodels collects garbage at each call, among all that the tests before have imported
    for _ in range(200):
        hard = generator.random(10_000) < 0.01
        for i, model in enumerate(models):
            wrong = hard | (generator.random(10_000) < 0.01)
            models[i] = with_misread(model, tmp_path / str(i), np.flatnonzero(wrong))
        called += bool(_apart(models))
    gc.unfreeze()
    assert 0.01 < called / 200 < 0.07


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    (model,) = models = [made_up_model("torch-relu", "torch", 9786, epochs=1)]
    runs = write_made_up_results(tmp_path, models, many=1)
    document = json.loads((tmp_path / "loadtest.json").read_text())
    document["runs"] = [asdict(run) for run in runs if run.backend == "onnx" and run.protocol == "v2-json"]
    (tmp_path / "loadtest.json").write_text(json.dumps(document))
    page = write_report(tmp_path, models, tmp_path / "report.html").read_text()
    assert [sentence.split()[0] for sentence in _summary(page)] == ["Of", "torch-relu", "Every"]
    assert "callers" not in page[page.index('<table id="serving">') :].split("</table>")[0]
    assert 'data-backend="echo"' not in page
    assert "door alone" not in page
    assert "v2-binary" not in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    (row,) = summary_table(tmp_path, models)
    assert row.requests_per_second is None
    assert row.users is None
    assert row.model == model.tag


def test_a_run_in_which_everything_failed(tmp_path: Path) -> None:
    models = made_up_models()[2:]
    write_made_up_results(tmp_path, models, failed=1.1)
    page = write_report(tmp_path, models, tmp_path / "report.html").read_text()
    assert f"of {10 * len(PROTOCOLS) * REQUESTS:,} requests {10 * len(PROTOCOLS) * REQUESTS:,} failed." in " ".join(
        _summary(page)
    )
    assert _cells(page, "serving", _row(models[0], "onnx"))[1] == "-"


# ---- the page


def test_the_page_needs_nothing_else(made_up: tuple[list[StoredModel], list[Run], str]) -> None:
    _, _, page = made_up
    assert [url for url in re.findall(r"(?:src|href|action|data)\s*=\s*[\"']?([^\"'\s>]*)", page) if url[0] != "#"] == [
        "costs.html"
    ]  # which stands beside it
    assert [url for url in re.findall(r"url\(([^)]*)\)", page) if not url.startswith("#")] == []
    assert "@import" not in page
    assert "<script" not in page
    assert "<link" not in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', page)) <= set(ids)
    assert "Made up for &lt;tests&gt; &amp; nothing else." in page


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    models = made_up_models()[2:]
    write_made_up_results(tmp_path, models)
    first = write_report(tmp_path, models, tmp_path / "first.html")
    assert first.read_bytes() == write_report(tmp_path, models, tmp_path / "second.html").read_bytes()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_no_wider_than_its_window(
    tmp_path: Path, made_up: tuple[list[StoredModel], list[Run], str], width: int
) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium to open the report with")
        pytest.skip("no Chromium to open the report with")
    _, _, page = made_up
    # A window cannot be as narrow as a telephone, but a frame can.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"""<!doctype html><title>not measured</title>
        <iframe width="{width}" height="800" style="border: 0" srcdoc="{html.escape(page)}"></iframe>
        <script>
        addEventListener("load", () => {{
          const root = document.querySelector("iframe").contentDocument.documentElement;
          const pictures = [...root.querySelectorAll("figure svg[role=img]")].map(one => one.getBoundingClientRect());
          document.title = [root.scrollWidth, root.clientWidth, pictures.length,
            pictures.every(one => one.width > 250 && one.right <= root.clientWidth)].join(" ");
        }});
        </script>"""
    )
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", frame.as_uri(),
    ]  # fmt: skip
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    title = re.search(r"<title>(.*?)</title>", printed)
    assert title is not None, printed[:500]
    scroll_width, client_width, pictures, inside = title[1].split()
    assert int(scroll_width) <= int(client_width) <= width
    # One of door and model for each protocol, three of latencies, one of accuracy, three of training.
    assert (pictures, inside) == (str(len(PROTOCOLS) + 7), "true")


# ---- the benchmark of serving

MEASUREMENT: dict[str, Any] = {
    "server": "samedigit", "case": "v2 JSON, 16 connections", "connections": 16, "requests_per_second": 12_345.6,
    "p50_ms": 1.21, "p99_ms": 2.9, "seconds": None, "megabytes": None, "cpu_us_per_request": 71.3, "failed": 0,
    "rounds": [{"requests_per_second": 12_345.6}],
}  # fmt: skip
GOAL: dict[str, Any] = {
    "case": "v2 JSON, 16 connections", "goal": "at least 2x FastAPI's", "unit": "requests/s", "ours": 12_345.6,
    "against": "FastAPI", "theirs": 5_432.1, "ratio": 2.2727, "limit": 2.0, "at_least": True, "met": True,
}  # fmt: skip


def benchmark_document() -> dict[str, Any]:
    def rate(server: str, requests_per_second: float, **changes: Any) -> dict[str, Any]:
        return {**MEASUREMENT, "server": server, "requests_per_second": requests_per_second, **changes}

    start = {"case": "start to ready", "seconds": 1.71, "connections": None, "p50_ms": None, "p99_ms": None}
    return {
        "made_at": "2026-01-04T05:06:07+00:00",
        "machine": "Linux x86_64, Made-up Processor 9000, 2 cores",
        "pinning": "servers on core 0, client on core 1",
        "client": "wrk 4.1.0",
        "versions": {"fastapi": "0.120.0"},
        "measurements": [
            MEASUREMENT,
            rate("samedigit, API port, /predict", 7_654.3),
            rate("FastAPI", 5_432.1),
            rate("bentoml, as in its quickstart", 1_234.5, failed=3),
            {**MEASUREMENT, **start, "requests_per_second": None, "cpu_us_per_request": None},
        ],
        "goals": [GOAL, {**GOAL, "goal": "at least 9x bentoml's", "ratio": 8.76, "limit": 9.0, "met": False}],
    }


def test_the_benchmark_of_serving_is_shown_where_it_was_run(tmp_path: Path) -> None:
    models = made_up_models()[2:]
    write_made_up_results(tmp_path, models)
    without = write_report(tmp_path, models, tmp_path / "report.html").read_text()
    assert "Against other servers" not in without
    (tmp_path / "serving.json").write_text(json.dumps(benchmark_document()))
    page = write_report(tmp_path, models, tmp_path / "report.html").read_text()
    section = page[page.index("Against other servers") : page.index("How it was measured")]
    for shown in ("2026-01-04, 05:06 UTC", "wrk 4.1.0", "fastapi&nbsp;0.120.0", "12,346", "5,432", "7,654", "1.71"):
        assert shown in section
    verdicts = re.findall(r"<td>([\d.]+)</td><td class=\"left\">(?:<b>)?(yes|no)", section)
    assert verdicts == [("2.27", "yes"), ("8.76", "no")]
    assert section.count("<svg") == 1  # the one case in which several servers were loaded


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not valid JSON"),
        ("[]", "another version of Samedigit"),
        (json.dumps({**benchmark_document(), "goals": [{"case": "?"}]}), "lacks 'goal'"),
        (json.dumps({**benchmark_document(), "measurements": None}), "another version of Samedigit"),
    ],
)
def test_a_broken_benchmark_is_not_passed_over(tmp_path: Path, text: str, complaint: str) -> None:
    models = made_up_models()[2:]
    write_made_up_results(tmp_path, models)
    (tmp_path / "serving.json").write_text(text)
    with pytest.raises(ResultsMissing, match=f"serving.json .*{complaint}.*python -m benchmarks.serving"):
        write_report(tmp_path, models, tmp_path / "report.html")


# ---- errors


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(ResultsMissing, match=r"no load-test results in .*expected loadtest.json.*samedigit loadtest"):
        write_report(tmp_path / "absent", made_up_models(), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not valid JSON"),
        ("\udcff", "is not valid JSON"),
        ("[]", "written by another version"),
        ('{"runs": [{}]}', "'model'.*written by another version"),
        ("{}", "'runs'.*written by another version"),
    ],
)
def test_unreadable_results(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "loadtest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ResultsMissing, match=f"loadtest.json.*{complaint}"):
        summary_table(tmp_path, made_up_models())


def test_results_over_a_protocol_that_is_not_known(tmp_path: Path) -> None:
    models = made_up_models()
    write_made_up_results(tmp_path, models)
    text = (tmp_path / "loadtest.json").read_text().replace("v2-json", "v3")
    (tmp_path / "loadtest.json").write_text(text)
    with pytest.raises(ResultsMissing, match=r"has runs over v3.*written by another version"):
        summary_table(tmp_path, models)


def test_results_without_runs(tmp_path: Path) -> None:
    models = made_up_models()
    write_made_up_results(tmp_path, models)
    document: dict[str, Any] = json.loads((tmp_path / "loadtest.json").read_text()) | {"runs": []}
    (tmp_path / "loadtest.json").write_text(json.dumps(document))
    with pytest.raises(ResultsMissing, match="holds no runs"):
        summary_table(tmp_path, models)


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        (None, "No such file"),
        ("time,latency\n1,2\n", "expected the header sent_s,latency_ms,outcome"),
        ("sent_s,latency_ms,outcome\n1,fast,right\n", "is not a list of latencies: .*fast"),
        ("sent_s,latency_ms,outcome\n1,2\n", "is not a list of latencies"),
        ("sent_s,latency_ms,outcome\n1,2,right\n", "has 1 requests, but loadtest.json says 400"),
    ],
)
def test_latencies_that_do_not_belong_to_the_results(tmp_path: Path, contents: str | None, complaint: str) -> None:
    models = made_up_models()
    runs = write_made_up_results(tmp_path, models)
    run = next(run for run in runs if run.users == 1 and run.protocol == "v2-binary")  # of which the pictures are
    (tmp_path / run.latencies).unlink()
    if contents is not None:
        (tmp_path / run.latencies).write_text(contents)
    with pytest.raises(ResultsMissing, match=f"{run.latencies}.*{complaint}"):
        write_report(tmp_path, models, tmp_path / "report.html")


def test_a_model_that_is_no_longer_stored_is_left_out(tmp_path: Path) -> None:
    models = made_up_models()
    write_made_up_results(tmp_path, models)
    page = write_report(tmp_path, models[1:], tmp_path / "report.html").read_text()
    assert f"trained again since: {models[0].tag}." in page
    assert 'data-model="keras-sequential"' not in page
    assert 'data-model="torch-relu"' in page
    assert {row.recipe for row in summary_table(tmp_path, models[1:])} == {"numpy-sigmoid", "torch-relu"}


def test_no_model_of_the_results_is_stored(tmp_path: Path) -> None:
    models = made_up_models()
    write_made_up_results(tmp_path, models[:1])
    with pytest.raises(ResultsMissing, match=rf"is of {models[0].tag}, but stored now is {models[1].tag}"):
        write_report(tmp_path, models[1:], tmp_path / "report.html")
    with pytest.raises(ResultsMissing, match="stored now is no model"):
        write_report(tmp_path, [], tmp_path / "report.html")


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    models = made_up_models()[2:]
    write_made_up_results(tmp_path / "results", models)
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    for target in (tmp_path / "taken", tmp_path / "file" / "report.html"):
        with pytest.raises(ReportError, match=f"cannot be written to {target}"):
            write_report(tmp_path / "results", models, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "results", "taken"]


def test_an_older_report_is_replaced(tmp_path: Path) -> None:
    models = made_up_models()[2:]
    write_made_up_results(tmp_path / "results", models)
    target = tmp_path / "new" / "report.html"
    target.parent.mkdir()
    target.write_text("old")
    assert write_report(tmp_path / "results", models, target) == target
    assert target.read_text().startswith("<!doctype html>")
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


# ---- digits that are not MNIST's


def read_beyond(model: StoredModel, correct: dict[str, int], **recipe: object) -> StoredModel:
    """The model with so many right of 1,000 of each kind."""
    beyond = {kind: Score(correct=right, total=1000) for kind, right in correct.items()}
    return replace(model, card=replace(model.card, beyond=beyond, recipe={**model.card.recipe, **recipe}))


def test_the_report_has_accuracy_per_kind_beside_latency_and_cost(tmp_path: Path) -> None:
    keras, numpy, torch = made_up_models()
    models = [
        read_beyond(keras, {"fog": 700, "stripe": 300}),
        read_beyond(numpy, {"fog": 750, "stripe": 400}),
        read_beyond(torch, {"fog": 950, "stripe": 900}, augmentation=[{"augmentation": "fog"}]),
    ]
    runs = write_made_up_results(tmp_path, models)
    mine = Reading(
        kind="my own", group="given", about="mine", source="here", made="by hand", score=Score(correct=3, total=4),
        missing=None, trained_like=(),
    )  # fmt: skip
    again = replace(mine, kind="stripe", group="corruptions", score=Score(correct=500, total=1000))
    fonts = replace(mine, kind="printed fonts", group="foreign", score=None, missing="needs fonts")
    keep_readings(tmp_path, numpy.tag, [mine, again, fonts])
    page = write_report(tmp_path, models, tmp_path / "report.html").read_text()

    assert _cells(page, "kinds", 'data-kind="fog"') == ["70.00", "75.00", "95.00°"]
    assert _cells(page, "kinds", 'data-kind="stripe"') == ["30.00", "50.00", "90.00"]  # what was read since counts
    assert _cells(page, "kinds", 'data-kind="mean: corruptions"') == ["50.00", "62.50", "92.50"]
    assert _cells(page, "kinds", 'data-kind="my own"') == ["-", "75.00", "-"]
    assert _cells(page, "kinds", 'data-kind="mnist"') == ["97.41", "97.79", "97.86"]
    assert _cells(page, "kinds", 'data-kind="training"') == [f"{model.card.train_seconds:.1f}" for model in models]
    assert 'data-kind="printed fonts"' not in page  # nobody has read it
    ones = [run for run in runs if run.users == 1 and run.protocol == "v2-binary" and run.backend != "echo"]
    quickest = [min(run.p50_ms for run in ones if run.model == model.tag) for model in models]
    assert [float(cell) for cell in _cells(page, "kinds", 'data-kind="latency"')] == pytest.approx(quickest, rel=5e-3)
    assert "behind bright fog, with a quarter of its contrast; 1,000 images" in page
    assert "Accuracy of each model on digits that are not MNIST" in page  # the picture


def test_kinds_are_spread_over_those_that_every_model_was_asked() -> None:
    keras, numpy, torch = made_up_models()
    models = [
        read_beyond(keras, {"fog": 700, "stripe": 300, "zigzag": 10}),
        read_beyond(numpy, {"fog": 750, "stripe": 800}),
        read_beyond(torch, {"fog": 950, "stripe": 900}),
    ]
    found = rows(models, {})
    assert [row.name for row in found] == ["stripe", "fog", "zigzag"]  # in the order of the table
    spread = spreads(found)
    assert spread == [
        Spread(mean=0.5, worst=0.3, worst_kind="stripe"),
        Spread(mean=0.775, worst=0.75, worst_kind="fog"),
        Spread(mean=0.925, worst=0.9, worst_kind="stripe"),
    ]
    assert spreads(rows(models, {})[2:]) is None


def test_a_report_on_models_that_read_nothing_else_says_how(made_up: tuple[list[StoredModel], list[Run], str]) -> None:
    assert "Not evaluated yet: <code>samedigit evaluate MODEL --beyond</code>" in made_up[2]
    assert '<table id="kinds">' not in made_up[2]
