"""The report, from made-up load tests: every figure below is invented, and none is a measurement."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comparison.plots import _spread
from comparison.report import write_report
from comparison.results import summary_table
from comparison.statistics import card_interval, overlap, wilson
from digits.card import Card, Epoch, Score
from digits.contract import BACKENDS, Framework
from digits.errors import ReportError, ResultsMissing
from digits.store import StoredModel
from loadtests.load_test import Run

MEDIAN_MS = {"numpy": 0.25, "torch": 0.34, "tensorflow": 0.72, "onnx": 0.24, "echo": 0.21}
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


def made_up_models() -> list[StoredModel]:
    return [
        made_up_model("keras-sequential", "keras", 9741),
        made_up_model("numpy-sigmoid", "numpy", 9779),
        made_up_model("torch-relu", "torch", 9786),
    ]


def write_made_up_results(
    folder: Path, models: list[StoredModel], *, many: int = MANY, requests: int = REQUESTS, failed: float = 0.0
) -> list[Run]:
    """A load test's folder: lognormal latencies, for every model and backend and for the door."""
    generator = np.random.default_rng(0)
    (folder / "latencies").mkdir(parents=True)
    pairs = [(model, backend) for model in models for backend in BACKENDS]
    targets = [*((model, str(backend)) for model, backend in pairs), (models[0], "echo")]
    runs = []
    for model, target in targets:
        for users in (1, many) if many > 1 else (1,):
            typical = MEDIAN_MS[target] * (1 if users == 1 else users * 0.8)
            latency_ms = typical * generator.lognormal(0, 0.08, requests) + generator.exponential(0.02, requests)
            share_right = 1.0 if target == "echo" else model.card.accuracy
            outcomes = np.where(generator.random(requests) < share_right, "right", "wrong")
            outcomes[generator.random(requests) < failed] = "failed"
            sent_s = np.cumsum(latency_ms) / 1000 / users
            name = f"latencies/{model.recipe}.{target}.{users}.csv"
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
                    users=users,
                    requests=requests,
                    failures=failures,
                    first_failure="status 503: b'<busy>'" if failures else None,
                    correct=int((outcomes == "right").sum()),
                    seconds=float(sent_s[-1]),
                    requests_per_second=requests / float(sent_s[-1]),
                    p50_ms=p50,
                    p95_ms=p95,
                    p99_ms=p99,
                    start_to_ready_seconds=3.4,
                    server_memory_mb=141.5,
                    latencies=name,
                )
            )
    document = {
        "made_at": "2026-01-03T04:05:06+00:00",
        "machine": "Linux x86_64, Made-up Processor 9000",
        "cores": 2,
        "pinning": "server on core 0, client on core 1",
        "duration_seconds": 5,
        "versions": {"bentoml": "1.4.39", "locust": "2.47.0"},
        "runs": [asdict(run) for run in runs],
    }
    (folder / "loadtest.json").write_text(json.dumps(document))
    return runs
