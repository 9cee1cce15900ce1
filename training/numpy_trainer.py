"""The NumPy trainer: forward, gradient, backward, step, with `scratch` as its framework."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper
from threadpoolctl import threadpool_limits

from digits.card import Epoch
from digits.contract import CLASSES, PIXELS, SIDE, Images, Labels, Probabilities
from runtimes.device import Device
from scratch import initialisers
from scratch.buffers import Array
from scratch.layers import BatchNorm, Dense, Dropout, Layer, Relu, Sigmoid, softmax
from scratch.losses import softmax_cross_entropy
from scratch.network import Network
from scratch.optimizers import Adam, Optimizer, RMSprop
from scratch.replicas import Replicas
from training.onnx_file import write_onnx
from training.recipes import Recipe
from training.trainers import OnEpoch, Split, Weights

ACTIVATIONS: dict[str, type[Relu] | type[Sigmoid]] = {"relu": Relu, "sigmoid": Sigmoid}
DRAWS = {
    "glorot_uniform": initialisers.glorot_uniform,
    "he_uniform": initialisers.he_uniform,
    "fan_in_uniform": initialisers.fan_in_uniform,
}


def build(recipe: Recipe, generator: np.random.Generator) -> Network:
    *hidden, logits = recipe.layer_sizes
    layers: list[Layer] = []
    for fan_in, fan_out in hidden:
        layers += [Dense(fan_in, fan_out), ACTIVATIONS[recipe.activation]()]
        if recipe.dropout:
            layers.append(Dropout(recipe.dropout, generator))
    return Network([*layers, Dense(*logits)])


def initialise(model: Network, recipe: Recipe, generator: np.random.Generator) -> None:
    for layer in dense_layers(model):
        layer.weight[:] = DRAWS[recipe.weight_draw](generator, fan_in=layer.fan_in, fan_out=layer.fan_out)
        if recipe.bias_draw == "fan_in_uniform":
            layer.bias[:] = initialisers.fan_in_uniform(generator, fan_in=layer.fan_in, fan_out=layer.fan_out)[0]


def make_optimizer(model: Network | Replicas, recipe: Recipe) -> Optimizer:
    if recipe.optimizer == "rmsprop":
        return RMSprop(
            model.parameters, learning_rate=recipe.learning_rate, decay=recipe.beta_2, epsilon=recipe.epsilon
        )
    return Adam(
        model.parameters,
        learning_rate=recipe.learning_rate,
        beta_1=recipe.beta_1,
        beta_2=recipe.beta_2,
        epsilon=recipe.epsilon,
    )


def train(recipe: Recipe, split: Split, *, device: Device, on_epoch: OnEpoch) -> Network:
    generator = np.random.default_rng(recipe.seed)
    model = build(recipe, generator)
    initialise(model, recipe, generator)
    optimizer = make_optimizer(model, recipe)
    pixels, labels = scaled(recipe, split.train.images), split.train.labels  # [60000, 784], [60000]

    with threadpool_limits(1):
        for _ in range(recipe.epochs):
            started = time.perf_counter()
            loss, correct = train_epoch(model, optimizer, recipe, pixels, labels, generator)
            seconds = time.perf_counter() - started
            on_epoch(
                Epoch(
                    loss=loss,
                    accuracy=correct / len(labels),
                    held_out_accuracy=accuracy(model, recipe, split.held_out.images, split.held_out.labels),
                    seconds=seconds,
                )
            )
    return model


def train_epoch(
    model: Network | Replicas,
    optimizer: Optimizer,
    recipe: Recipe,
    pixels: npt.NDArray[np.float32],
    labels: Labels,
    generator: np.random.Generator,
) -> tuple[float, int]:
    """One pass in a new random order: the mean loss, and how many answers were right on the way."""
    total_loss = 0.0
    order = generator.permutation(len(pixels))
    shown = labels[order]
    logits = np.empty((len(pixels), CLASSES), np.float32)  # kept, so that right answers are counted once an epoch
    rows = np.empty((recipe.batch_size, pixels.shape[1]), np.float32)
    set_training(model, True)
    for start in range(0, len(order), recipe.batch_size):
        batch = slice(start, start + recipe.batch_size)
        indices = order[batch]
        # "clip", as with the default `take` fills a copy first
        batch_pixels = pixels.take(indices, axis=0, out=rows[: len(indices)], mode="clip")
        logits[batch], loss = train_step(model, optimizer, recipe, batch_pixels, shown[batch])
        total_loss += loss * len(indices)
    set_training(model, False)
    return total_loss / len(pixels), int((logits.argmax(axis=1) == shown).sum())


def train_step(
    model: Network | Replicas, optimizer: Optimizer, recipe: Recipe, pixels: npt.NDArray[np.float32], labels: Labels
) -> tuple[Array, float]:
    """Moves the weights once; the logits `[B, 10]` and the loss are those before."""
    logits = model.forward(pixels)
    loss, gradient = softmax_cross_entropy(logits, labels)
    model.backward(gradient)
    if recipe.l2:
        for layer in dense_layers(model)[:-1]:
            loss += recipe.l2 * float(np.square(layer.weight).sum())
            layer.weight_gradient += 2 * recipe.l2 * layer.weight
    optimizer.step(model.gradients)
    return logits, loss


def set_training(model: Network | Replicas, training: bool) -> None:
    for layer in model.layers:
        if isinstance(layer, Dropout | BatchNorm):
            layer.training = training


def accuracy(model: Network, recipe: Recipe, images: Images, labels: Labels) -> float:
    return float((predict(model, recipe, images).argmax(axis=1) == labels).mean())


def predict(model: Network, recipe: Recipe, images: Images) -> Probabilities:
    return softmax(model.forward(scaled(recipe, images)))


def scaled(recipe: Recipe, images: Images) -> npt.NDArray[np.float32]:
    return images.reshape(-1, PIXELS) * np.float32(recipe.pixel_step) + np.float32(recipe.pixel_low)  # [N, 784]


def dense_layers(model: Network | Replicas) -> list[Dense]:
    return [layer for layer in model.layers if isinstance(layer, Dense)]


def sees_gpu(index: int) -> bool:
    return False


def get_weights(model: Network) -> Weights:
    return [(layer.weight.copy(), layer.bias.copy()) for layer in dense_layers(model)]


def with_weights(recipe: Recipe, weights: Weights) -> Network:
    model = build(recipe, np.random.default_rng(recipe.seed))
    for layer, (weight, bias) in zip(dense_layers(model), weights, strict=True):
        layer.weight[:], layer.bias[:] = weight, bias
    return model


def export_native(model: Network, recipe: Recipe, path: Path) -> None:
    arrays: dict[str, Any] = {
        "pixel_step": np.float32(recipe.pixel_step),
        "pixel_low": np.float32(recipe.pixel_low),
        "activation": np.array(recipe.activation),
    }
    for i, (weight, bias) in enumerate(get_weights(model)):
        arrays |= {f"weight_{i}": weight, f"bias_{i}": bias}
    np.savez(path, allow_pickle=False, **arrays)


def export_onnx(model: Network, recipe: Recipe, path: Path) -> None:
    constants = [
        numpy_helper.from_array(np.array([recipe.pixel_step], np.float32), "pixel_step"),
        numpy_helper.from_array(np.array([recipe.pixel_low], np.float32), "pixel_low"),
    ]
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"], axis=1),  # [N, 784]
        helper.make_node("Cast", ["flat"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "pixel_step"], ["stretched"]),
        helper.make_node("Add", ["stretched", "pixel_low"], ["activation_0"]),
    ]
    weights = get_weights(model)
    for i, (weight, bias) in enumerate(weights):
        constants += [numpy_helper.from_array(weight, f"weight_{i}"), numpy_helper.from_array(bias, f"bias_{i}")]
        nodes.append(helper.make_node("Gemm", [f"activation_{i}", f"weight_{i}", f"bias_{i}"], [f"outputs_{i}"]))
        if i < len(weights) - 1:
            nodes.append(helper.make_node(recipe.activation.title(), [f"outputs_{i}"], [f"activation_{i + 1}"]))
    nodes.append(helper.make_node("Softmax", [f"outputs_{len(weights) - 1}"], ["probabilities"], axis=1))
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", CLASSES])
    graph = helper.make_graph(nodes, recipe.name, [images], [probabilities], constants)
    write_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
