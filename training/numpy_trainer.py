"""The NumPy trainer: forward, gradient, backward, step, with `scratch` as its framework."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper
from threadpoolctl import threadpool_limits

from digits import network
from digits.card import Epoch
from digits.contract import CLASSES, PIXELS, SIDE, Images, Labels, Probabilities
from digits.network import INPUT, with_inputs
from runtimes.device import Device
from scratch import initialisers
from scratch.buffers import Array
from scratch.images import Conv, Flatten, MaxPool, ToImages
from scratch.layers import BatchNorm, Dense, Dropout, Layer, Relu, Sigmoid, softmax
from scratch.losses import soft_cross_entropy, softmax_cross_entropy
from scratch.network import Network
from scratch.optimizers import Adam, Optimizer, RMSprop, Scheduled
from scratch.replicas import Replicas
from training.augmentation import augment
from training.onnx_file import write_onnx
from training.recipes import Recipe
from training.schedule import learning_rates, steps_of
from training.targets import TARGETS
from training.trainers import BLOCK, OnEpoch, Split, Weights

DRAWS = {
    "glorot_uniform": initialisers.glorot_uniform,
    "he_uniform": initialisers.he_uniform,
    "fan_in_uniform": initialisers.fan_in_uniform,
}


def build(recipe: Recipe, generator: np.random.Generator) -> Network:
    layers: list[Layer] = []
    if not isinstance(recipe.network[0], network.Dense):
        layers.append(ToImages(*INPUT))  # [N, 784] -> [1, 28, 28, N]
    for layer, shape in with_inputs(recipe.network):
        match layer:
            case network.Dense(units=units):
                if layers and len(shape) == 3:
                    layers.append(Flatten())
                layers.append(Dense(math.prod(shape), units))
            case network.Conv(filters=filters, kernel=kernel, padding=padding, bias=bias):
                channels, height, width = shape
                layers.append(Conv(channels, filters, kernel, height=height, width=width, padding=padding, bias=bias))
            case network.MaxPool(size=size):
                layers.append(MaxPool(size))
            case network.BatchNorm(momentum=momentum, epsilon=epsilon):
                layers.append(BatchNorm(shape[0], momentum=momentum, epsilon=epsilon))
            case network.Dropout(rate=rate):
                layers.append(Dropout(rate, generator))
            case network.Relu():
                layers.append(Relu())
            case network.Sigmoid():
                layers.append(Sigmoid())
    return Network(layers)


def initialise(model: Network, recipe: Recipe, generator: np.random.Generator) -> None:
    for layer in weighted(model):
        draw = DRAWS[recipe.weight_draw]
        layer.weight[:] = draw(generator, layer.weight.shape, fan_in=layer.fan_in, fan_out=layer.fan_out)
        if recipe.bias_draw == "fan_in_uniform":
            layer.bias[:] = initialisers.fan_in_uniform(
                generator, layer.bias.shape, fan_in=layer.fan_in, fan_out=layer.fan_out
            )


def make_optimizer(model: Network | Replicas, recipe: Recipe, *, steps: int) -> Optimizer:
    optimizer: Optimizer
    if recipe.optimizer == "rmsprop":
        optimizer = RMSprop(
            model.parameters, learning_rate=recipe.learning_rate, decay=recipe.beta_2, epsilon=recipe.epsilon
        )
    else:
        optimizer = Adam(
            model.parameters,
            learning_rate=recipe.learning_rate,
            beta_1=recipe.beta_1,
            beta_2=recipe.beta_2,
            epsilon=recipe.epsilon,
        )
    return optimizer if recipe.schedule == "constant" else Scheduled(optimizer, learning_rates(recipe, steps))


def train(recipe: Recipe, split: Split, *, device: Device, threads: int = 1, on_epoch: OnEpoch) -> Network:
    generator = np.random.default_rng(recipe.seed)
    model = build(recipe, generator)
    initialise(model, recipe, generator)
    optimizer = make_optimizer(model, recipe, steps=steps_of(recipe, len(split.train.labels)))
    replicas = on_threads(model, recipe, threads)
    pixels, labels = scaled(recipe, split.train.images), split.train.labels  # [60000, 784], [60000]

    with threadpool_limits(1):
        for epoch in range(recipe.epochs):
            started = time.perf_counter()
            if recipe.augmentation:
                pixels = scaled(recipe, augment(recipe.augmentation, split.train.images, seed=recipe.seed, epoch=epoch))
            loss, correct = train_epoch(replicas, optimizer, recipe, pixels, labels, generator)
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


def on_threads(model: Network, recipe: Recipe, threads: int) -> Network | Replicas:
    """What trains `model` on this number of threads."""
    if threads == 1:
        return model
    others = [build(recipe, np.random.default_rng([recipe.seed, thread])) for thread in range(1, threads)]
    return Replicas([model, *others])


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
    if recipe.strangers:
        loss, gradient = soft_cross_entropy(logits, TARGETS[labels].astype(logits.dtype))
    else:
        loss, gradient = softmax_cross_entropy(logits, labels)
    model.backward(gradient)
    if recipe.l2:
        for layer in weighted(model)[:-1]:
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
    blocks = (images[start : start + BLOCK] for start in range(0, len(images), BLOCK))
    return np.concatenate([softmax(model.forward(scaled(recipe, block))) for block in blocks])


def scaled(recipe: Recipe, images: Images) -> npt.NDArray[np.float32]:
    return images.reshape(-1, PIXELS) * np.float32(recipe.pixel_step) + np.float32(recipe.pixel_low)  # [N, 784]


def weighted(model: Network | Replicas) -> list[Dense | Conv]:
    return [layer for layer in model.layers if isinstance(layer, Dense | Conv)]


def sees_gpu(index: int) -> bool:
    return False


def arrays(model: Network) -> list[dict[str, Array]]:
    """What each layer holds, as `digits.network.arrays` has it; views of the model's own."""
    found: list[dict[str, Array]] = []
    for layer in model.layers:
        match layer:
            case Dense() | Conv():
                found.append({"weight": layer.weight, "bias": layer.bias})
            case BatchNorm():
                running = {"mean": layer.mean, "variance": layer.variance}
                found.append({"scale": layer.scale, "shift": layer.shift, **running})
    return [{name: array for name, array in one.items() if array.size} for one in found]  # no bias has size 0


def get_weights(model: Network) -> Weights:
    return [{name: array.copy() for name, array in layer.items()} for layer in arrays(model)]


def with_weights(recipe: Recipe, weights: Weights) -> Network:
    model = build(recipe, np.random.default_rng(recipe.seed))
    for layer, given in zip(arrays(model), weights, strict=True):
        for name, array in layer.items():
            array[:] = given[name]
    return model


def export_native(model: Network, recipe: Recipe, path: Path) -> None:
    """As runtimes/numpy_runtime.py opens it."""
    layers = json.dumps(network.to_data(recipe.network))
    numbers = {"pixel_step": np.float32(recipe.pixel_step), "pixel_low": np.float32(recipe.pixel_low)}
    held = {f"{name}_{i}": array for i, layer in enumerate(get_weights(model)) for name, array in layer.items()}
    np.savez(path, allow_pickle=False, network=np.array(layers), **numbers, **held)


def export_onnx(model: Network, recipe: Recipe, path: Path) -> None:
    constants = [
        numpy_helper.from_array(np.array([recipe.pixel_step], np.float32), "pixel_step"),
        numpy_helper.from_array(np.array([recipe.pixel_low], np.float32), "pixel_low"),
    ]
    nodes = [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),  # [N, 28, 28]
        helper.make_node("Mul", ["values", "pixel_step"], ["stretched"]),
        helper.make_node("Add", ["stretched", "pixel_low"], ["pixels"]),
    ]
    last = "pixels"

    def add(operator: str, *held: str, **attributes: Any) -> None:
        nonlocal last
        outputs = f"{operator.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(operator, [last, *held], [outputs], **attributes))
        last = outputs

    if not isinstance(recipe.network[0], network.Dense):
        constants.append(numpy_helper.from_array(np.array([1]), "channel_axis"))
        add("Unsqueeze", "channel_axis")  # [N, 1, 28, 28]
    weights = iter(enumerate(get_weights(model)))
    for layer, shape in with_inputs(recipe.network):
        held = []
        if network.arrays(layer, shape):
            i, given = next(weights)
            held = [f"{name}_{i}" for name in given]
            constants += [numpy_helper.from_array(array, f"{name}_{i}") for name, array in given.items()]
        match layer:
            case network.Dense():
                if len(shape) == 3:
                    add("Flatten", axis=1)
                add("Gemm", *held)
            case network.Conv(padding=padding):
                add("Conv", *held, pads=[padding] * 4)
            case network.MaxPool(size=size):
                add("MaxPool", kernel_shape=[size, size], strides=[size, size])
            case network.BatchNorm(epsilon=epsilon):
                add("BatchNormalization", *held, epsilon=epsilon)
            case network.Relu():
                add("Relu")
            case network.Sigmoid():
                add("Sigmoid")
    add("Softmax", axis=1)
    nodes[-1].output[0] = "probabilities"
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", CLASSES])
    graph = helper.make_graph(nodes, recipe.name, [images], [probabilities], constants)
    write_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
