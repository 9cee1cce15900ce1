"""Models in a plain folder: written whole or not at all, and served by the rules of the store, without BentoML's."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Expected, require, require_recipe
from servers import failed_start, folder_of, serving
from small_models import alter, keep
from typer.testing import CliRunner

from digits import store
from digits.errors import ModelDamaged, ModelNotFound, StoreError
from digits.exported import export
from digits.mnist import LabelledImages
from samedigit.cli import app
from serving.choice import choose
from serving.models import ServedModels
from serving.settings import read_settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def served(folder: Path) -> list[str]:
    return [model.tag for model in store.served_models(folder=folder)]


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# Written


def test_a_folder_has_the_files_that_backends_open_and_the_card_and_anybody_may_read_them(
    empty_home: Path, folder: Path
) -> None:
    kept = keep("a", 1)
    previous = os.umask(0o077)
    try:
        export([kept], folder)
    finally:
        os.umask(previous)
    version = folder / "a" / kept.version
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"model.npz", "card.json"}
    assert (version / "model.npz").read_bytes() == kept.path("numpy").read_bytes()
    assert json.loads((version / "card.json").read_bytes()) == kept.card.to_data()
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_what_was_exported_is_what_the_folder_serves(empty_home: Path, folder: Path) -> None:
    """Though a newer run, an older promotion, or a departure would say otherwise."""
    first, second = keep("a", 1, day=1), keep("a", 2, day=2)
    departed = keep("b", 3, departures=("epochs",))
    export([second], folder)
    assert served(folder) == [second.tag]
    assert not (folder / "a" / store.PROMOTED).exists()
    export([first, departed], folder)
    assert served(folder) == [first.tag, departed.tag]
    export([second], folder)
    assert served(folder) == [second.tag, departed.tag]
    assert not (folder / "a" / store.PROMOTED).exists()
    store.promote(second.tag)
    export([second], folder)
    keep("a", 5, day=5)
    shutil.copytree(folder / "a" / first.version, folder / "a/newest")
    card = json.loads((folder / "a/newest/card.json").read_bytes()) | {"trained_at": "2026-03-01T00:00:00+00:00"}
    (folder / "a/newest/card.json").write_text(json.dumps(card))
    assert served(folder)[0] == second.tag  # which was promoted in the store


def test_other_versions_and_what_else_lies_there_stay(empty_home: Path, folder: Path) -> None:
    first, second = keep("a", 1, day=1), keep("a", 2, day=2)
    export([first], folder)
    (folder / "notes.txt").write_text("mine")
    export([second], folder)
    assert [model.version for model in store.stored_models(folder=folder)] == [second.version, first.version]
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_damaged_copy_is_replaced_and_one_that_is_right_is_left_alone(empty_home: Path, folder: Path) -> None:
    kept = keep("a", 1)
    export([kept], folder)
    (copy,) = store.stored_models(folder=folder)
    before = copy.path("numpy").stat().st_ino
    export([kept], folder)
    assert copy.path("numpy").stat().st_ino == before
    alter(copy)
    with pytest.raises(ModelDamaged):
        copy.verify("numpy")
    export([kept], folder)
    copy.verify("numpy")


def test_a_damaged_model_is_not_exported_nor_are_those_beside_it(empty_home: Path, folder: Path) -> None:
    first = keep("a", 1)
    export([first], folder)
    before = everything_in(folder)
    second, damaged = keep("a", 2, day=2), keep("b", 3)
    alter(damaged)
    with pytest.raises(ModelDamaged, match="is not the file that was stored"):
        export([second, damaged], folder)
    assert everything_in(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["a"]
    with pytest.raises(ModelDamaged):
        export([second, damaged], folder.with_name("new"))
    assert not folder.with_name("new").exists()


def test_an_export_that_fails_at_its_last_step_leaves_the_folder_as_it_was(empty_home: Path, folder: Path) -> None:
    first, second = keep("a", 1, day=1), keep("a", 2, day=2)
    export([first], folder)
    (copy,) = store.stored_models(folder=folder)
    alter(copy)  # so that it would be replaced
    (folder / "b").write_text("not a folder")
    before = everything_in(folder)
    with pytest.raises(StoreError, match=f"The models could not be written into {folder}: .*It is as it was"):
        export([first, second, keep("b", 3)], folder)
    assert everything_in(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_a_promotion_comes_back_where_an_export_fails_after_it(empty_home: Path, folder: Path) -> None:
    first, second = keep("a", 1, day=1), keep("a", 2, day=2)
    export([first], folder)
    (folder / "a" / store.PROMOTED).write_text(first.version)
    export([keep("b", 3)], folder)
    (folder / "b/more").mkdir()
    (folder / "b/more/card.json").write_text("{}")
    before = everything_in(folder)
    with pytest.raises(ModelDamaged):
        export([second, keep("b", 4, day=4)], folder)
    assert everything_in(folder) == before


# Read


def test_a_file_that_is_not_the_one_on_the_card_is_refused_and_what_to_do_is_said(
    empty_home: Path, folder: Path
) -> None:
    export([keep("a", 1)], folder)
    (copy,) = store.stored_models(folder=folder)
    alter(copy)
    with pytest.raises(ModelDamaged) as refused:
        ServedModels(read_settings({"SAMEDIGIT_MODEL_FOLDER": str(folder), "SAMEDIGIT_BACKENDS": "numpy"})).check()
    assert str(refused.value).startswith(f"{copy.path('numpy')} is not the file that was stored: expected sha256 ")
    assert str(refused.value).endswith(f". Export it again: samedigit export {folder} {copy.tag}")


def test_a_card_that_is_none_or_of_another_recipe_is_refused(empty_home: Path, folder: Path) -> None:
    kept = keep("a", 1)
    export([kept], folder)
    shutil.copytree(folder / "a", folder / "b")
    with pytest.raises(ModelDamaged) as refused:
        store.stored_models(folder=folder)
    version = folder / "b" / kept.version
    assert str(refused.value) == (
        f"{version / 'card.json'} is not the card of a model of b that this version of Samedigit can read (it is of a). "
        f"Remove {version}, or export it again: samedigit export {folder} b:{kept.version}"
    )
    for text in (
        "[" * 100_000,
        "",
        "[]",
        "{}",
        "null",
        '"text"',
        '{"recipe": 1}',
        '{"recipe": {"name": "b"}, "scores": []}',
    ):
        (version / "card.json").write_text(text)
        with pytest.raises(ModelDamaged):
            store.stored_models(folder=folder)


def test_what_is_no_model_is_passed_over(empty_home: Path, folder: Path) -> None:
    kept = keep("a", 1)
    export([kept], folder)
    before = store.store_signature(folder=folder)
    (folder / "lost+found/a").mkdir(parents=True)
    (folder / ".samedigit-abc/a").mkdir(parents=True)
    assert store.store_signature(folder=folder) == before
    (folder / "a/half").mkdir()
    (folder / "a/half/model.npz").write_bytes(b"")
    shutil.copytree(folder / "a" / kept.version, folder / "a/.hidden")
    shutil.copytree(folder / "a", folder / "Capital")
    assert served(folder) == [kept.tag]


def test_a_model_is_found_by_recipe_version_and_latest_and_what_is_not_there_is_said(
    empty_home: Path, folder: Path
) -> None:
    first, second = keep("a", 1, day=1), keep("a", 2, day=2)
    export([second], folder)
    export([first], folder)
    for tag, version in (("a", first.version), (first.tag, first.version), ("a:latest", second.version)):
        assert store.find_model(tag, folder=folder).version == version
    with pytest.raises(ModelNotFound) as missing:
        store.find_model("b", folder=folder)
    assert str(missing.value) == (
        f"No model b is in {folder}; there are {second.tag}, {first.tag}. Export it: samedigit export {folder} b"
    )
    shutil.rmtree(folder / "a" / first.version)
    with pytest.raises(ModelNotFound) as missing:
        store.served_models(folder=folder)
    assert str(missing.value).endswith(f"Promote another: echo {second.version} > {folder / 'a' / 'promoted'}")


def test_nothing_to_serve_is_said_with_what_is_expected(tmp_path: Path, trained_home: Path) -> None:
    require_recipe("numpy-sigmoid")
    nowhere, empty = tmp_path / "nowhere", tmp_path / "empty"
    empty.mkdir()
    said = failed_start(trained_home, {"SAMEDIGIT_MODEL_FOLDER": str(nowhere)})
    assert said == f"Error: {nowhere} is no folder of models. Write one: samedigit export {nowhere}"
    with pytest.raises(ModelNotFound) as missing:
        choose(read_settings({"SAMEDIGIT_MODEL_FOLDER": str(empty)}))
    assert str(missing.value) == (
        f"There is nothing to serve: no model is in {empty}, where RECIPE/VERSION has card.json and the files that "
        f"it names. Write one: samedigit export {empty}"
    )


# Served


@pytest.mark.slow
def test_a_server_of_a_folder_answers_as_one_of_the_store_and_needs_none(
    trained_home: Path, tmp_path: Path, test_set: LabelledImages, expected: Expected
) -> None:
    require("onnxruntime")
    require_recipe("torch-relu")
    folder = tmp_path / "models"
    said = CliRunner(env={"BENTOML_HOME": str(trained_home)}).invoke(app, ["export", str(folder), "torch-relu"])
    assert (said.exit_code, said.stderr) == (0, "")
    version = folder_of(trained_home, "torch-relu").name
    assert said.stdout == f"torch-relu:{version}: {(folder / 'torch-relu' / version).resolve()}\n"
    environment = {"SAMEDIGIT_MODEL_FOLDER": str(folder), "SAMEDIGIT_BACKENDS": "onnx"}
    with serving(tmp_path / "nobody", environment) as server:
        answer = server.predict("onnx", test_set.images[:100])
        assert answer["model"] == f"torch-relu:{version}"
        found = [one["probabilities"] for one in answer["predictions"]]
        np.testing.assert_allclose(found, expected("torch-relu", 100), atol=1e-5)


def test_the_command_exports_the_served_version_of_every_recipe_or_says_that_there_is_none(
    empty_home: Path, folder: Path
) -> None:
    command = CliRunner()
    failed = command.invoke(app, ["export", str(folder)])
    assert isinstance(failed.exception, ModelNotFound)
    assert str(failed.exception).startswith("There is nothing to export: no model is stored in ")
    assert not folder.exists()
    first, _, other = keep("a", 1, day=1), keep("a", 2, day=2), keep("b", 3)
    store.promote(first.tag)
    said = command.invoke(app, ["export", str(folder), "--json"])
    assert said.exit_code == 0
    assert json.loads(said.stdout) == [
        {"model": model.tag, "folder": str(folder.resolve() / model.recipe / model.version)} for model in (first, other)
    ]
    assert served(folder) == [first.tag, other.tag]
