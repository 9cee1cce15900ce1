"""The model store: a model is there whole, or not at all, and BentoML itself can read it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import bentoml
import pytest
from conftest import PROJECT, python

from digits import store
from digits.card import Card, Epoch, Score
from digits.errors import ModelDamaged, ModelNotFound, StoreError
from digits.store import StoredModel

FILE = b"the weights"


def make_card(
    folder: Path, *, trained_at: str = "2026-01-02T03:04:05.678901+00:00", departures: tuple[str, ...] = ()
) -> Card:
    return Card(
        recipe={"name": "small", "hidden": [128, 20], "epsilon": 1e-7, "scaling": [-1.0, 1.0], "reported": 97.46},
        departures=departures,
        framework="numpy",
        seed=1,
        device="cpu",
        parameters=101_770,
        history=(
            Epoch(loss=0.1 + 0.2, accuracy=1 / 3, held_out_accuracy=0.5, seconds=1.25),
            Epoch(loss=1e-12, accuracy=0.9, held_out_accuracy=0.75, seconds=2e-5),
        ),
        held_out="test images",
        scores={"numpy": Score(correct=9731, total=10_000), "onnx": Score(correct=9730, total=10_000)},
        largest_difference={"numpy": 0.0, "onnx": 1.6093254089355469e-06},
        bytes={"numpy": 11, "onnx": 12},
        files=store.hashes(folder),
        data={"t10k-labels-idx1-ubyte": "0" * 64},
        versions={"python": "3.11.7", "numpy": "2.10"},
        machine="Linux x86_64, 2 cores",
        threads=1,
        trained_at=trained_at,
        train_seconds=3.7,
        export_seconds=1.0,
    )


def fill(folder: Path) -> Card:
    (folder / "model.npz").write_bytes(FILE)
    (folder / "saved_model").mkdir()
    (folder / "saved_model" / "variables").write_bytes(FILE)
    return make_card(folder)


def filled(trained_at: str, *, departures: tuple[str, ...] = ()) -> Callable[[Path], Card]:
    def fill(folder: Path) -> Card:
        (folder / "model.npz").write_bytes(trained_at.encode())
        return make_card(folder, trained_at=trained_at, departures=departures)

    return fill


def everything(home: Path) -> list[str]:
    """Every file and folder below the store's home, but for the folders that BentoML itself makes."""
    made_by_bentoml = {"models", "bentos", "envs", "tmp"}
    found = sorted(path.relative_to(home).as_posix() for path in home.rglob("*"))
    return [path for path in found if path not in made_by_bentoml]


# What is saved is found


def test_a_saved_model_is_found_with_its_files_and_every_bit_of_its_card(empty_home: Path) -> None:
    saved = store.save("small", fill=fill)
    found = store.find_model("small")
    assert found == saved
    assert found.tag == f"small:{saved.version}"
    assert (found.path("numpy")).read_bytes() == FILE
    assert found.folder.is_relative_to(empty_home / "models")
    digest = hashlib.sha256(FILE).hexdigest()
    assert found.card.files == {"model.npz": digest, "saved_model/variables": digest}


def test_the_card_read_back_by_bentoml_is_the_card_that_was_saved(empty_home: Path) -> None:
    """Guards our one private import of BentoML, its ModelStore, which `save` writes through."""
    saved = store.save("small", fill=fill)
    theirs = bentoml.models.get(saved.tag)
    assert theirs.info.module == "samedigit"
    assert theirs.info.labels == {"framework": "numpy"}
    assert Path(theirs.path) == saved.folder
    assert Card.from_data(dict(theirs.info.metadata)) == saved.card
    assert theirs.info.metadata["history"][0]["loss"] == 0.1 + 0.2
    assert [model.tag for model in bentoml.models.list()] == [theirs.tag]
    assert bentoml.models.get("small").tag == theirs.tag
    assert bentoml.models.get("small:latest").tag == theirs.tag


def test_bentomls_own_commands_list_and_delete_it(empty_home: Path) -> None:
    saved = store.save("small", fill=fill)
    assert saved.tag in bentoml_models("list")
    bentoml_models("delete", saved.tag, "--yes")
    assert store.stored_models() == []


def bentoml_models(*arguments: str) -> str:
    process = subprocess.run(
        [sys.executable, "-m", "bentoml", "models", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_a_card_survives_the_way_to_plain_data_and_back(tmp_path: Path) -> None:
    card = make_card(tmp_path)
    assert Card.from_data(card.to_data()) == card
    assert card.accuracy == pytest.approx(0.97305)
    assert card.backends == ("numpy", "onnx")


def test_tuples_become_lists_and_what_is_none_is_left_out(tmp_path: Path) -> None:
    card = make_card(tmp_path)
    card.recipe.update(hidden=(128,), reported=None)
    data = card.to_data()
    assert data["recipe"]["hidden"] == [128]
    assert "reported" not in data["recipe"]
    assert Card.from_data(data).to_data() == data


def test_an_empty_store_holds_no_models(empty_home: Path) -> None:
    assert store.stored_models() == []
    assert store.served_models() == []


def test_models_come_by_recipe_and_the_newest_version_first(empty_home: Path) -> None:
    older = store.save("b", fill=filled("2026-01-01T00:00:00.000001+00:00"))
    newest = store.save("b", fill=filled("2026-01-01T00:00:00.000003+00:00"))
    middle = store.save("b", fill=filled("2026-01-01T00:00:00.000002+00:00"))
    other = store.save("a", fill=filled("2025-01-01T00:00:00.000000+00:00"))
    assert store.stored_models() == [other, newest, middle, older]
    assert store.served_models() == [other, newest]
    assert store.find_model("b") == newest
    assert store.find_model("b:latest") == newest
    assert store.find_model(older.tag) == older


def test_an_unknown_model_is_named_with_those_there_are(empty_home: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"No model is stored, so there is no nothing\. Train one"):
        store.find_model("nothing")
    saved = store.save("small", fill=fill)
    for tag in ("nothing", "small:other", "smal", f"other:{saved.version}"):
        with pytest.raises(ModelNotFound, match=f"No model {tag} is stored; there are {saved.tag}"):
            store.find_model(tag)


def test_models_of_others_in_the_store_are_left_out(empty_home: Path) -> None:
    with bentoml.models.create("theirs", module="sklearn") as model:
        Path(model.path, "model.pkl").write_bytes(b"theirs")
    saved = store.save("small", fill=fill)
    assert store.stored_models() == [saved]
    with pytest.raises(ModelNotFound):
        store.find_model("theirs")


def test_a_card_of_another_version_of_samedigit_is_named_with_what_to_do(empty_home: Path) -> None:
    with bentoml.models.create("old", module="samedigit", metadata={"history": [], "scores": {}}) as model:
        Path(model.path, "model.npz").write_bytes(FILE)
    with pytest.raises(
        ModelDamaged, match=f"The card of {model.tag} cannot be read .*bentoml models delete {model.tag}"
    ):
        store.stored_models()


def test_a_backend_without_a_file_is_named_with_those_that_have_one(empty_home: Path) -> None:
    saved = store.save("small", fill=fill)
    with pytest.raises(ModelNotFound, match=f"{saved.tag} is stored without a file for torch; it has numpy, onnx"):
        saved.path("torch")


# What is served


def runs(*departures: tuple[str, ...], recipe: str = "small") -> list[StoredModel]:
    """One stored run for each, oldest first."""
    return [
        store.save(recipe, fill=filled(f"2026-01-0{day}T00:00:00.000000+00:00", departures=departed))
        for day, departed in enumerate(departures, start=1)
    ]


WHOLE: Final[tuple[str, ...]] = ()
DEPARTED: Final = ("epsilon", "reported")


def test_a_run_that_departed_says_in_what_and_a_card_without_the_word_is_of_a_whole_run(tmp_path: Path) -> None:
    departed = make_card(tmp_path, departures=DEPARTED)
    assert not departed.is_whole
    assert departed.departed == {"epsilon": 1e-7, "reported": 97.46}
    assert departed.departed_in_words == "epsilon 1e-07, reported 97.46"
    assert Card.from_data(departed.to_data()) == departed
    data = make_card(tmp_path).to_data()
    del data["departures"]  # as it was stored before
    assert Card.from_data(data) == make_card(tmp_path)
    assert Card.from_data(data).is_whole


def test_a_departure_to_nothing_is_one_too(tmp_path: Path) -> None:
    """BentoML's metadata hold no None, so the field itself is not there."""
    card = make_card(tmp_path, departures=("reported",))
    card.recipe["reported"] = None
    assert Card.from_data(card.to_data()).departed == {"reported": None}


def test_the_newest_whole_run_is_served_and_one_that_departed_only_by_name(empty_home: Path) -> None:
    _, whole, departed = runs(WHOLE, WHOLE, DEPARTED)
    assert store.served_models() == [whole]
    assert store.find_model("small") == whole
    assert store.find_model(departed.tag) == departed
    assert store.find_model("small:latest") == departed
    assert store.find_model("small:latest").card.departures == DEPARTED


def test_a_recipe_of_departed_runs_alone_is_not_served_but_found_by_its_name(empty_home: Path) -> None:
    assert store.nothing_served() == (f"no model is stored in {empty_home}. Train one: samedigit train --all")
    older, newest = runs(DEPARTED, ("epsilon",))
    assert store.served_models() == []
    assert store.nothing_served() == (
        f"every stored run departed from its recipe ({newest.tag}: epsilon 1e-07, {older.tag}: epsilon 1e-07, reported 97.46), "
        f"and such a run is served only by name, or once promoted: samedigit promote {newest.tag}"
    )
    assert store.find_model("small") == newest
    (other,) = runs(WHOLE, recipe="other")
    assert store.served_models() == [other]


def test_the_promoted_version_is_served_whatever_is_stored_later(empty_home: Path) -> None:
    old, _, departed = runs(WHOLE, WHOLE, DEPARTED)
    (other,) = runs(WHOLE, recipe="other")
    assert store.promoted_version("small") is None
    for promoted in (old, departed):
        assert store.promote(promoted.tag) == promoted
        assert store.promoted_version("small") == promoted.version
        assert store.served_models() == [other, promoted]
        assert store.find_model("small") == promoted
    later = store.save("small", fill=filled("2026-02-01T00:00:00.000000+00:00"))
    assert store.find_model("small") == departed
    assert store.find_model("small:latest") == later
    assert store.promoted_version("other") is None


def test_a_recipe_alone_promotes_its_newest_whole_run_whatever_was_promoted(empty_home: Path) -> None:
    old, whole, departed = runs(WHOLE, WHOLE, DEPARTED)
    assert store.promote("small") == whole
    store.promote(old.tag)
    assert store.promote("small") == whole
    assert store.promote("small:latest") == departed


def test_what_cannot_be_promoted_is_said_and_changes_nothing(empty_home: Path) -> None:
    with pytest.raises(ModelNotFound, match="No model is stored, so there is no small"):
        store.promote("small")
    older, newest = runs(DEPARTED, DEPARTED)
    with pytest.raises(
        ModelNotFound, match=f"No run of small is whole. Name the one to promote; there are {newest.tag}, {older.tag}."
    ):
        store.promote("small")
    for tag in ("small:other", "nothing", "../small", "small/..", ""):
        with pytest.raises(ModelNotFound, match="is stored; there are"):
            store.promote(tag)
    (newest.folder / "model.npz").write_bytes(b"something else")
    with pytest.raises(ModelDamaged, match=rf"{newest.folder}/model\.npz is not the file that was stored"):
        store.promote(newest.tag)
    assert store.promoted_version("small") is None
    assert store.promote(older.tag) == older


def test_a_promoted_version_that_was_deleted_stops_until_another_is_promoted(empty_home: Path) -> None:
    old, middle, newest = runs(WHOLE, WHOLE, WHOLE)
    store.promote(old.tag)
    bentoml.models.delete(old.tag)
    for attempt in (store.served_models, lambda: store.find_model("small")):
        with pytest.raises(
            ModelNotFound,
            match=f"{old.tag} was promoted, and is stored no more; there are {newest.tag}, {middle.tag}. "
            f"Promote another: samedigit promote {newest.tag}",
        ):
            attempt()
    assert store.find_model(middle.tag) == middle
    assert store.promote("small") == newest
    assert store.served_models() == [newest]


def test_bentoml_takes_no_notice_of_what_is_promoted(empty_home: Path) -> None:
    old, newest = runs(WHOLE, WHOLE)
    store.promote(old.tag)
    assert everything(empty_home).count("models/small/promoted") == 1
    assert not list(empty_home.glob("samedigit-*"))
    assert {str(model.tag) for model in bentoml.models.list()} == {old.tag, newest.tag}
    assert {str(model.tag) for model in bentoml.models.list("small")} == {old.tag, newest.tag}
    assert str(bentoml.models.get("small:latest").tag) == newest.tag
    said = bentoml_models("list")
    assert old.tag in said
    assert newest.tag in said
    bentoml_models("delete", "small", "--yes")
    assert not (empty_home / "models" / "small").exists()
    (again,) = runs(WHOLE)
    assert store.find_model("small") == again


def test_who_reads_while_others_promote_finds_one_version_or_the_other(empty_home: Path) -> None:
    versions = [model.version for model in runs(WHOLE, WHOLE)]
    store.promote(f"small:{versions[0]}")
    code = """
import sys
from digits import store
for _ in range(50):
    for version in sys.argv[1:]:
        store.promote(f"small:{version}")
"""
    promoting = subprocess.Popen([sys.executable, "-c", code, *versions], cwd=PROJECT)
    found = set()
    while promoting.poll() is None:
        found.add(store.promoted_version("small"))
    assert promoting.returncode == 0
    assert found == {*versions}


def test_the_signature_changes_with_what_is_stored_and_promoted_and_with_nothing_else(empty_home: Path) -> None:
    seen = [store.store_signature()]

    def changed() -> bool:
        seen.append(store.store_signature())
        return seen[-1] != seen[-2]

    assert not changed()
    (first,) = runs(WHOLE)
    assert changed()
    second = store.save("small", fill=fill)
    assert changed()
    store.promote(first.tag)
    assert changed()
    store.promote(second.tag)
    assert changed()
    store.promote(second.tag)
    store.find_model("small")
    (empty_home / "notes").write_text("something else")
    assert not changed()
    bentoml.models.delete(first.tag)
    assert changed()
    card = second.folder / "model.yaml"
    card.write_text(card.read_text() + "\n")
    assert changed()
    bentoml.models.delete(second.tag)
    assert changed()
    assert not changed()


# Damage


def test_one_changed_byte_is_found_and_the_file_named(empty_home: Path) -> None:
    saved = store.save("small", fill=fill)
    saved.verify("numpy")
    saved.verify("tensorflow")
    file = saved.folder / "model.npz"
    file.write_bytes(b"The weights")
    with pytest.raises(ModelDamaged, match=f"{file} is not the file that was stored: expected sha256 .* got .*"):
        saved.verify("numpy")
    saved.verify("tensorflow")  # that one is whole


def test_a_changed_or_missing_file_in_a_folder_is_found(empty_home: Path) -> None:
    saved = store.save("small", fill=fill)
    file = saved.folder / "saved_model" / "variables"
    file.write_bytes(b"")
    with pytest.raises(ModelDamaged, match=str(file)):
        saved.verify("tensorflow")
    file.unlink()
    with pytest.raises(ModelDamaged, match=f"{file} .* got no such file"):
        saved.verify("tensorflow")
    saved.verify("numpy")


def test_hashes_and_sizes_are_of_every_file(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "empty").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"abc")
    assert store.hashes(tmp_path) == {
        "a/b/empty": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "file": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    assert store.size(tmp_path) == store.size(tmp_path / "file") == 3


# All or nothing


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_a_fill_that_is_interrupted_stores_nothing_and_leaves_nothing(empty_home: Path, error: BaseException) -> None:
    def interrupted(folder: Path) -> Card:
        fill(folder)
        raise error

    with pytest.raises(type(error)):
        store.save("small", fill=interrupted)
    assert store.stored_models() == []
    assert everything(empty_home) == []


def test_a_full_disk_stores_nothing_and_says_so(empty_home: Path) -> None:
    def full(folder: Path) -> Card:
        fill(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"small could not be stored in .*No space left on device.*Free some space"):
        store.save("small", fill=full)
    assert everything(empty_home) == []


def test_a_failed_save_leaves_the_models_before_it_alone(empty_home: Path) -> None:
    saved = store.save("small", fill=fill)
    before = everything(empty_home)

    def failing(folder: Path) -> Card:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.save("small", fill=failing)
    assert everything(empty_home) == before
    assert bentoml.models.get("small:latest").tag.version == saved.version


def test_a_card_that_bentoml_cannot_read_is_not_stored(empty_home: Path) -> None:
    """It would make BentoML refuse to list every other model too."""
    saved = store.save("small", fill=fill)

    def unreadable(folder: Path) -> Card:
        card = fill(folder)
        card.recipe["source"] = {"page": None}  # which it writes, and refuses to read
        return card

    with pytest.raises(ExceptionGroup, match="While structuring ModelInfo"):
        store.save("small", fill=unreadable)
    assert store.stored_models() == [saved]


def test_a_process_killed_while_it_saves_leaves_no_model(empty_home: Path) -> None:
    code = """
import sys, time
from digits import store
def fill(folder):
    (folder / "model.npz").write_bytes(b"half a mod")
    print("filling", flush=True)
    time.sleep(60)
store.save("small", fill=fill)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "filling\n"
    process.kill()
    assert process.wait(timeout=10) == -signal.SIGKILL
    process.stdout.close()
    assert store.stored_models() == []
    assert "small" not in bentoml_models("list")
    saved = store.save("small", fill=fill)
    assert store.stored_models() == [saved]


def test_a_process_killed_at_any_rename_leaves_a_latest_that_is_there(empty_home: Path) -> None:
    """Before each of the two that make a version visible, its folder's and that of `latest`; without a kill, after both."""
    code = """
import os, signal, sys
sys.path.insert(0, "tests")
from test_store import fill
from digits import store
left = int(sys.argv[1])
def kill(event, arguments):
    global left
    if event == "os.rename" and str(arguments[1]).startswith(sys.argv[2]):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
sys.addaudithook(kill)
store.save("small", fill=fill)
"""
    first = store.save("small", fill=fill)
    latest = []
    for renames in range(3):
        command = [sys.executable, "-c", code, str(renames), str(empty_home / "models")]
        killed = subprocess.run(command, cwd=PROJECT, timeout=60).returncode == -signal.SIGKILL
        assert killed == (renames < 2)
        latest.append(bentoml.models.get("small:latest").tag.version)
    versions = [model.version for model in store.stored_models("small")]
    assert len(versions) == 3  # the second was stored, though `latest` was not to tell of it
    assert latest[:2] == [first.version, first.version]
    assert latest[2] in {*versions} - {first.version}


def test_two_processes_that_save_at_once_store_two_models(empty_home: Path) -> None:
    code = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_store import fill
from digits import store
sys.stdin.readline()
for _ in range(5):
    store.save("small", fill=fill)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdin=subprocess.PIPE, text=True) for _ in range(2)
    ]
    time.sleep(0.1)
    for process in processes:
        process.communicate("go\n", timeout=60)
        assert process.returncode == 0
    models = store.stored_models()
    assert len({model.tag for model in models}) == 10
    for model in models:
        model.verify("numpy")


def test_a_store_that_cannot_be_written_is_named_with_what_to_do(tmp_path: Path) -> None:
    """Below a regular file nobody can write, not even root."""
    (tmp_path / "file").write_text("in the way")
    home = tmp_path / "file" / "bentoml"
    said = python(
        """
from digits import store
from digits.errors import SamedigitError
for attempt in (lambda: store.save("small", fill=lambda folder: None), store.stored_models, store.served_models,
                lambda: store.find_model("small"), lambda: store.promote("small"), lambda: store.promoted_version("small"),
                store.store_signature):
    try:
        attempt()
    except SamedigitError as error:
        print(type(error).__name__, error)
""",
        environment={"BENTOML_HOME": str(home)},
    ).splitlines()
    assert len(said) == 7
    for line in said:
        assert line.startswith(f"StoreError The model store {home} cannot be ")
        assert line.endswith("Free some space or fix its permissions, or set BENTOML_HOME to another folder.")


def test_what_save_returns_can_be_compared_with_what_is_found(empty_home: Path) -> None:
    saved = store.save("small", fill=fill)
    assert isinstance(saved, StoredModel)
    assert saved in store.stored_models()
