"""The table of recipes, and what cannot be trained or stored."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT

from digits.contract import FRAMEWORKS
from digits.errors import ImpossibleRecipe, StoreError
from digits.network import dense_network
from digits.store import require_space
from training.recipes import RECIPES, Recipe, departures

PUBLISHED = {
    "numpy-sigmoid": None, "torch-relu": 97.46, "keras-sequential": 96.43, "keras-functional": 97.41, "torch-basic": 96.52,
    "torch-improved": 95.96, "keras-basic": 96.76, "keras-enhanced": 96.83, "torch-deep": None, "keras-deep": None,
    "numpy-relu": None, "numpy-deep": None,
    **{f"{framework}-{name}": None for framework in FRAMEWORKS for name in ("conv", "robust", "wide")},
}  # fmt: skip


def test_every_published_model_has_its_row_and_its_reported_figure() -> None:
    assert {name: recipe.reported for name, recipe in RECIPES.items()} == PUBLISHED
    assert all(recipe.name == name and recipe.source for name, recipe in RECIPES.items())


def test_twins_differ_in_nothing_but_what_their_frameworks_start_with() -> None:
    def mathematics(name: str) -> dict[str, Any]:
        words = ("name", "framework", "keras_api", "reported", "source")
        return {key: value for key, value in RECIPES[name].to_data().items() if key not in words}

    assert mathematics("numpy-relu") == mathematics("torch-relu")
    assert mathematics("numpy-deep") == mathematics("torch-deep")
    assert mathematics("keras-functional") == mathematics("keras-sequential")
    defaults = {"weight_draw": "glorot_uniform", "bias_draw": "zeros", "epsilon": 1e-7}
    assert mathematics("keras-sequential") == {**mathematics("torch-relu"), **defaults}
    assert mathematics("keras-deep") == {**mathematics("torch-deep"), **defaults}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_a_recipe_survives_the_way_through_json(recipe: Recipe) -> None:
    assert Recipe.from_data(json.loads(json.dumps(recipe.to_data()))) == recipe


def test_a_recipe_from_before_anything_was_drawn_draws_nothing() -> None:
    data = RECIPES["torch-conv"].to_data()
    del data["drawn"], data["strangers"]
    assert Recipe.from_data(data) == RECIPES["torch-conv"]


def test_a_run_departs_in_the_fields_that_are_not_its_rows_and_its_seed_is_none_of_them() -> None:
    row = RECIPES["torch-relu"]
    assert departures(row) == departures(dataclasses.replace(row, seed=2)) == ()
    assert departures(dataclasses.replace(row, epochs=1, seed=2)) == ("epochs",)
    assert departures(dataclasses.replace(row, network=dense_network((20,), "relu"), epsilon=1e-7)) == (
        "network",
        "epsilon",
    )
    assert departures(dataclasses.replace(row, reported=None)) == ("reported",)
    assert departures(dataclasses.replace(row, name="mine", epochs=1)) == ()  # there is no row to depart from


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("framework", "jax"), ("schedule", "cosine"),
        ("weight_draw", "ones"), ("bias_draw", "ones"), ("l2", -1e-3), ("l2", float("nan")), ("scaling", (1.0, 0.0)),
        ("drawn", -1), ("drawn", 0.5), ("drawn", True), ("strangers", -1), ("strangers", 0.5),
        ("optimizer", "sgd"), ("learning_rate", -1e-3), ("learning_rate", float("inf")), ("beta_1", 1.0), ("beta_2", -0.1),
        ("epsilon", 0.0), ("batch_size", 0), ("epochs", 0), ("epochs", -3), ("validation_fraction", 1.0), ("seed", -1),
    ],
)  # fmt: skip
def test_an_impossible_field_is_refused_and_named(field: str, value: Any) -> None:
    with pytest.raises(ImpossibleRecipe, match=rf"torch-relu cannot be trained: {field} must be .*; it is "):
        dataclasses.replace(RECIPES["torch-relu"], **{field: value})


def test_a_store_that_cannot_be_written_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    process = subprocess.run(
        [sys.executable, "-m", "samedigit", "train", "numpy-sigmoid"],  # all its epochs: would outlast the time given
        cwd=PROJECT,
        env={**os.environ, "BENTOML_HOME": str(tmp_path / "file" / "below")},
        capture_output=True,
        text=True,
        timeout=8,
    )
    assert process.returncode == 3
    assert "cannot be written" in process.stderr
    assert "BENTOML_HOME" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_store_with_room_is_accepted_and_left_as_it_was(empty_home: Path) -> None:
    before = sorted(empty_home.iterdir())
    require_space()
    assert sorted(empty_home.iterdir()) == before


def test_a_full_disk_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small disk")
    try:
        monkeypatch.setenv("BENTOML_HOME", str(small / "home"))
        with pytest.raises(StoreError, match=r"has 1\.0 MB left, and a model needs up to 20"):
            require_space()
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_while_a_model_is_stored_leaves_nothing(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # no file may grow beyond: the weights need 400 kB
sys.argv = ["samedigit", "train", "numpy-sigmoid", "--epochs", "1"]
from samedigit.cli import main
main()
"""
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env={**os.environ, "BENTOML_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 3, process.stderr
    assert "could not be stored" in process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "models" / "numpy-sigmoid").exists()
    assert not list(tmp_path.glob("samedigit-*"))
