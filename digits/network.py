"""A network as data: its layers in order, as mathematics. Trainers, exports, the NumPy runtime and reports read it.

A layer's fields mean mathematics, never one framework's argument, and have no defaults. Shapes and parameters follow from
the layers: a network takes one channel of 28x28 pixels and gives 10 logits.

It lies on the ground floor, since the NumPy runtime reads it out of a stored file and may import nothing of training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Final

from digits.contract import CLASSES, SIDE
from digits.errors import ImpossibleRecipe

Shape = tuple[int, ...]  # of one image's: (features,), or (channels, height, width)

INPUT: Final[Shape] = (1, SIDE, SIDE)


@dataclass(frozen=True)
class Dense:
    """outputs = inputs @ weight + bias. Images are flattened first, in the order channel, row, column.

    Holds weight `[features, units]`, bias `[units]`.
    """

    units: int


@dataclass(frozen=True)
class Conv:
    """Cross-correlation of every channel with each filter, step 1, with zeros around (LeCun et al. 1998).

    Holds weight `[filters, channels, kernel, kernel]`, and bias `[filters]` where it has one.
    """

    filters: int
    kernel: int  # pixels, of its side
    padding: int  # pixels of zeros on each side
    bias: bool  # which a BatchNorm that follows makes idle


@dataclass(frozen=True)
class MaxPool:
    """The largest of each square of size x size; rows and columns that fill no square are left out. Of equals, the first."""

    size: int


@dataclass(frozen=True)
class BatchNorm:
    """outputs = scale * (inputs - mean) / sqrt(variance + epsilon) + shift, for each feature or channel by itself.

    While training, mean and variance are the batch's (biased); else the running ones, which move at each batch:
    running = momentum * running + (1 - momentum) * batch, with the unbiased variance (Ioffe and Szegedy 2015, algorithms 1
    and 2). They start at 0 and 1, scale at 1, shift at 0.

    Holds scale, shift, mean, variance, each `[features]` or `[channels]`; the last two are no parameters.
    """

    momentum: float
    epsilon: float


@dataclass(frozen=True)
class Dropout:
    """While training, sets a share `rate` of the inputs to 0; the others grow by 1 / (1 - rate) (Srivastava et al. 2014)."""

    rate: float


@dataclass(frozen=True)
class Relu:
    """max(inputs, 0)."""


@dataclass(frozen=True)
class Sigmoid:
    """1 / (1 + exp(-inputs))."""


Layer = Dense | Conv | MaxPool | BatchNorm | Dropout | Relu | Sigmoid
Network = tuple[Layer, ...]

_LAYERS: Final[Mapping[str, type[Layer]]] = {
    "dense": Dense, "conv": Conv, "max_pool": MaxPool, "batch_norm": BatchNorm, "dropout": Dropout, "relu": Relu,
    "sigmoid": Sigmoid,
}  # fmt: skip
_NAMES: Final = {kind: name for name, kind in _LAYERS.items()}
_NO_PARAMETERS: Final = ("mean", "variance")


def output_shape(layer: Layer, inputs: Shape) -> Shape:
    """What `layer` makes of one image's `inputs`.

    Raises:
        ImpossibleRecipe: it cannot take them, or a field of it is impossible.
    """
    match layer:
        case Dense(units=units):
            _expect(units >= 1, layer, "at least 1 unit")
            return (units,)
        case Conv(filters=filters, kernel=kernel, padding=padding):
            _expect(
                filters >= 1 and kernel >= 1 and padding >= 0, layer, "filters and kernel of at least 1, padding of 0"
            )
            _, height, width = _images(layer, inputs)
            outputs = (filters, height + 2 * padding - kernel + 1, width + 2 * padding - kernel + 1)
        case MaxPool(size=size):
            _expect(size >= 1, layer, "a size of at least 1")
            channels, height, width = _images(layer, inputs)
            outputs = (channels, height // size, width // size)
        case BatchNorm(momentum=momentum, epsilon=epsilon):
            _expect(0 <= momentum < 1, layer, "a momentum of at least 0 and less than 1")
            _expect(0 < epsilon < math.inf, layer, "an epsilon greater than 0")
            return inputs
        case Dropout(rate=rate):
            _expect(0 <= rate < 1, layer, "a rate of at least 0 and less than 1")
            return inputs
        case Relu() | Sigmoid():
            return inputs
    _expect(min(outputs) >= 1, layer, f"images larger than {inputs[1]}x{inputs[2]}")
    return outputs


def shapes(network: Network) -> list[Shape]:
    """Of one image before each layer, in order, and after the last.

    Raises:
        ImpossibleRecipe: a layer cannot take what the one before it gives, or the last gives no 10 logits.
    """
    found = [INPUT]
    for layer in network:
        found.append(output_shape(layer, found[-1]))
    if found[-1] != (CLASSES,) or not isinstance(network[-1], Dense):
        raise ImpossibleRecipe(
            f"A network must end with Dense({CLASSES}): {CLASSES} logits. This one ends with {network[-1:]}."
        )
    return found


def with_inputs(network: Network) -> list[tuple[Layer, Shape]]:
    """Each layer, and the shape of what it takes of one image.

    Raises:
        ImpossibleRecipe: as `shapes`.
    """
    return list(zip(network, shapes(network)[:-1], strict=True))


def arrays(layer: Layer, inputs: Shape) -> dict[str, Shape]:
    """The shape of each array that `layer` holds, by its name: {"weight": (784, 128), "bias": (128,)}."""
    match layer:
        case Dense(units=units):
            return {"weight": (math.prod(inputs), units), "bias": (units,)}
        case Conv(filters=filters, kernel=kernel, bias=bias):
            weight = {"weight": (filters, inputs[0], kernel, kernel)}
            return weight | ({"bias": (filters,)} if bias else {})
        case BatchNorm():
            return dict.fromkeys(("scale", "shift", "mean", "variance"), inputs[:1])
    return {}


def parameters(network: Network) -> int:
    """How many numbers training moves by their gradients."""
    held = [arrays(layer, inputs) for layer, inputs in with_inputs(network)]
    return sum(math.prod(shape) for one in held for name, shape in one.items() if name not in _NO_PARAMETERS)


def in_words(network: Network) -> str:
    """As papers write it: 784-128 relu-10, or 24C5-pool-BN-relu-10."""
    words = [] if any(isinstance(layer, Conv) for layer in network) else [str(math.prod(INPUT))]
    for before, layer in pairwise((None, *network)):
        match layer:
            case Dense(units=units):
                words.append(str(units))
            case Conv(filters=filters, kernel=kernel):
                words.append(f"{filters}C{kernel}")
            case MaxPool():
                words.append("pool")
            case BatchNorm():
                words.append("BN")
            case Dropout(rate=rate):
                words.append(f"dropout {rate:g}")
            case Relu() | Sigmoid() if isinstance(before, Dense):
                words[-1] += f" {_NAMES[type(layer)]}"
            case Relu() | Sigmoid():
                words.append(_NAMES[type(layer)])
    return "-".join(words)


def to_data(network: Network) -> list[dict[str, Any]]:
    """Plain dictionaries: `{"layer": "dense", "units": 128}`."""
    return [{"layer": _NAMES[type(layer)], **asdict(layer)} for layer in network]


def from_data(data: Sequence[Mapping[str, Any]]) -> Network:
    """The inverse of `to_data`, also after a way through JSON.

    Raises:
        ImpossibleRecipe: a layer is not one of ours, or lacks a field, or has one too many.
    """
    network = []
    for one in data:
        kind = _LAYERS.get(str(one.get("layer")))
        expected = set() if kind is None else {"layer", *(field.name for field in fields(kind))}
        if kind is None or set(one) != expected:
            raise ImpossibleRecipe(
                f"A layer is one of {', '.join(_LAYERS)}, with its fields; {dict(one)!r} is not, or not with them."
            )
        network.append(kind(**{name: value for name, value in one.items() if name != "layer"}))
    return tuple(network)


def network_of(recipe: Mapping[str, Any]) -> Network:
    """Of a stored recipe's fields, those of a card too from when a recipe had `hidden`, `activation` and `dropout`."""
    if "network" in recipe:
        return from_data(recipe["network"])
    return dense_network(recipe["hidden"], recipe["activation"], recipe.get("dropout", 0.0))


def dense_network(hidden: Sequence[int], activation: str, dropout: float = 0.0) -> Network:
    """Dense layers of `hidden` units, each with its activation (and dropout, where the rate is not 0), and one of 10."""
    after: Network = (_LAYERS[activation](), *([Dropout(dropout)] if dropout else []))  # type: ignore[call-arg]
    return (*(layer for units in hidden for layer in (Dense(units), *after)), Dense(CLASSES))


def _images(layer: Layer, inputs: Shape) -> Shape:
    _expect(len(inputs) == 3, layer, f"images; it gets {inputs[0]} features, as what follows a Dense does")
    return inputs


def _expect(is_possible: bool, layer: Layer, expected: str) -> None:
    if not is_possible:
        raise ImpossibleRecipe(f"The layer {layer} needs {expected}.")
