"""What a model reads of digits that are not MNIST's, from the kinds to the table, the card and the file for the report."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from small_models import keep
from test_cli import samedigit
from test_kinds import LABELS, font, idx, images_of

from digits.card import Card, Score
from digits.confidence import Confidence
from digits.contract import Images, Probabilities
from digits.errors import DataError, NotInstalled, ReportError, ResultsMissing
from digits.kinds import pictures, strangers
from digits.kinds.table import KINDS, Kind
from digits.mnist import LabelledImages
from digits.store import find_model
from samedigit import commands
from training import augmentation, evaluate, train
from training.evaluate import keep_readings, kept_readings, read_folder, read_kinds, scores_of_changes, trained_like
from training.recipes import RECIPES

BY_NAME: Final = {kind.name: kind for kind in KINDS}


def always(digit: int, images: Images) -> Probabilities:
    return np.tile(np.eye(10, dtype=np.float32)[digit], (len(images), 1))


def few(test_set: LabelledImages, count: int = 50) -> LabelledImages:
    return LabelledImages(images=test_set.images[:count], labels=test_set.labels[:count])


def test_every_kind_is_read_and_scored_by_its_labels(
    test_set: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "PICTURES", 3)  # which take their time
    monkeypatch.setattr(pictures, "HUGE_PICTURES", 1)
    font(tmp_path / "one.ttf")
    some = few(test_set)
    readings = {one.kind: one for one in read_kinds(partial(always, 7), some, recipe={}, fonts=[tmp_path])}
    assert [*readings] == [kind.name for kind in KINDS]
    sevens = int((some.labels == 7).sum())
    assert all(readings[kind.name].score == Score(correct=sevens, total=50) for kind in KINDS if kind.needs_nothing)
    assert readings["scikit-learn"].score == Score(correct=179, total=1797)
    assert readings["printed fonts"].score == Score(correct=1, total=10)
    ((name, digest),) = readings["printed fonts"].faces
    assert name == "Test Sans"
    assert len(digest) == 64


def test_a_kind_that_cannot_be_had_is_said_and_not_left_out(test_set: LabelledImages, tmp_path: Path) -> None:
    kinds = [BY_NAME["printed fonts"], BY_NAME["dimmed"]]
    missing, had = read_kinds(partial(always, 7), few(test_set), recipe={}, fonts=[tmp_path], kinds=kinds)
    assert missing.score is None
    assert missing.missing is not None
    assert missing.missing.startswith(f"needs fonts, and there is no upright face with ten digits in {tmp_path}")
    assert had.score is not None
    assert had.missing is None


def test_a_model_reads_what_the_kind_is_and_not_what_it_was_made_of(test_set: LabelledImages) -> None:
    seen: list[Images] = []

    def predict(images: Images) -> Probabilities:
        seen.append(images)
        return always(0, images)

    [*read_kinds(predict, few(test_set), recipe={}, kinds=[BY_NAME["stripe"]])]
    assert len(seen) == 1
    assert (seen[0][:, :, 0] == 255).all()  # the background at the left, inverted


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({}, ()),
        ({"augmentation": []}, ()),
        ({"augmentation": [{"augmentation": "elastic", "sigma": 4}]}, ()),
        ({"augmentation": [{"augmentation": "contrast"}, {"augmentation": "fog"}]}, ("fog", "contrast")),
        ({"augmentation": ({"augmentation": "contrast"},)}, ("contrast",)),
    ],
)
def test_a_model_is_known_to_have_been_trained_on_something_alike(
    recipe: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert trained_like(BY_NAME["fog"], recipe) == expected


@pytest.mark.parametrize("kind", ["scikit-learn", "printed fonts", "handwriting fonts"])
def test_fonts_and_other_peoples_digits_count_as_trained_on_alike_where_digits_were_drawn(kind: str) -> None:
    assert trained_like(BY_NAME[kind], {"augmentation": [{"augmentation": "fog"}]}) == ()
    assert trained_like(BY_NAME[kind], {"drawn": 0}) == ()
    assert trained_like(BY_NAME[kind], RECIPES["torch-robust"].to_data()) == ("drawn digits",)


def test_what_a_kind_resembles_are_augmentations_and_drawn_digits() -> None:
    assert {name for kind in KINDS for name in kind.resembles} <= {*augmentation.KINDS, "drawn digits"}


def test_a_users_images_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "mine-images-idx3-ubyte").write_bytes(idx(images_of()))
    (tmp_path / "mine-labels-idx1-ubyte").write_bytes(idx(LABELS))
    (reading,) = read_folder(partial(always, 4), tmp_path)
    assert (reading.kind, reading.score) == ("mine", Score(correct=1, total=3))
    with pytest.raises(DataError, match="holds no file of images"):
        [*read_folder(partial(always, 4), tmp_path / "..")]


# The card


def test_a_card_holds_what_can_be_had_anywhere(test_set: LabelledImages) -> None:
    scores = scores_of_changes(partial(always, 7), few(test_set), threads=2)
    assert [*scores] == [kind.name for kind in KINDS if kind.needs_nothing]
    assert {score.total for score in scores.values()} == {50}


def test_a_card_keeps_its_kinds_and_an_old_one_has_none(empty_home: Path) -> None:
    card = keep("some", 1).card
    assert card.beyond == {}
    known = dataclasses.replace(card, beyond={"fog": Score(correct=3, total=4)})
    assert Card.from_data(json.loads(json.dumps(known.to_data()))) == known
    old = known.to_data()
    del old["beyond"]
    assert Card.from_data(old) == card
    (stored,) = (empty_home / "models" / "some").glob("*/model.yaml")
    stored.chmod(0o600)
    before = stored.read_text()
    assert "  beyond: {}\n" in before
    stored.write_text(before.replace("  beyond: {}\n", ""))
    assert find_model("some").card == card


@pytest.mark.slow
def test_a_whole_run_is_read_when_it_is_stored_and_a_quick_look_is_not(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch, test_set: LabelledImages
) -> None:
    monkeypatch.setattr("training.export.FRAMEWORKS", ("numpy",))  # the other formats take their time
    quick_look = dataclasses.replace(RECIPES["numpy-sigmoid"], epochs=1)
    whole = dataclasses.replace(quick_look, name="a-row-of-its-own")
    cards = [
        train.train_and_store(recipe, device="cpu", on_epoch=lambda epoch: None).card for recipe in (quick_look, whole)
    ]
    assert cards[0].beyond == {}
    beyond = cards[1].beyond
    assert [*beyond] == [kind.name for kind in KINDS if kind.needs_nothing]
    assert {score.total for score in beyond.values()} == {10_000}
    assert 0.8 < beyond["shot noise"].accuracy < cards[1].accuracy
    assert find_model("a-row-of-its-own").card.beyond == beyond


def test_many_images_are_read_through_the_quickest_backend_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"numpy", "torch"}
    monkeypatch.setattr(evaluate, "is_installed", lambda backend: backend in installed)
    assert evaluate.quickest(["numpy", "torch", "onnx"]) == "torch"
    assert evaluate.quickest(["numpy", "onnx"]) == "numpy"
    with pytest.raises(NotInstalled, match=r"onnx backend is not installed: pip install '.\[onnx\]'"):
        evaluate.quickest(["onnx", "tensorflow"])


# What is kept for the report


def readings_of(model: str, kinds: list[Kind], test_set: LabelledImages, digit: int = 7) -> list[evaluate.Reading]:
    return [*read_kinds(partial(always, digit), few(test_set), recipe={}, kinds=kinds)]


def test_readings_are_kept_by_model_and_kind_and_the_newest_counts(test_set: LabelledImages, tmp_path: Path) -> None:
    results = tmp_path / "results"
    fog, stripe = [BY_NAME["fog"]], [BY_NAME["stripe"]]
    assert kept_readings(results) == {}
    first = readings_of("a:1", fog + stripe, test_set)
    keep_readings(results, "a:1", first)
    others = readings_of("b:1", fog, test_set)
    keep_readings(results, "b:1", others)
    again = readings_of("a:1", fog, test_set, digit=1)
    path = keep_readings(results, "a:1", again)
    assert kept_readings(results) == {"a:1": (first[1], again[0]), "b:1": tuple(others)}
    assert [file.name for file in results.iterdir()] == [path.name]


def test_faces_and_missing_kinds_are_kept(test_set: LabelledImages, tmp_path: Path) -> None:
    font(tmp_path / "fonts" / "one.ttf")
    kinds = [BY_NAME["printed fonts"], BY_NAME["handwriting fonts"]]
    readings = [*read_kinds(partial(always, 7), few(test_set), recipe={}, fonts=[tmp_path / "fonts"], kinds=kinds)]
    keep_readings(tmp_path, "a:1", readings)
    assert kept_readings(tmp_path) == {"a:1": tuple(readings)}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a:1": [{}]}', '{"a:1": [{"kind": "fog"}]}', '{"a:1": 3}'])
def test_a_damaged_file_of_readings_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "beyond.json").write_text(text)
    with pytest.raises(ResultsMissing, match=r"beyond.json cannot be read .* Delete it, and evaluate again"):
        kept_readings(tmp_path)


def test_a_folder_that_cannot_be_written_is_told(test_set: LabelledImages, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises((ReportError, ResultsMissing), match=r"beyond.json cannot be"):
        keep_readings(tmp_path / "file", "a:1", readings_of("a:1", [BY_NAME["stripe"]], test_set))


# The command


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["torch-relu", "--beyond"], 3, "No model torch-relu is stored; there are some:"),
        (["some", "--fonts", "."], 2, "goes with --beyond"),
        (["some", "--beyond", "--fonts", "/nowhere"], 2, "--fonts takes a folder, and /nowhere is none."),
        (["some", "--beyond", "--backend", "onyx"], 2, "no backend 'onyx'"),
        (["some", "--beyond", "--backend", "torch"], 3, "stored without a file for torch"),
        (["some", "--images", "/nowhere"], 3, "/nowhere cannot be read"),
        (["some", "--images", "."], 3, "holds no file of images"),
    ],
)
def test_what_cannot_be_evaluated_is_said_without_a_traceback(
    arguments: list[str], code: int, message: str, empty_home: Path, tmp_path: Path
) -> None:
    keep("some", 4)
    said = samedigit("evaluate", *arguments, "--results", tmp_path / "results")
    assert said.returncode == code, said.stderr
    assert message in said.stderr
    assert "Traceback" not in said.stderr
    assert not (tmp_path / "results").exists()


def test_a_users_folder_is_a_row_of_the_table_and_kept(empty_home: Path, tmp_path: Path) -> None:
    tag = keep("some", 4).tag
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine-images-idx3-ubyte").write_bytes(idx(images_of()))
    (folder / "mine-labels-idx1-ubyte").write_bytes(idx(LABELS))
    said = samedigit("evaluate", "some", "--images", folder, "--results", tmp_path / "results", "--json")
    assert said.returncode == 0, said.stderr
    answer = json.loads(said.stdout)
    assert (answer["model"], answer["backend"]) == (tag, "numpy")
    assert answer["mnist"]["correct"] == 9000
    (row,) = answer["kinds"]
    assert row["score"] == {"correct": 1, "total": 3}
    assert row["accuracy_95"] == pytest.approx([0.0615, 0.7923], abs=1e-4)  # Wilson's of 1 in 3
    (kept,) = kept_readings(tmp_path / "results")[tag]
    assert kept.score == Score(correct=1, total=3)


@pytest.mark.slow
def test_the_table_has_every_kind_and_says_what_is_missing(
    empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pictures, "PICTURES", 10)  # which take their time
    monkeypatch.setattr(pictures, "HUGE_PICTURES", 1)
    monkeypatch.setattr(strangers, "EACH", 5)
    keep("some", 4)
    fonts = tmp_path / "fonts"
    font(fonts / "one.ttf")
    read = commands.evaluate_beyond("some", None, beyond=True, fonts=[fonts], images=None, results=tmp_path / "results")
    assert read["strangers"] == []  # no threshold was stored
    commands.show_beyond(read)
    said = capsys.readouterr().out
    lines = {line.strip().partition("  ")[0]: line.split() for line in said.splitlines()}
    assert {kind.name for kind in KINDS} <= {*lines}
    assert lines["fog"][1:3] == ["10,000", "9.82"]  # fours among the test images
    assert lines["scikit-learn"][1:3] == ["1,797", "10.07"]
    assert lines["fog"][-1] == "nothing"
    assert any(line.startswith("corruptions, mean of 15") for line in lines)
    assert "mean of 14" in lines_with("pictures", said)
    assert f"handwriting fonts needs fonts, and no face in {fonts} is of handwriting" in said
    assert "printed fonts: 1 face, from Test Sans to Test Sans" in said


def lines_with(start: str, said: str) -> str:
    return next(line.strip() for line in said.splitlines() if line.strip().startswith(start))


def test_of_what_is_no_digit_it_is_said_how_much_is_believed(
    empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that answers everything alike, at a threshold below and at one above its probability."""
    monkeypatch.setattr(strangers, "EACH", 8)
    font(tmp_path / "one.ttf")

    def predict(images: Images) -> Probabilities:
        return np.tile(np.array([0.91, *[0.01] * 9], np.float32), (len(images), 1))

    known = Confidence(temperature=1.0, threshold=0.9, held_out=1, accepted=1, accepted_correct=1, total=1)
    for threshold, believed in ((0.9, True), (0.95, False)):
        confidence = dataclasses.replace(known, threshold=threshold)
        kinds = {kind["kind"]: kind for kind in commands._unsure_of_strangers(predict, confidence, [tmp_path])}
        assert [*kinds] == ["letters", "scribbles", "textures", "blank paper"]
        assert all(kind["total"] == 8 for kind in kinds.values())
        assert kinds["blank paper"]["blank"] == 8
        for kind in kinds.values():
            assert kind["believed"] == (8 - kind["blank"] if believed else 0)
    assert commands._unsure_of_strangers(predict, None, [tmp_path]) == []


def test_strangers_are_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "EACH", 4)
    first, again = strangers.strangers([tmp_path]), strangers.strangers([tmp_path])
    assert [kind.name for kind in first] == ["scribbles", "textures", "blank paper"]  # without a font no letters
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
    assert len(first[0].images) == 4
    assert first[0].images.max() == 255
