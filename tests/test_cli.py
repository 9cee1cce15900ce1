"""The command line, as a person or a program calls it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import PROJECT, TRAINED, require, require_recipe


def samedigit(*arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "samedigit", *map(str, arguments)],
        env={**os.environ, "COLUMNS": "200", **{name: str(value) for name, value in environment.items()}},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture
def home(trained_home: Path, tmp_path: Path) -> Path:
    """A copy of the trained store, to be written to."""
    return Path(shutil.copytree(trained_home, tmp_path / "home"))


def test_help_names_every_command() -> None:
    said = samedigit("--help")
    assert said.returncode == 0
    for command in ("train", "models", "promote", "evaluate", "serve", "loadtest", "report"):
        assert f" {command} " in said.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train"], 2, "name one or more recipes, or give --all"),
        (["train", "torch-relu", "--all"], 2, "name one or more recipes, or give --all"),
        (
            ["train", "torch-rel"],
            2,
            "no recipe 'torch-rel'; there are numpy-sigmoid, numpy-relu, numpy-deep, torch-relu",
        ),
        (["train", "torch-relu", "--epochs", "0"], 2, "--epochs"),
        (["train", "torch-relu", "--seed", "-1"], 2, "--seed"),
        (["train", "numpy-sigmoid", "--device", "gpu"], 2, "auto, cpu, cuda or cuda:INDEX; got 'gpu'"),
        (["evaluate", "torch-relu"], 3, "No model is stored"),
        (["promote", "torch-relu"], 3, "No model is stored"),
        (["promote"], 2, "MODEL"),
        (["loadtest"], 3, "no model is stored"),
        (["loadtest", "--backend", "onyx"], 2, "no backend 'onyx'"),
        (["loadtest", "--protocol", "v3"], 2, "no protocol 'v3'"),
        (["loadtest", "--users", "0"], 2, "--users"),
        (["report", "--results", "/nowhere"], 3, "/nowhere"),
        (["serve", "--port", "70000"], 2, "--port"),
    ],
)
def test_what_cannot_be_done_is_said_without_a_traceback(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    said = samedigit(*arguments, BENTOML_HOME=tmp_path)
    assert said.returncode == code, said.stderr
    assert message in said.stderr
    assert "Traceback" not in said.stderr


def test_serving_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    said = samedigit("serve", "--port", 3997, BENTOML_HOME=tmp_path)
    assert said.returncode != 0
    assert "Train one: samedigit train --all" in said.stderr
    assert "Traceback" not in said.stderr


def test_training_without_data_says_what_to_set_and_stores_nothing(tmp_path: Path) -> None:
    said = samedigit("train", "numpy-sigmoid", BENTOML_HOME=tmp_path / "home", SAMEDIGIT_DATA_DIR=tmp_path)
    assert said.returncode == 3
    assert "SAMEDIGIT_DATA_DIR" in said.stderr
    assert "Traceback" not in said.stderr
    assert not (tmp_path / "home" / "models" / "numpy-sigmoid").exists()


def test_a_missing_framework_is_told_before_any_training(
    tmp_path: Path, without: Callable[..., dict[str, str]]
) -> None:
    said = samedigit("train", "--all", "--epochs", 1, BENTOML_HOME=tmp_path, **without("keras"))
    assert said.returncode == 3
    assert "Training with keras needs keras: pip install '.[train,tensorflow]'" in said.stderr
    assert not (tmp_path / "models" / "numpy-sigmoid").exists()


def test_a_missing_extra_is_told_without_a_traceback(
    trained_home: Path, without: Callable[..., dict[str, str]]
) -> None:
    said = samedigit("models", BENTOML_HOME=trained_home, **without("scipy"))
    assert said.returncode == 3
    assert "scipy is not installed" in said.stderr
    assert "pip install '.[train,compare]'" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.slow
def test_training_prints_json_that_models_repeats(tmp_path: Path) -> None:
    trained = samedigit(
        "train", "numpy-sigmoid", "--epochs", 1, "--seed", 7, "--json", BENTOML_HOME=tmp_path, CUDA_VISIBLE_DEVICES=""
    )
    assert trained.returncode == 0, trained.stderr
    (facts,) = json.loads(trained.stdout)
    assert facts["recipe"] == "numpy-sigmoid"
    assert facts["model"] == f"numpy-sigmoid:{facts['version']}"
    assert (facts["served"], facts["promoted"], facts["departed"]) == (False, False, {"epochs": 1})
    assert (
        f"{facts['model']} departed from its recipe (epochs 1), so it is served only by name, or once promoted: "
        f"samedigit promote {facts['model']}\n"
    ) in trained.stderr
    assert facts["seed"] == 7
    assert facts["epochs"] == 1
    assert facts["parameters"] == 784 * 128 + 128 + 128 * 10 + 10
    assert facts["accuracy_95"][0] < facts["accuracy"] < facts["accuracy_95"][1]
    assert json.loads(samedigit("models", "--json", BENTOML_HOME=tmp_path).stdout) == [facts]


def test_the_table_of_models_fits_a_terminal_of_80_columns(trained_home: Path) -> None:
    said = samedigit("models", BENTOML_HOME=trained_home, COLUMNS=80)
    assert said.returncode == 0, said.stderr
    for row in json.loads(samedigit("models", "--json", BENTOML_HOME=trained_home).stdout):
        for shown in (row["recipe"], row["version"], f"{100 * row['accuracy']:.2f}", f"{row['parameters']:,}"):
            assert shown in said.stdout
        assert f"{row['model']} departed from its recipe: epochs 1\n" in said.stdout
    assert said.stdout.count("served, promoted") == len(TRAINED)
    assert max(map(len, said.stdout.splitlines())) <= 80
    assert "…" not in said.stdout


def rows_of(home: Path) -> dict[str, dict[str, Any]]:
    """What `samedigit models` says, by recipe, of a store that has one version of each."""
    said = samedigit("models", "--json", BENTOML_HOME=home)
    assert said.returncode == 0, said.stderr
    return {row["recipe"]: row for row in json.loads(said.stdout)}


def test_promote_says_which_version_is_served_and_models_shows_it(home: Path) -> None:
    require_recipe("numpy-sigmoid")
    (home / "models/numpy-sigmoid/promoted").unlink()
    before = rows_of(home)["numpy-sigmoid"]
    assert (before["served"], before["promoted"], before["departed"]) == (False, False, {"epochs": 1})
    refused = samedigit("promote", "numpy-sigmoid", BENTOML_HOME=home)
    assert refused.returncode == 3
    said = f"No run of numpy-sigmoid is whole. Name the one to promote; there are {before['model']}."
    assert said in refused.stderr

    promoted = samedigit("promote", before["model"], BENTOML_HOME=home)
    assert promoted.returncode == 0, promoted.stderr
    assert promoted.stdout == f"{before['model']} is the served version of numpy-sigmoid.\n"
    assert rows_of(home)["numpy-sigmoid"] == {**before, "served": True, "promoted": True}

    again = samedigit("promote", "numpy-sigmoid:latest", "--json", BENTOML_HOME=home)
    version = before["version"]
    facts = {"model": before["model"], "recipe": "numpy-sigmoid", "version": version, "departed": {"epochs": 1}}
    assert json.loads(again.stdout) == facts


def test_models_names_a_promoted_version_that_is_gone_and_lists_the_others(home: Path) -> None:
    require_recipe("numpy-sigmoid")
    (home / "models/numpy-sigmoid/promoted").write_text("gone")
    said = samedigit("models", "--json", BENTOML_HOME=home)
    assert said.returncode == 0
    rows = {row["recipe"]: row for row in json.loads(said.stdout)}
    tag = rows["numpy-sigmoid"]["model"]
    assert said.stderr == (
        f"numpy-sigmoid:gone was promoted, and is stored no more; there are {tag}. "
        f"Promote another: samedigit promote {tag}\n"
    )
    served = {recipe: (row["served"], row["promoted"]) for recipe, row in rows.items()}
    assert served == {recipe: (recipe != "numpy-sigmoid",) * 2 for recipe in rows}


def test_runs_that_departed_are_not_load_tested_unless_they_are_named(home: Path) -> None:
    for promoted in home.glob("models/*/promoted"):
        promoted.unlink()
    said = samedigit("loadtest", BENTOML_HOME=home)
    assert said.returncode == 3
    assert "There is nothing to load: every stored run departed from its recipe (" in said.stderr


@pytest.mark.slow
def test_training_says_where_the_promoted_version_stays_the_served_one(home: Path) -> None:
    require_recipe("numpy-sigmoid")
    (older,) = (path.name for path in (home / "models/numpy-sigmoid").iterdir() if path.is_dir())
    code = """
import dataclasses, sys
from samedigit.cli import main
from training.recipes import RECIPES
RECIPES["numpy-sigmoid"] = dataclasses.replace(RECIPES["numpy-sigmoid"], epochs=1)  # so that a whole run is short
sys.argv = ["samedigit", "train", "numpy-sigmoid", "--seed", "2", "--json"]
main()
"""
    trained = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "BENTOML_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert trained.returncode == 0, trained.stderr
    (facts,) = json.loads(trained.stdout)
    assert (facts["served"], facts["promoted"], facts["departed"]) == (False, False, {})
    assert (
        f"numpy-sigmoid:{older} was promoted, and stays the served one until another is: "
        f"samedigit promote {facts['model']}\n"
    ) in trained.stderr
    promoted = samedigit("promote", "numpy-sigmoid", BENTOML_HOME=home)
    assert promoted.stdout == f"{facts['model']} is the served version of numpy-sigmoid.\n"


@pytest.mark.slow
def test_evaluate_reproduces_the_stored_accuracy_in_every_backend(trained_home: Path) -> None:
    require("torch", "tensorflow", "onnxruntime")
    said = samedigit("evaluate", "torch-relu", "--json", BENTOML_HOME=trained_home)
    assert said.returncode == 0, said.stderr
    checks = json.loads(said.stdout)
    assert [check["backend"] for check in checks] == ["numpy", "torch", "tensorflow", "onnx"]
    assert all(check["correct"] == check["stored_correct"] and check["total"] == 10_000 for check in checks)


def test_evaluate_fails_where_the_stored_accuracy_is_another(home: Path) -> None:
    (card,) = (home / "models" / "numpy-sigmoid").glob("*/model.yaml")
    facts = json.loads(samedigit("models", "--json", BENTOML_HOME=home).stdout)
    correct = next(row["correct"]["numpy"] for row in facts if row["recipe"] == "numpy-sigmoid")
    text = card.read_text()
    assert text.count(f"correct: {correct}") >= 1
    card.write_text(text.replace(f"correct: {correct}", f"correct: {correct + 1}"))
    said = samedigit("evaluate", "numpy-sigmoid", "--backend", "numpy", BENTOML_HOME=home)
    assert said.returncode == 1
    assert "NOT as stored" in said.stdout


def test_evaluate_refuses_a_damaged_file(home: Path) -> None:
    (weights,) = (home / "models" / "numpy-sigmoid").glob("*/model.npz")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    said = samedigit("evaluate", "numpy-sigmoid", "--backend", "numpy", BENTOML_HOME=home)
    assert said.returncode == 3
    assert str(weights) in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.slow
def test_an_interrupted_training_stores_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        trainings = {}
        for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            trainings[stop] = subprocess.Popen(
                [sys.executable, "-m", "samedigit", "train", "numpy-sigmoid", "--epochs", "500"],
                env={**os.environ, "BENTOML_HOME": str(tmp_path / stop.name)},
                cwd=PROJECT,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(trainings[stop].kill)
        deadline = time.monotonic() + 120
        for stop, training in trainings.items():
            while psutil.Process(training.pid).cpu_times().user < 4:  # beyond its imports, well inside the 500 epochs
                assert training.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            training.send_signal(stop)
        for stop, training in trainings.items():
            said = training.communicate(timeout=60)[1]
            assert training.returncode != 0
            if stop == signal.SIGINT:
                assert training.returncode == 130
                assert "Interrupted: the model under way is not stored." in said
            assert "Traceback" not in said
            home = tmp_path / stop.name
            assert samedigit("models", "--json", BENTOML_HOME=home).stdout.strip() == "[]"
            assert not list(home.glob("samedigit-*"))


@pytest.mark.slow
def test_loadtest_prints_json_of_the_runs_it_stored(trained_home: Path, tmp_path: Path) -> None:
    require("onnxruntime", "locust")
    loaded = samedigit(
        "loadtest", "numpy-sigmoid", "--backend", "onnx", "--protocol", "v2-binary", "--protocol", "predict",
        "--users", 1, "--duration", 1, "--results", tmp_path, "--json", BENTOML_HOME=trained_home,
    )  # fmt: skip
    assert loaded.returncode == 0, loaded.stderr
    runs: list[dict[str, Any]] = json.loads(loaded.stdout)
    asked = [(backend, protocol, 1) for backend in ("onnx", "echo") for protocol in ("predict", "v2-binary")]
    assert [(run["backend"], run["protocol"], run["users"]) for run in runs] == asked
    assert json.loads((tmp_path / "loadtest.json").read_text())["runs"] == runs


@pytest.mark.slow
def test_loadtest_prints_a_table_of_what_it_measured(trained_home: Path, tmp_path: Path) -> None:
    require("locust")
    loaded = samedigit(
        "loadtest", "numpy-sigmoid", "--backend", "numpy", "--protocol", "v2-json", "--users", 2, "--duration", 1,
        "--results", tmp_path, BENTOML_HOME=trained_home,
    )  # fmt: skip
    assert loaded.returncode == 0, loaded.stderr
    one, many, door, _ = json.loads((tmp_path / "loadtest.json").read_text())["runs"]
    figures = [
        f"{one['p50_ms']:.2f}", f"{one['mean_ms']:.3f}", f"{one['model_ms']:.3f}", f"{many['requests_per_second']:,.0f}",
        f"{door['p50_ms']:.2f}", f"{door['mean_ms']:.3f}",
    ]  # fmt: skip
    assert [figure for figure in figures if figure not in loaded.stdout] == []


@pytest.mark.slow
def test_a_study_ends_with_a_table_and_a_report_and_goes_on_where_it_was(tmp_path: Path) -> None:
    require("scipy", "statsmodels", "matplotlib")
    folder = tmp_path / "study"
    first = samedigit("study", "numpy-deep", "--seeds", 1, "--study", folder, "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["report"] == str(folder / "report.html")
    before = (folder / "numpy-deep" / "seed-0001.json").read_bytes()
    second = samedigit("study", "numpy-deep", "--seeds", 2, "--study", folder, COLUMNS=80)
    assert second.returncode == 0, second.stderr
    assert "seed 2" in second.stderr
    assert "seed 1:" not in second.stderr
    assert (folder / "numpy-deep" / "seed-0001.json").read_bytes() == before
    correct = [json.loads((folder / "numpy-deep" / f"seed-000{seed}.json").read_text())["correct"] for seed in (1, 2)]
    assert f"{sum(correct) / 200:.2f}" in second.stdout
    assert "…" not in second.stdout
    share = samedigit("study", "numpy-deep", "--seeds", 2, "--study", folder, "--share", "2/2")
    said = "Share 2/2 is done; 2 of 2 runs are there: the same command without --share writes the report.\n"
    assert (share.returncode, share.stdout) == (0, said)
    wrong = samedigit("study", "numpy-deep", "--study", folder, "--share", "3/2")
    assert (wrong.returncode, wrong.stderr) == (3, "Error: A share is given as 3/8, the third of eight; got '3/2'.\n")
    markdown = samedigit("study", "numpy-deep", "--seeds", 2, "--study", folder, "--markdown")
    assert markdown.stdout.splitlines()[2].startswith(f"| numpy-deep | 2 | {sum(correct) / 200:.2f} |")
