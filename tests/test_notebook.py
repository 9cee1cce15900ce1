"""The notebook: it runs from its first cell to its last and shows what its text says, and it is committed without outputs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT, require

NOTEBOOK = PROJECT / "notebooks" / "comparison.ipynb"
PICTURES = {"digits-drawn", "histograms", "curves", "differing-digits", "intervals", "picture"}

Shown = dict[str, list[Any]]  # the id of each code cell -> its outputs


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The outputs of the notebook, run on the smallest settings, in a folder that is not the project's."""
    require("nbclient", "ipykernel", "matplotlib", "statsmodels")
    require("torch", "tensorflow", "keras", "onnx", "onnxscript", "onnxruntime", "threadpoolctl")
    import nbclient
    import nbformat

    folder = tmp_path_factory.mktemp("notebook")
    homes = {name: str(folder / name) for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")}
    settings = {
        "SAMEDIGIT_NOTEBOOK_EPOCHS": "1",
        "SAMEDIGIT_NOTEBOOK_TRAIN_IMAGES": "3000",
        "SAMEDIGIT_NOTEBOOK_SEEDS": "2",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MPLBACKEND", raising=False)  # the kernel chooses one that draws into the notebook
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        for name, value in {**homes, **settings}.items():
            patch.setenv(name, value)
        notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]  # nbformat has no types here
        client = nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(folder)}})
        client.execute(env=dict(os.environ))
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def text(outputs: list[Any]) -> str:
    """What a cell printed, or the Markdown that it gave."""
    return "".join(
        output["text"] if output["output_type"] == "stream" else output["data"].get("text/markdown", "")
        for output in outputs
    )


def rows(outputs: list[Any]) -> list[list[str]]:
    """The cells of a Markdown table, without its header."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text(outputs).splitlines()[2:]]


@pytest.mark.slow
def test_every_trainer_learns(shown: Shown) -> None:
    accuracies = {framework: accuracy for framework, accuracy, *_ in rows(shown["accuracies"])}
    assert [*accuracies] == ["numpy", "torch", "keras"]
    for framework, accuracy in accuracies.items():
        assert 60 < float(accuracy.removesuffix("%")) < 100
        assert f"test accuracy {accuracy}" in text(shown[f"{framework}-run"])  # of the last epoch


@pytest.mark.slow
def test_the_same_weights_answer_the_same_in_every_format(shown: Shown) -> None:
    said = text(shown["same-weights"]).splitlines()
    assert [line.split()[0] for line in said] == ["numpy", "torch", "tensorflow", "onnx"]
    assert all("agrees within 1e-5" in line for line in said)


@pytest.mark.slow
def test_the_models_differ_about_some_images(shown: Shown) -> None:
    shares = [float(share) for share in re.findall(r"same digit to ([\d.]+)%", text(shown["agreement"]))]
    assert len(shares) == 3
    assert all(60 < share < 100 for share in shares)


@pytest.mark.slow
def test_several_seeds_have_an_interval(shown: Shown) -> None:
    said = text(shown["seeds"])
    assert "(numpy-relu, 2 seeds; 95 % interval over seeds and test images" in said
    assert "From seed to seed" in said


@pytest.mark.slow
def test_a_picture_is_read_by_all_three(shown: Shown) -> None:
    said = re.findall(r"^(\w+): (\d), with a probability of ([01]\.\d\d)$", text(shown["picture"]), re.MULTILINE)
    assert [framework for framework, *_ in said] == ["numpy", "torch", "keras"]
    assert "7" in [digit for _, digit, _ in said]


@pytest.mark.slow
def test_the_code_shown_is_the_code_that_runs(shown: Shown) -> None:
    for cell, name in {"numpy-source": "train_step", "torch-source": "train_step", "keras-source": "train"}.items():
        module = PROJECT / "training" / f"{cell.removesuffix('-source')}_trainer.py"
        (source,) = [part for part in text(shown[cell]).split("```") if part.startswith(f"python\ndef {name}(")]
        assert source.removeprefix("python\n") in module.read_text()
    assert [framework for framework, *_ in rows(shown["usability"])] == ["numpy", "torch", "keras"]


@pytest.mark.slow
def test_there_are_pictures_and_nothing_goes_to_stderr(shown: Shown) -> None:
    pictures = {cell for cell, outputs in shown.items() for each in outputs if "image/png" in each.get("data", {})}
    assert pictures == PICTURES
    assert [each["text"] for outputs in shown.values() for each in outputs if each.get("name") == "stderr"] == []


def test_it_is_committed_without_outputs() -> None:
    contents = NOTEBOOK.read_text(encoding="utf-8")
    notebook = json.loads(contents)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 10
    for cell in code:
        assert (cell["outputs"], cell["execution_count"]) == ([], None), f"clear the outputs of cell {cell['id']}"
    for folder in (Path.home(), PROJECT):
        assert f"{folder}/" not in contents
