"""What every trainer must do: learn from the training images alone, only look at the others, and stop drawing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from conftest import python, require

from digits.contract import FRAMEWORKS, Framework
from digits.errors import ExportError
from digits.mnist import LabelledImages
from training import export, numpy_trainer
from training.recipes import RECIPES
from training.train import split_for
from training.trainers import NEEDS, Trainer

# Two patterns that anybody tells apart, called 0 and 1 in training and the other way round in what is held out. So whoever
# trains on what is held out, or counts right answers on the training images, reads it right.
CODE = """
import dataclasses, json, sys
import numpy as np
from digits.mnist import LabelledImages
from digits.network import BatchNorm, Dense, Dropout, Relu
from runtimes.device import CPU
from training.recipes import RECIPES
from training.trainers import Split, load_trainer
layers = (Dense(20), Relu(), Dropout(0.5), Dense(20), BatchNorm(momentum=0.5, epsilon=1e-3), Relu(), Dropout(0.5), Dense(10))
recipe = dataclasses.replace(
    RECIPES["torch-relu"], name="small", framework=sys.argv[1], keras_api="sequential", network=layers, batch_size=32, epochs=6,
    learning_rate=0.01,
)
trainer = load_trainer(recipe.framework)
labels, others = np.random.default_rng(1).integers(0, 2, (2, 320), np.uint8)
patterns = np.random.default_rng(2).integers(0, 256, (2, 28, 28), np.uint8)
split = Split(
    train=LabelledImages(images=patterns[labels], labels=labels),
    held_out=LabelledImages(images=patterns[1 - others], labels=others),
    held_out_is="called by the other's name",
)
history = []
model = trainer.train(recipe, split, device=CPU, on_epoch=history.append)
answers = [trainer.predict(model, recipe, patterns) for _ in range(2)]
alone = [trainer.predict(model, recipe, patterns[i : i + 1])[0] for i in range(2)]
still = dataclasses.replace(recipe, epochs=1, learning_rate=0.0)
started = trainer.get_weights(trainer.train(still, split, device=CPU, on_epoch=lambda epoch: None))
facts = {
    "accuracy": history[-1].accuracy,
    "held_out": history[-1].held_out_accuracy,
    "losses": [epoch.loss for epoch in history],
    "epochs": len(history),
    "answers": np.array(answers).tolist(),
    "alone": np.array(alone).tolist(),
    "starts": [layer["weight"].ravel()[:200].tolist() for layer in started if "weight" in layer],
}
if recipe.framework == "keras":
    import tensorflow as tf
    pixels = tf.Variable(np.arange(320, dtype=np.float32)[:, None])
    batches = trainer.shuffled_batches(recipe, pixels, labels)
    facts["orders"] = [np.concatenate([batch.numpy()[:, 0] for batch, _ in batches]).tolist() for _ in range(2)]
print(json.dumps(facts))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained() -> Callable[[Framework], dict[str, Any]]:
    facts: dict[str, dict[str, Any]] = {}

    def of(framework: Framework) -> dict[str, Any]:
        require(*NEEDS[framework])
        if framework not in facts:
            facts[framework] = json.loads(python(CODE, framework).splitlines()[-1])
        return facts[framework]

    return of


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_held_out_is_read_and_not_learnt(framework: Framework, trained: Callable[..., dict[str, Any]]) -> None:
    facts = trained(framework)
    assert facts["accuracy"] > 0.9  # while dropout makes it guess
    assert facts["held_out"] == 0.0
    assert facts["epochs"] == 6


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_loss_of_an_epoch_is_a_mean_over_its_images(
    framework: Framework, trained: Callable[..., dict[str, Any]]
) -> None:
    losses = trained(framework)["losses"]
    assert 0.3 < losses[0] < 3  # that of a guess is ln 10, 2.3
    assert losses[-1] < 0.3


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_trained_model_draws_no_more_and_answers_an_image_alike_alone_and_in_a_batch(
    framework: Framework, trained: Callable[..., dict[str, Any]]
) -> None:
    facts = trained(framework)
    first, again = facts["answers"]
    assert first == again
    np.testing.assert_allclose(facts["alone"], first, atol=1e-6)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_layer_starts_from_numbers_of_its_own(
    framework: Framework, trained: Callable[..., dict[str, Any]]
) -> None:
    starts = [np.array(start) for start in trained(framework)["starts"]]
    shared = [abs(np.corrcoef(one, other)[0, 1]) for i, one in enumerate(starts) for other in starts[:i]]
    assert len(starts) == 3
    assert max(shared) < 0.4  # two rows of 200 numbers with one seed would be multiples of each other


def test_keras_goes_through_the_images_in_a_new_order_at_each_epoch(trained: Callable[..., dict[str, Any]]) -> None:
    first, second = trained("keras")["orders"]
    assert sorted(first) == sorted(second) == list(range(320))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 20
    assert first != sorted(first)


def test_the_last_training_images_are_held_out_and_no_others() -> None:
    whole = split_for(RECIPES["torch-relu"])
    assert (len(whole.train.labels), len(whole.held_out.labels), whole.held_out_is) == (60_000, 10_000, "test images")
    split = split_for(RECIPES["torch-deep"])
    assert split.held_out_is == "last 6,000 training images"
    np.testing.assert_array_equal(split.train.images, whole.train.images[:54_000])
    np.testing.assert_array_equal(split.train.labels, whole.train.labels[:54_000])
    np.testing.assert_array_equal(split.held_out.images, whole.train.images[54_000:])
    np.testing.assert_array_equal(split.held_out.labels, whole.train.labels[54_000:])


@pytest.mark.parametrize(("change", "is_refused"), [(0.0, False), (1e-6, False), (1e-3, True), (float("nan"), True)])
def test_an_export_that_does_not_answer_as_its_model_is_refused(
    change: float, is_refused: bool, test_set: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("onnx", "onnxruntime")
    recipe = RECIPES["numpy-relu"]
    generator = np.random.default_rng(1)
    model = numpy_trainer.build(recipe, generator)
    numpy_trainer.initialise(model, recipe, generator)

    def export_changed(model: Any, recipe: Any, path: Path) -> None:
        weights = numpy_trainer.get_weights(model)
        weights[-1]["bias"][0] += change
        numpy_trainer.export_onnx(numpy_trainer.with_weights(recipe, weights), recipe, path)

    trainer = cast(Trainer, SimpleNamespace(**{**vars(numpy_trainer), "export_onnx": export_changed}))
    monkeypatch.setattr("training.trainers.is_installed", lambda framework: framework == "numpy")
    images = LabelledImages(images=test_set.images[:100], labels=test_set.labels[:100])
    if is_refused:
        with pytest.raises(
            ExportError, match=r"numpy-relu exported for onnx differs from the trained model by .*Nothing was"
        ):
            export.export_all(model, trainer, recipe, tmp_path, images)
    else:
        scores, differences = export.export_all(model, trainer, recipe, tmp_path, images)
        assert set(scores) == set(differences) == {"numpy", "onnx"}


ON_THREADS = """
import dataclasses, sys
import numpy as np
from digits.mnist import LabelledImages
from digits.network import BatchNorm, Conv, Dense, MaxPool, Relu
from runtimes.device import CPU
from training.recipes import RECIPES
from training.trainers import Split, load_trainer
norm = BatchNorm(momentum=0.5, epsilon=1e-3)
layers = (Conv(filters=4, kernel=3, padding=0, bias=False), MaxPool(4), norm, Relu(), Dense(10))
recipe = dataclasses.replace(
    RECIPES["torch-conv"], name="small", framework=sys.argv[1], network=layers, batch_size=32, epochs=2, epsilon=1e-3
)
trainer = load_trainer(recipe.framework)
generator = np.random.default_rng(1)
some = LabelledImages(
    images=generator.integers(0, 256, (320, 28, 28), np.uint8), labels=generator.integers(0, 10, 320).astype(np.uint8)
)
split = Split(train=some, held_out=some, held_out_is="the same")
losses = []
weights = [
    trainer.get_weights(
        trainer.train(recipe, split, device=CPU, threads=threads, on_epoch=lambda epoch: losses.append(epoch.loss))
    )
    for threads in (1, 2)
]
assert len(losses) == 4
assert abs(losses[1] - losses[3]) < 1e-4 * losses[1]
for one, two in zip(*weights, strict=True):
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-3, atol=1e-4)
print(losses[0] > losses[1])
"""


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_two_threads_train_to_the_weights_of_one_within_rounding(framework: Framework) -> None:
    require(*NEEDS[framework])
    assert python(ON_THREADS, framework) == "True\n"


REPRODUCIBLY = """
import sys
import torch
from training.torch_trainer import reproducibly
def refused():
    try:
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))  # of two numbers for one place, which stays?
    except RuntimeError:
        return True
    return False
with reproducibly(1):
    print(refused(), torch.get_num_threads(), "torch._dynamo" in sys.modules)
print(refused())
"""


def test_torch_trains_by_what_has_a_fixed_order_alone_and_imports_no_compiler_for_it() -> None:
    require(*NEEDS["torch"])
    assert python(REPRODUCIBLY).split() == ["True", "1", "False", "False"]
