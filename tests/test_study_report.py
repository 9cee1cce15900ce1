"""The report of a study, from made-up runs: every probability below is invented, and none is a measurement."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_study_statistics import answers_of

from comparison.study.report import MOST_IMAGES, SPLITS, aa_table, asked_pairs, study_tables, write_study_report
from comparison.words import NO_WRITERS
from digits import mnist
from digits.card import Epoch
from digits.contract import Labels, Probabilities
from digits.errors import ReportError, ResultsMissing, SamedigitError, StudyError
from training.recipes import RECIPES

SOME = ("numpy-relu", "torch-relu", "torch-deep", "keras-sequential", "keras-functional")  # in the table's order
SEEDS = 3


def made_up_probabilities(labels: Labels, *key: int, wrong: float) -> Probabilities:
    """Mostly right, too sure of itself, and always wrong about the first five images."""
    generator = np.random.default_rng(key)
    digits = np.where(generator.random(len(labels)) < wrong, generator.integers(0, 10, len(labels)), labels)
    digits[:5] = (labels[:5] + 1) % 10
    sure = np.where(generator.random(len(labels)) < 0.9, 0.995, generator.uniform(0.3, 0.9, len(labels)))
    probabilities = np.repeat(((1 - sure) / 9)[:, None], 10, axis=1)
    probabilities[np.arange(len(labels)), digits] = sure
    return probabilities.astype(np.float32)


def write_made_up_run(study: Path, name: str, seed: int, *, epochs: int = 3) -> None:
    recipe = dataclasses.replace(RECIPES[name], seed=seed, epochs=epochs)
    labels = mnist.test_images().labels
    kind = sorted(RECIPES).index(name.replace("functional", "sequential"))  # as true of these two
    arrays = {"probabilities": made_up_probabilities(labels, kind, seed, wrong=0.02 + 0.002 * kind)}
    if recipe.validation_fraction:
        held_out = mnist.train_images().labels[-6000:]
        arrays["held_out_probabilities"] = made_up_probabilities(held_out, kind, seed, 1, wrong=0.03)
    file = study / name / f"seed-{seed:04d}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, allow_pickle=False, **arrays)
    run = {
        "recipe": recipe.to_data() | {"source": "Made up for <tests> & nothing else."},
        "recipe_sha256": name,
        "framework": recipe.framework,
        "seed": seed,
        "correct": int((arrays["probabilities"].argmax(axis=1) == labels).sum()),
        "total": len(labels),
        "history": [
            dataclasses.asdict(
                Epoch(loss=0.4 / i, accuracy=0.9, held_out_accuracy=0.97 - 0.02 / i, seconds=seed + 1 / i)
            )
            for i in range(1, epochs + 1)
        ],
        "held_out": "last 6,000 training images" if recipe.validation_fraction else "test images",
        "train_seconds": 10.0 * seed,
        "import_seconds": 0.5 * seed,
        "first_prediction_seconds": 0.01 * seed,
        "peak_memory_mb": 300.0 + seed,
        "device": "cpu",
        "threads": 1,
        "versions": {"python": "3.11.7", "numpy": "2.4.6"},
        "machine": "Linux x86_64, 2 cores",
        "finished_at": f"2026-01-0{seed}T03:04:05.000000+00:00",
    }
    file.with_suffix(".json").write_text(json.dumps(run))


def write_made_up_study(study: Path, names: tuple[str, ...] = SOME, *, seeds: int = SEEDS) -> Path:
    for name in names:
        for seed in range(1, seeds + 1):
            write_made_up_run(study, name, seed)
    return study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_up_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def written(study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The page, and study.json beside it."""
    target = tmp_path_factory.mktemp("report") / "study.html"
    assert write_study_report(study, target) == target
    assert sorted(path.name for path in target.parent.iterdir()) == ["study.html", "study.json"]
    return target.read_text(), json.loads((target.parent / "study.json").read_text())


def table(page: str, name: str) -> list[list[str]]:
    """The text of each cell of each row of the table's body."""
    body = page[page.index(f'<table id="{name}">') :].split("</table>")[0].split("<tbody>")[1]
    return [
        [
            html.unescape(re.sub(r"<[^>]*>", " ", cell)).strip()
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.DOTALL)
        ]
        for row in re.findall(r"<tr.*?</tr>", body, flags=re.DOTALL)
    ]


def accuracies(study: Path, name: str) -> list[float]:
    """Of each seed in percent, read without any of our code."""
    labels = mnist.test_images().labels
    return [
        100 * float((np.load(study / name / f"seed-{seed:04d}.npz")["probabilities"].argmax(axis=1) == labels).mean())
        for seed in range(1, SEEDS + 1)
    ]


# ---- the figures


def test_accuracies_are_those_of_the_runs(study: Path, written: tuple[str, dict[str, Any]]) -> None:
    rows = table(written[0], "accuracy")
    assert [row[0] for row in rows] == list(SOME)
    for name, seeds, mean, deviation, span, over_seeds, _, _ in rows:
        expected = accuracies(study, name)
        assert seeds == str(SEEDS)
        assert mean == f"{np.mean(expected):.2f}"
        assert deviation == f"{np.std(expected, ddof=1):.2f}"
        assert span == f"{min(expected):.2f} to {max(expected):.2f}"
        low, high = stats.t.interval(0.95, SEEDS - 1, np.mean(expected), stats.sem(expected))
        assert over_seeds == f"{low:.2f} to {high:.2f}"


def test_reproductions_are_beside_the_published_figures(study: Path, written: tuple[str, dict[str, Any]]) -> None:
    rows = table(written[0], "reproduction")
    assert [row[0] for row in rows] == ["torch-relu", "keras-sequential", "keras-functional"]
    for name, published, mean, single_run, within, source in rows:
        ours = accuracies(study, name)
        reach = stats.t.ppf(0.975, SEEDS - 1) * np.std(ours, ddof=1) * (1 + 1 / SEEDS) ** 0.5
        low, high = np.mean(ours) - reach, np.mean(ours) + reach
        reported = RECIPES[name].reported
        assert reported is not None
        assert published == f"{reported:.2f}"
        assert mean == f"{np.mean(ours):.2f}"
        assert single_run == f"{low:.2f} to {high:.2f}"
        assert within == ("no, below" if reported < low else "no, above" if reported > high else "yes")
        assert source == "Made up for <tests> & nothing else."


def test_differences_are_first_minus_second(study: Path, written: tuple[str, dict[str, Any]]) -> None:
    rows = table(written[0], "comparisons")
    assert len(rows) == 4
    for names, seeds, mean, _, _, p_seeds, _, _, shown, differ in rows:
        first, second = names.split()
        of_first, of_second = accuracies(study, first), accuracies(study, second)
        expected = np.mean(of_first) - np.mean(of_second)
        assert seeds == str(SEEDS)
        assert mean == f"{expected:+.2f}"
        if (first, second) == ("keras-sequential", "keras-functional"):
            assert (shown, differ) == ("identical", "nothing but how it is written")
            continue
        assert re.split("[,;]", shown)[0] in ("different", "equivalent", "neither")
        p = stats.ttest_ind(of_first, of_second, equal_var=False).pvalue
        assert p_seeds == ("<0.001" if p < 0.001 else f"{p:.3f}")
    assert len(table(written[0], "all-comparisons")) == 10


def test_costs_are_medians(written: tuple[str, dict[str, Any]]) -> None:
    for name, *figures in table(written[0], "costs"):
        assert name in SOME
        assert figures == ["3", "3", "2.33", "0.67", "20.0", "1.00", "0.0200", "302"]


def test_calibration_is_scaled_where_images_were_held_out(study: Path, written: tuple[str, dict[str, Any]]) -> None:
    page, tables = written
    labels = mnist.test_images().labels
    for name, ece, by_chance, nll, _, temperature, scaled_ece, scaled_nll, scaled_brier in table(page, "calibration"):
        every = [np.load(study / name / f"seed-{seed:04d}.npz")["probabilities"] for seed in range(1, SEEDS + 1)]
        expected = np.mean([-np.log(one[np.arange(len(labels)), labels]).mean() for one in every])
        assert float(nll) == pytest.approx(expected, abs=1e-4)
        low, high = map(float, by_chance.split(" to "))
        assert 0 < low < high < 2
        assert float(ece) > high  # made up, and not calibrated
        if name == "torch-deep":
            assert float(scaled_nll) < float(nll)
            assert re.fullmatch(r"\d\.\d\d to \d\.\d\d", temperature)
        else:
            assert {temperature, scaled_ece, scaled_nll, scaled_brier} == {"-"}
    assert "measured, not scaled" in page
    assert [row["recipe"] for row in tables["calibration"] if row["reliability_after"]] == ["torch-deep"]


def test_confusions_and_the_images_always_wrong(study: Path, written: tuple[str, dict[str, Any]]) -> None:
    page, tables = written
    labels = mnist.test_images().labels
    for name in SOME:
        counts = np.zeros((10, 10), int)
        for seed in range(1, SEEDS + 1):
            digits = np.load(study / name / f"seed-{seed:04d}.npz")["probabilities"].argmax(axis=1)
            np.add.at(counts, (labels, digits), 1)
        assert tables["confusion"][name] == counts.tolist()
    runs = SEEDS * len(SOME)
    assert tables["always_wrong"][:5] == [
        {"index": i, "label": int(labels[i]), "answer": int(labels[i] + 1) % 10, "runs": runs} for i in range(5)
    ]
    assert page.count("<img ") == len(tables["always_wrong"]) <= MOST_IMAGES


def test_the_tables_are_the_same_beside_the_page(study: Path, written: tuple[str, dict[str, Any]]) -> None:
    page, tables = written
    assert tables == json.loads(json.dumps(study_tables(study)))
    findings = page[page.index('<section id="findings">') :].split("</section>")[0]
    said = [html.unescape(one).replace("\u00a0", " ") for one in re.findall(r"<li>(.*?)</li>", findings)]
    assert said == [*tables["advice"], *tables["findings"]]
    assert tables["advice"]
    frameworks = [html.unescape(one) for one in re.findall(r'<th scope="col">(\w+)</th>', findings)]
    rows = [re.findall(r"<td(.*?)>(.*?)</td>", row) for row in re.findall(r"<tr><th scope=\"row\".*?</tr>", findings)]
    assert [dict(zip(frameworks, [text for _, text in row], strict=False)) for row in rows] == [
        {name: price["takes"].get(name, "-") for name in frameworks} for price in tables["prices"]
    ]
    assert [
        [name for name, (mark, _) in zip(frameworks, row, strict=False) if "different" in mark] for row in rows
    ] == [[price["least"]] for price in tables["prices"]]
    assert len(rows) >= 2


def test_the_pairs_asked_about() -> None:
    pairs = asked_pairs([recipe.to_data() for recipe in RECIPES.values()])
    assert ("keras-sequential", "keras-functional") in pairs
    assert [pair for pair in pairs if "keras-functional" in pair] == [("keras-sequential", "keras-functional")]
    assert {("numpy-conv", "keras-conv"), ("torch-wide", "keras-wide")} <= {*pairs}
    assert {("numpy-relu", "torch-relu"), ("torch-improved", "keras-enhanced"), ("torch-deep", "keras-deep")} <= {
        *pairs
    }
    assert len(pairs) == len({frozenset(pair) for pair in pairs}) == 20


def test_what_other_commands_found_is_shown_where_it_was_measured(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    row = {
        "framework": "numpy",
        "track": "readable",
        "seeds": 5,
        "reached": 5,
        "seconds": 3.84,
        "interval": None,
        "epochs": 4,
    }
    about = {"target": 0.97, "held_out": 5000, "processor": "A processor <9000>", "rows": [row]}
    (folder / "time_to_accuracy.json").write_text(json.dumps(about))
    default = {
        "name": "shuffling", "first_is": "torch's", "second_is": "Keras's", "seeds": 29, "verdict": "undecided",
        "found": {"difference": {"value": 0.0012}}, "together": [-0.0001, 0.0025],
    }  # fmt: skip
    same = {
        "recipe": "keras-deep", "precision": "float64",
        "frameworks": [{"digits": [0, 0]}, {"digits": [0, 9]}], "itself": [{"digits": [1, 7]}, {"digits": [2, 7]}],
    }  # fmt: skip
    pair = {
        "first": "numpy", "second": "keras", "seeds": 20, "difference": 0.0, "together": [-0.0002, 0.0001],
        "verdict": "equivalent",
    }  # fmt: skip
    component = {"name": "starting weights", "deviation": 0.001, "interval": [0.0008, 0.0013]}
    decided = {
        "sentence": "It is <the> defaults.", "rounding": "It amplifies.", "recipe": "numpy-deep", "same": [same],
        "frameworks": [pair], "defaults": [default], "components": [component], "trainings": 321,
    }  # fmt: skip
    (folder / "decision.json").write_text(json.dumps(decided))
    page = write_study_report(folder, tmp_path / "report.html").read_text()
    assert table(page, "time-to-accuracy") == [["numpy", "readable", "3.8", "4", "5 of 5"]]
    assert table(page, "same") == [["keras-deep", "float64", "0 to 9", "7"]]
    assert table(page, "frameworks") == [["numpy and keras", "20", "+0.00 -0.02 to +0.01", "equivalent"]]
    assert table(page, "defaults") == [["shuffling", "torch's", "Keras's", "29", "+0.12 -0.01 to +0.25", "not decided"]]
    assert "<b>It is &lt;the&gt; defaults.</b>" in page
    assert "It amplifies." in page
    assert 'aria-label="Of 10,000 test images those answered differently' in page
    assert "A processor &lt;9000&gt;" in page
    (folder / "decision.json").write_text("{")
    with pytest.raises(ResultsMissing, match=r"decision.json is not valid JSON"):
        write_study_report(folder, tmp_path / "report.html")


def test_other_people_are_spoken_of_where_it_is_known_who_wrote_the_test_images(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "test_writers", lambda: None)
    unknown = study_tables(study)
    assert unknown["findings"][-1] == NO_WRITERS
    labels = mnist.test_images().labels
    monkeypatch.setattr(mnist, "test_writers", lambda: (labels % 2 + 7).astype(np.int32))
    known = study_tables(study)
    said = known["findings"][-1]
    assert said.startswith("The test images are of 2 people, ")
    found = re.search(r"must be (?:[\d.]+ to )?([\d.]+) times as wide, those of differences, .*?([\d.]+) times; ", said)
    assert found is not None, said
    assert min(map(float, found.groups())) > 1.2
    assert known["findings"][:-1] == unknown["findings"][:-1]
    assert known["comparisons"] == unknown["comparisons"]  # the tables are over images
    assert known["accuracy"] == unknown["accuracy"]


def test_recipes_without_a_common_seed_are_not_compared(tmp_path: Path) -> None:
    write_made_up_run(tmp_path, "numpy-relu", 1)
    write_made_up_run(tmp_path, "torch-relu", 2)
    write_study_report(tmp_path, tmp_path / "study.html")
    assert study_tables(tmp_path)["all_comparisons"] == []


def test_one_seed_leaves_unsaid_what_cannot_be_said(tmp_path: Path) -> None:
    write_made_up_study(tmp_path, ("numpy-relu", "torch-relu"), seeds=1)
    page = write_study_report(tmp_path, tmp_path / "study.html").read_text()
    assert "Trained from one seed only: numpy-relu, torch-relu." in page
    assert not re.search(r"\b(nan|None)\b", re.sub(r"(?s)<pre.*?</pre>", "", page))  # beside the trainers' own lines
    for row in table(page, "accuracy"):
        assert row[3] == row[5] == row[7] == "-"
        assert " to " in row[6]
    (row,) = table(page, "reproduction")
    assert row[3:5] == ["-", "cannot be said"]
    (row,) = table(page, "comparisons")
    assert row[3:6] == ["-", "-", "-"]
    assert row[8] == "neither"


def test_one_run(tmp_path: Path) -> None:
    write_made_up_study(tmp_path, ("torch-deep",), seeds=1)
    page = write_study_report(tmp_path, tmp_path / "study.html").read_text()
    assert "One recipe, trained once" in page
    assert "<h2>Comparisons</h2>" not in page
    assert "Agreement" not in page


# ---- the page


def test_the_page_needs_nothing_else(written: tuple[str, dict[str, Any]]) -> None:
    page, _ = written
    assert page.startswith("<!doctype html>")
    urls = re.findall(r"(?:src|href|action|data)\s*=\s*[\"']?([^\"'\s>]*)", page)
    assert [url for url in urls if not url.startswith(("#", "data:image/png;base64,"))] == []
    assert [url for url in re.findall(r"url\(([^)]*)\)", page) if not url.startswith("#")] == []
    for forbidden in ("@import", "<script", "<link"):
        assert forbidden not in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', page)) <= set(ids)
    assert "Made up for &lt;tests&gt; &amp; nothing else." in page


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_no_wider_than_its_window(tmp_path: Path, written: tuple[str, dict[str, Any]], width: int) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium to open the report with")
        pytest.skip("no Chromium to open the report with")
    page = written[0].replace("<details>", "<details open>")
    frame = tmp_path / "frame.html"  # a window cannot be as narrow as a telephone, but a frame can
    frame.write_text(
        f"""<!doctype html><title>not measured</title>
        <iframe width="{width}" height="800" style="border: 0" srcdoc="{html.escape(page)}"></iframe>
        <script>
        addEventListener("load", () => {{
          const root = document.querySelector("iframe").contentDocument.documentElement;
          const parts = [...root.querySelectorAll("figure svg[role=img], .heat, .digits img, .scroll")];
          const boxes = parts.map(one => one.getBoundingClientRect());
          document.title = [root.scrollWidth, root.clientWidth, root.querySelectorAll("figure svg[role=img]").length,
            boxes.every(one => one.width > 50 && one.left >= 0 && one.right <= root.clientWidth)].join(" ");
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
    assert (pictures, inside) == (str(1 + 2 * len(SOME)), "true")  # accuracies; curve and reliability of each recipe


def test_the_same_study_gives_the_same_page(tmp_path: Path) -> None:
    write_made_up_study(tmp_path / "study", ("numpy-relu",), seeds=1)
    first = write_study_report(tmp_path / "study", tmp_path / "first.html")
    assert first.read_bytes() == write_study_report(tmp_path / "study", tmp_path / "second.html").read_bytes()


# ---- errors


def test_no_finished_run(tmp_path: Path) -> None:
    (tmp_path / "empty" / "numpy-relu").mkdir(parents=True)
    (tmp_path / "empty" / "numpy-relu" / "seed-0001.npz").touch()  # killed before its .json came
    for folder in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(
            StudyError, match=rf"no finished run in {folder}: expected .*seed-0001.json.*samedigit study"
        ):
            write_study_report(folder, tmp_path / "study.html")
    assert not (tmp_path / "study.html").exists()


def test_a_damaged_run(tmp_path: Path) -> None:
    write_made_up_study(tmp_path, ("numpy-relu",), seeds=1)
    (tmp_path / "numpy-relu" / "seed-0001.npz").write_bytes(b"PK")
    with pytest.raises(SamedigitError, match=r"seed-0001\.npz"):
        write_study_report(tmp_path, tmp_path / "study.html")


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    study = write_made_up_study(tmp_path / "study", ("numpy-relu",), seeds=1)
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    for target in (tmp_path / "taken", tmp_path / "file" / "study.html"):
        with pytest.raises(ReportError, match=f"cannot be written to {target}"):
            write_study_report(study, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "study", "taken"]


def test_one_recipe_is_split_where_it_has_enough_runs() -> None:
    random = np.random.default_rng(23)
    answers = [
        answers_of(random.random((runs, 50)) < 0.9, name) for name, runs in {"few": 2, "most": 7, "last": 7}.items()
    ]
    table = aa_table(answers)
    assert table is not None
    assert (table["recipe"], table["runs"], [size["runs"] for size in table["sizes"]]) == ("most", 7, [3])
    assert table["sizes"][0]["splits"] == SPLITS
    assert aa_table(answers[:1]) is None
