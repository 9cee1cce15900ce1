"""The exported files: they agree, open without our code and without pickle, and are the same bit for bit each time."""

from __future__ import annotations

import io
import json
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import PROJECT, TRAINED, python, require, require_recipe

from digits.card import Card
from digits.contract import BACKENDS, EXPORTED, FRAMEWORKS, Backend
from digits.mnist import LabelledImages

OURS = "samedigit", "comparison", "loadtests", "training", "serving", "runtimes", "scratch", "digits"
PACKAGE = {"numpy": "numpy", "torch": "torch", "tensorflow": "tensorflow", "onnx": "onnxruntime"}
pytestmark = pytest.mark.slow

Answers = Callable[[Backend, str], npt.NDArray[np.float32]]

# Opens files in a process where nothing of ours can be imported. `images` are 100 real digits.
ALONE = f"""
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
class NothingOfOurs:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {OURS!r}:
            raise ModuleNotFoundError(name + " is ours")
sys.meta_path.insert(0, NothingOfOurs)
import numpy as np
images = np.load(sys.argv[1])
def save(folder, probabilities):
    assert probabilities.dtype == np.float32
    np.save(os.path.join(sys.argv[2], os.path.basename(os.path.dirname(folder))), probabilities)
"""


def folder_of(home: Path, recipe: str) -> Path:
    (version,) = [path for path in (home / "models" / recipe).iterdir() if path.is_dir()]
    return version


def stored_folders(home: Path) -> dict[str, Path]:
    stored = sorted(path.name for path in (home / "models").iterdir())
    assert stored
    return {recipe: folder_of(home, recipe) for recipe in stored}


def card_of(home: Path, recipe: str) -> Card:
    code = """
import sys, orjson
from digits.store import find_model
print(orjson.dumps(find_model(sys.argv[1]).card.to_data()).decode())
"""
    return Card.from_data(json.loads(python(code, recipe, environment={"BENTOML_HOME": str(home)})))


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory, test_set: LabelledImages) -> Path:
    file = tmp_path_factory.mktemp("hundred") / "images.npy"
    np.save(file, test_set.images[:100])
    return file


@pytest.fixture(scope="module")
def answers(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What a backend answers for a recipe, to all 10,000 test images; every backend in a process of its own."""
    folder = tmp_path_factory.mktemp("answers")
    asked: set[Backend] = set()
    code = """
import sys
from pathlib import Path
import numpy as np
from digits import mnist
from digits.contract import EXPORTED
from runtimes.backends import open_runtime, predict_all
from runtimes.device import CPU
backend, answers = sys.argv[1], Path(sys.argv[2])
images = mnist.test_images().images
for folder in sys.argv[3:]:
    runtime = open_runtime(backend, Path(folder) / EXPORTED[backend], device=CPU)
    np.save(answers / f"{backend} {Path(folder).parent.name}.npy", predict_all(runtime, images, batch_size=997))
"""

    def ask(backend: Backend, recipe: str) -> npt.NDArray[np.float32]:
        require(PACKAGE[backend])
        require_recipe(recipe)
        if backend not in asked:
            python(code, backend, folder, *stored_folders(trained_home).values())
            asked.add(backend)
        found: npt.NDArray[np.float32] = np.load(folder / f"{backend} {recipe}.npy")
        return found

    return ask


# They agree


@pytest.mark.parametrize("recipe", TRAINED)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_gives_the_same_probabilities_on_all_test_images(
    backend: Backend, recipe: str, answers: Answers
) -> None:
    found, reference = answers(backend, recipe), answers("numpy", recipe)
    assert found.shape == (10_000, 10)
    assert found.dtype == np.float32
    assert np.abs(found - reference).max() <= 1e-5
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert found.min() >= 0


@pytest.mark.parametrize("recipe", TRAINED)
def test_the_cards_scores_are_those_of_the_stored_files(
    recipe: str, answers: Answers, trained_home: Path, test_set: LabelledImages
) -> None:
    require_recipe(recipe)
    card = card_of(trained_home, recipe)
    for backend in card.backends:
        found = answers(backend, recipe)
        assert card.scores[backend].total == 10_000
        assert card.scores[backend].correct == (found.argmax(axis=1) == test_set.labels).sum()
        assert card.largest_difference[backend] <= 1e-5
    assert card.accuracy > 0.9  # it has learned, in one epoch
    assert len(card.history) == 1
    assert card.history[0].held_out_accuracy == pytest.approx(card.accuracy, abs=1e-6)
    assert card.parameters == 784 * 128 + 128 + 128 * 10 + 10
    assert card.recipe["name"] == recipe
    assert card.recipe["epochs"] == 1
    assert card.departures == ("epochs",)


def test_the_models_are_three_different_ones(answers: Answers) -> None:
    """So that agreement says something."""
    for one, other in [("numpy-sigmoid", "torch-relu"), ("torch-relu", "keras-sequential")]:
        assert np.abs(answers("numpy", one) - answers("numpy", other)).max() > 0.1


# They open alone


def test_a_saved_model_opens_with_plain_tensorflow_and_its_serving_signature(
    trained_home: Path, hundred: Path, tmp_path: Path, answers: Answers
) -> None:
    require("tensorflow")
    code = f"""{ALONE}
import tensorflow as tf
for folder in sys.argv[3:]:
    function = tf.saved_model.load(folder + "/saved_model").signatures["serving_default"]
    _, inputs = function.structured_input_signature
    assert list(inputs) == ["images"], inputs
    assert inputs["images"].dtype == tf.uint8 and inputs["images"].shape.as_list() == [None, 28, 28], inputs
    found = function.structured_outputs
    assert list(found) == ["probabilities"], found
    assert found["probabilities"].dtype == tf.float32 and found["probabilities"].shape.as_list() == [None, 10], found
    save(folder, function(images=tf.constant(images))["probabilities"].numpy())
    assert function(images=tf.constant(images[:1]))["probabilities"].shape == (1, 10)
"""
    stored = stored_folders(trained_home)
    python(code, hundred, tmp_path, *stored.values(), cwd=tmp_path)
    for recipe in stored:
        np.testing.assert_allclose(np.load(tmp_path / f"{recipe}.npy"), answers("numpy", recipe)[:100], atol=1e-5)


def test_a_torch_export_opens_with_plain_torch_and_without_pickle(
    trained_home: Path, hundred: Path, tmp_path: Path, answers: Answers
) -> None:
    require("torch")
    code = f"""{ALONE}
import pickle
import torch, torch.export
found = []
sys.addaudithook(lambda event, details: event == "pickle.find_class" and found.append(details))
def refuse(*arguments, **options):
    raise AssertionError("pickle was used")
class Refusing(pickle.Unpickler):
    __init__ = refuse
pickle.load = pickle.loads = torch.load = refuse
pickle.Unpickler = Refusing
for folder in sys.argv[3:]:
    program = torch.export.load(folder + "/model.pt2")
    (node,) = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    assert node.name == "images" and node.meta["val"].dtype == torch.uint8, node
    module = program.module()
    with torch.inference_mode():
        save(folder, module(torch.tensor(images)).numpy())
        assert module(torch.tensor(images[:1])).shape == (1, 10)
assert found == [], found
"""
    stored = stored_folders(trained_home)
    python(code, hundred, tmp_path, *stored.values(), cwd=tmp_path)
    for recipe in stored:
        np.testing.assert_allclose(np.load(tmp_path / f"{recipe}.npy"), answers("numpy", recipe)[:100], atol=1e-5)


@pytest.mark.parametrize("recipe", TRAINED)
def test_the_torch_export_holds_no_pickle(recipe: str, trained_home: Path) -> None:
    require("torch")
    require_recipe(recipe)
    with zipfile.ZipFile(folder_of(trained_home, recipe) / "model.pt2") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    assert any(name.endswith(".json") for name in entries)
    assert [name for name, raw in entries.items() if is_pickle(raw)] == []


def is_pickle(raw: bytes) -> bool:
    if raw[:2] == b"PK":  # what torch.save writes: a zip with a pickle in it
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            return any(is_pickle(archive.read(name)) for name in archive.namelist())
    if not raw.startswith(b"\x80"):  # protocol 2 and above
        return False
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(raw))
    except ValueError:
        return False


def test_a_pickle_would_be_recognised() -> None:
    import pickle

    assert is_pickle(pickle.dumps({"weights": [1.0, 2.0]}))
    assert is_pickle(pickle.dumps(("a", b"b"), protocol=2))
    assert not is_pickle(np.random.default_rng(1).normal(size=100).tobytes())


@pytest.mark.parametrize("recipe", TRAINED)
def test_the_numpy_weights_open_without_pickle(
    recipe: str, trained_home: Path, test_set: LabelledImages, answers: Answers
) -> None:
    require_recipe(recipe)
    with np.load(folder_of(trained_home, recipe) / "model.npz", allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays}
    assert found["weight_0"].shape == (784, 128)
    assert found["bias_0"].shape == (128,)
    assert found["weight_1"].shape == (128, 10)
    assert found["bias_1"].shape == (10,)
    assert {array.dtype for name, array in found.items() if name != "network"} == {np.dtype(np.float32)}
    # The whole model in six lines of NumPy, written by the description of its file alone.
    pixels = test_set.images[:100].reshape(-1, 784) * found["pixel_step"] + found["pixel_low"]
    outputs = (pixels @ found["weight_0"] + found["bias_0"]).astype(np.float64)
    hidden = 1 / (1 + np.exp(-outputs)) if "sigmoid" in str(found["network"]) else np.maximum(outputs, 0)
    logits = hidden @ found["weight_1"] + found["bias_1"]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers("numpy", recipe)[:100], probabilities, atol=1e-5)


@pytest.mark.parametrize("recipe", TRAINED)
def test_the_onnx_file_passes_the_checker_and_has_the_contracts_ends(recipe: str, trained_home: Path) -> None:
    require("onnx")
    require_recipe(recipe)
    import onnx

    model = onnx.load(folder_of(trained_home, recipe) / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [described(value) for value in model.graph.input] == [("images", onnx.TensorProto.UINT8, ["N", 28, 28])]
    assert [described(value) for value in model.graph.output] == [("probabilities", onnx.TensorProto.FLOAT, ["N", 10])]


def described(value: Any) -> tuple[str, int, list[int | str]]:
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, [side.dim_param or side.dim_value for side in tensor.shape.dim]


@pytest.mark.parametrize("recipe", TRAINED)
@pytest.mark.parametrize("number", [1, 2, 1000])
def test_the_onnx_file_takes_any_number_of_images(
    number: int, recipe: str, trained_home: Path, test_set: LabelledImages
) -> None:
    require("onnxruntime")
    require_recipe(recipe)
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder_of(trained_home, recipe) / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (probabilities,) = session.run(["probabilities"], {"images": test_set.images[:number]})
    assert probabilities.shape == (number, 10)


@pytest.mark.parametrize("recipe", TRAINED)
def test_no_stored_file_names_a_folder_of_this_machine(recipe: str, trained_home: Path) -> None:
    require_recipe(recipe)
    folder = folder_of(trained_home, recipe)
    here = [
        str(PROJECT).encode(),
        str(trained_home.parent).encode(),
        str(Path.home()).encode() + b"/",
        b"site-packages",
    ]
    files = [file for file in folder.rglob("*") if file.is_file()]
    for name in ("model.npz", "model.onnx"):
        assert folder / name in files
    packed = {file: [file.read_bytes(), *inside(file)] for file in files}
    named = {
        f"{file.relative_to(folder)} names {path.decode()}"
        for file, contents in packed.items()
        for raw in contents
        for path in here
        if path in raw
    }
    assert named == set()


def inside(file: Path) -> list[bytes]:
    if not zipfile.is_zipfile(file):
        return []
    with zipfile.ZipFile(file) as archive:
        return [archive.read(name) for name in archive.namelist()]


@pytest.mark.parametrize("recipe", TRAINED)
def test_a_model_is_stored_with_its_four_exports_and_the_test_images_it_gets_wrong(
    recipe: str, trained_home: Path
) -> None:
    require("torch", "tensorflow", "keras", "onnxruntime")
    folder = folder_of(trained_home, recipe)
    assert {path.name for path in folder.iterdir()} == {*EXPORTED.values(), "misread.npz", "model.yaml"}


# They are the same each time

TRAIN = """
import dataclasses, sys
from pathlib import Path
import numpy as np
from digits import mnist
from digits.mnist import LabelledImages
from runtimes.device import CPU
from training.recipes import RECIPES
from training.trainers import Split, load_trainer
folder = Path(sys.argv[1])
some = mnist.train_images()
some = LabelledImages(images=some.images[:3003], labels=some.labels[:3003])  # a last batch that is not full
for name in sys.argv[2:]:
    recipe_name, _, seed = name.partition("=")
    recipe = dataclasses.replace(RECIPES[recipe_name], epochs=2, seed=int(seed))
    trainer = load_trainer(recipe.framework)
    split = Split(train=some, held_out=some, held_out_is="the same images")
    model = trainer.train(recipe, split, device=CPU, on_epoch=lambda epoch: None)
    arrays = [array for layer in trainer.get_weights(model) for array in layer.values()]
    file = folder / f"{name}.npz"
    np.savez(file if not file.exists() else folder / f"{name} again.npz", *arrays)
"""


def weights(file: Path) -> list[bytes]:
    with np.load(file) as arrays:
        found = [arrays[name] for name in arrays]
    assert [array.shape for array in found] == [(784, 128), (128,), (128, 10), (10,)]
    assert all(array.any() for array in found)
    return [array.tobytes() for array in found]


@pytest.fixture(scope="module")
def trained_alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a recipe trained in a fresh process: with seed 1, with seed 1 again, and with seed 2."""
    folders: dict[str, Path] = {}

    def train(recipe: str) -> Path:
        require_recipe(recipe)
        if recipe not in folders:
            folders[recipe] = tmp_path_factory.mktemp("alone")
            python(TRAIN, folders[recipe], f"{recipe}=1", f"{recipe}=1", f"{recipe}=2")
        return folders[recipe]

    return train


@pytest.mark.parametrize("recipe", TRAINED)
def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_gives_others(
    recipe: str, trained_alone: Callable[[str], Path]
) -> None:
    folder = trained_alone(recipe)
    first, again, other = (weights(folder / f"{recipe}={name}.npz") for name in ("1", "1 again", "2"))
    assert first == again
    for ours, theirs in zip(first, other, strict=True):
        assert ours != theirs


def test_the_same_seed_gives_the_same_weights_after_another_framework_has_trained_in_the_process(
    tmp_path: Path, trained_alone: Callable[[str], Path]
) -> None:
    require("torch", "keras", "tensorflow")
    # torch before TensorFlow: each brings an LLVM, and torch's aborts the process if it comes second.
    python(TRAIN, tmp_path, "torch-relu=2", "numpy-sigmoid=1", "torch-relu=1", "keras-sequential=1")
    for recipe in ("numpy-sigmoid", "torch-relu", "keras-sequential"):
        assert weights(tmp_path / f"{recipe}=1.npz") == weights(trained_alone(recipe) / f"{recipe}=1.npz")


EVERY_LAYER = """
import dataclasses, json, sys, tempfile
from pathlib import Path
import numpy as np
from digits import mnist, network
from digits.network import BatchNorm, Conv, Dense, Dropout, MaxPool, Relu, Sigmoid
from training.export import export_all
from training.recipes import RECIPES
from training.trainers import load_trainer
layers = (
    Conv(filters=4, kernel=5, padding=2, bias=False), MaxPool(2), BatchNorm(momentum=0.9, epsilon=1e-3), Relu(),
    Conv(filters=6, kernel=3, padding=0, bias=True), Sigmoid(), Conv(filters=5, kernel=3, padding=2, bias=False),
    BatchNorm(momentum=0.8, epsilon=1e-2), Relu(), MaxPool(3), Dropout(0.5), Dense(16), Relu(),
    BatchNorm(momentum=0.7, epsilon=1e-3), Dense(10),
)
recipe = dataclasses.replace(
    RECIPES["torch-relu"], network=layers, framework=sys.argv[1], name="every", keras_api="functional", scaling=(-0.5, 1.0)
)
generator = np.random.default_rng(1)
weights = []
for layer, shape in network.with_inputs(layers):
    held = network.arrays(layer, shape)
    if held:
        drawn = {name: generator.normal(0, 0.6, shape).astype(np.float32) for name, shape in held.items()}
        weights.append(drawn | ({"variance": np.square(drawn["variance"]) + 0.5} if "variance" in drawn else {}))
trainer = load_trainer(recipe.framework)
model = trainer.with_weights(recipe, weights)
for given, held in zip(weights, trainer.get_weights(model), strict=True):
    assert given.keys() == held.keys()
    assert all((given[name] == held[name]).all() for name in given)
with tempfile.TemporaryDirectory() as folder:
    scores, differences = export_all(model, trainer, recipe, Path(folder), mnist.test_images())
answers = trainer.predict(model, recipe, mnist.test_images().images[:100])
print(json.dumps({"differences": differences, "answers": answers.tolist()}))
"""


@pytest.fixture(scope="module")
def every_layer() -> Callable[[str], dict[str, Any]]:
    """What each framework makes of one network that has every kind of layer, with the same arrays in it."""
    made: dict[str, dict[str, Any]] = {}

    def of(framework: str) -> dict[str, Any]:
        require("torch", "keras", "tensorflow", "onnxruntime")
        if framework not in made:
            made[framework] = json.loads(python(EVERY_LAYER, framework, timeout=250))
        return made[framework]

    return of


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_network_of_every_kind_of_layer_is_exported_to_every_format_within_rounding(
    framework: str, every_layer: Callable[[str], dict[str, Any]]
) -> None:
    made = every_layer(framework)
    assert set(made["differences"]) == set(BACKENDS)
    assert max(made["differences"].values()) <= 1e-5
    answers, expected = np.array(made["answers"]), np.array(every_layer("numpy")["answers"])
    assert answers.std(axis=0).max() > 0.05  # it tells images apart
    np.testing.assert_allclose(answers, expected, atol=1e-5)
