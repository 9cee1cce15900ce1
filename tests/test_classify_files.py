"""`samedigit classify`: files in, digits out, and what one bad file does to the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT
from small_models import keep
from test_cli import samedigit
from test_picture import encoded, seven, sheet

from digits.errors import ModelNotFound
from digits.store import best_model
from samedigit.commands import drawn_in_characters


def classified(*arguments: Any) -> dict[str, Any]:
    said = samedigit("classify", *arguments, "--json")
    assert said.returncode == 0, said.stderr
    answer: dict[str, Any] = json.loads(said.stdout)
    return answer


def test_a_picture_is_read_by_a_model_through_a_backend(empty_home: Path, tmp_path: Path) -> None:
    tag = keep("some", 4).tag  # which answers 4 to whatever it sees
    (tmp_path / "seven.png").write_bytes(encoded(seven()))
    answer = classified(tmp_path / "seven.png", "--show")
    assert (answer["model"], answer["backend"]) == (tag, "numpy")
    (file,) = answer["files"]
    (found,) = file["predictions"]
    assert file["file"] == str(tmp_path / "seven.png")
    assert found["digit"] == 4
    assert found["sure"] is None  # no threshold was stored with it
    assert found["probability"] == max(found["probabilities"])
    assert sum(found["probabilities"]) == pytest.approx(1)
    assert found["box"] == [30, 30, 90, 130]
    assert [len(found["image"]), len(found["image"][0])] == [28, 28]


def test_every_digit_of_a_picture_is_read_in_order(empty_home: Path, tmp_path: Path) -> None:
    keep("some", 4)
    (tmp_path / "many.png").write_bytes(encoded(sheet([(200, 50), (40, 50)])))
    (file,) = classified("--many", tmp_path / "many.png")["files"]
    assert [found["box"][0] for found in file["predictions"]] == [40, 200]
    said = samedigit("classify", "--many", tmp_path / "many.png")
    lines = said.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{tmp_path / 'many.png'}: 4, ")
    assert lines[0].endswith("%, at 40,50 to 100,150")


def test_one_bad_file_does_not_stop_the_others_and_ends_with_1(empty_home: Path, tmp_path: Path) -> None:
    keep("some", 4)
    good, text, gone = tmp_path / "good.png", tmp_path / "text.png", tmp_path / "gone.png"
    good.write_bytes(encoded(seven()))
    text.write_text("no picture")
    said = samedigit("classify", gone, text, good)
    assert said.returncode == 1
    assert said.stdout.startswith(f"{good}: 4, ")
    assert len(said.stdout.splitlines()) == 1
    assert f"{gone}: It cannot be read: No such file or directory." in said.stderr
    assert f"{text}: Expected a picture: PNG, JPEG, WebP, BMP, GIF or TIFF; this is text." in said.stderr
    assert "Traceback" not in said.stderr
    as_json = samedigit("classify", gone, text, good, "--json")
    assert as_json.returncode == 1
    assert [sorted(file) for file in json.loads(as_json.stdout)["files"]] == [
        ["error", "file"],
        ["error", "file"],
        ["file", "predictions"],
    ]


def test_a_minus_is_standard_input(empty_home: Path) -> None:
    keep("some", 4)
    said = subprocess.run(
        [sys.executable, "-m", "samedigit", "classify", "-", "--json"],
        input=encoded(seven()),
        capture_output=True,
        cwd=PROJECT,
        timeout=60,
        check=True,
    )
    (file,) = json.loads(said.stdout)["files"]
    assert file["file"] == "-"
    assert file["predictions"][0]["digit"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["x.png"], 3, "There is no model to read with: no model is stored in"),
        (["x.png", "--model", "other"], 3, "No model is stored, so there is no other"),
        ([], 2, "Missing argument 'FILE...'"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: list[str], code: int, message: str, empty_home: Path) -> None:
    said = samedigit("classify", *arguments)
    assert said.returncode == code
    assert message in said.stderr
    assert "Traceback" not in said.stderr


def test_without_a_name_the_model_reads_that_is_best_beyond_mnist(empty_home: Path) -> None:
    with pytest.raises(ModelNotFound, match="There is no model to read with"):
        best_model()
    keep("better-on-mnist", 4, correct=9_900)
    assert best_model().recipe == "better-on-mnist"
    keep("known-beyond", 5, beyond=(8_000,))
    keep("better-beyond", 6, correct=8_000, beyond=(9_000,))
    keep("departed", 7, beyond=(10_000,), departures=("epochs",))
    assert best_model().recipe == "better-beyond"


def test_an_image_in_characters_is_dark_where_there_is_paper() -> None:
    image = [[0] * 28 for _ in range(28)]
    image[3][5], image[4][6] = 255, 128
    lines = drawn_in_characters(image).split("\n")
    assert len(lines) == 28
    assert lines[3] == " " * 10 + "@@"
    assert lines[4] == " " * 12 + "++"
    assert lines[0] == ""
