"""Our own layers, one after another in every order: held against finite differences, and those for images against torch."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import require

from scratch import products
from scratch.buffers import ALIGNMENT, Array
from scratch.images import Conv, Flatten, MaxPool, ToImages
from scratch.layers import BatchNorm, Dense, Dropout, Layer, Relu, Sigmoid
from scratch.network import Network
from scratch.replicas import Replicas

LAYERS = [
    "dense",
    "conv",
    "conv without bias",
    "max pool",
    "batch norm",
    "dropout",
    "sigmoid",
    "relu",
    "to images",
    "flatten",
]
NUMBER = 3  # of images in a batch

# Rows of that many features, or images of channels, height and width.
Shape = tuple[int] | tuple[int, int, int]


def make_layer(name: str, shape: Shape) -> tuple[Layer, Shape] | None:
    """The layer for a batch of that shape, and the shape of what it gives; None where it takes no such batch."""
    features = shape[0]  # or channels
    match name, shape:
        case "dense", (_,):
            return Dense(features, 12), (12,)
        case "to images", (_,) if features % 12 == 0:
            return ToImages(features // 12, 4, 3), (features // 12, 4, 3)
        case "flatten", (_, height, width):
            return Flatten(), (features * height * width,)
        case "conv", (_, height, width) if min(height, width) >= 2:
            return Conv(features, 2, 3, height, width, 1, True), (2, height, width)
        case "conv without bias", (_, height, width) if min(height, width) >= 2:
            return Conv(features, 3, 2, height, width, 0, False), (3, height - 1, width - 1)
        case "max pool", (_, height, width) if min(height, width) >= 2:
            return MaxPool(2), (features, height // 2, width // 2)
        case "batch norm", _:
            layer = BatchNorm(features, 0.9, 1e-3)
            layer.training = True
            return layer, shape
        case "dropout", _:
            return dropout_with_one_mask(), shape
        case "sigmoid", _:
            return Sigmoid(), shape
        case "relu", _:
            return Relu(), shape
    return None


def dropout_with_one_mask() -> Dropout:
    layer = Dropout(0.3, np.random.default_rng(3))
    layer.training = True
    masks: list[Array] = []
    draw_mask = layer.draw_mask

    def drawn_once(inputs: Array) -> Array:
        if not masks:
            masks.append(draw_mask(inputs))
        return masks[0]

    layer.draw_mask = drawn_once  # type: ignore[method-assign]
    return layer


def networks(names: tuple[str, ...]) -> Iterator[tuple[Network, Array]]:
    """Of these layers, for rows and for images, where they take them: float64, with a batch."""
    for start in ((12,), (2, 5, 4)):
        shape: Shape = start
        layers: list[Layer] = []
        for name in names:
            made = make_layer(name, shape)
            if made is None:
                break
            layer, shape = made
            layers.append(layer)
        else:
            network = Network(layers, dtype=np.float64)
            generator = np.random.default_rng(1)
            network.parameters += generator.normal(0, 0.7, network.parameters.shape)
            batch = (NUMBER, 12) if len(start) == 1 else (5, 2, 4, NUMBER)
            yield network, generator.normal(size=batch)


def gradients(network: Network, inputs: Array, gradient: Array) -> tuple[Array, Array]:
    """By the parameters, and by the inputs."""
    network.forward(inputs)
    for layer in reversed(network.layers):
        gradient = layer.backward(gradient)
    return network.gradients.copy(), gradient.copy()


def difference(network: Network, inputs: Array, weights: Array, array: Array, direction: Array) -> float:
    """How fast sum(weights * outputs) grows as `array` (the inputs, or the parameters) goes in that direction."""
    step = 1e-6
    kept = array.copy()
    array += step * direction
    above = float((weights * network.forward(inputs)).sum())
    array[:] = kept - step * direction
    below = float((weights * network.forward(inputs)).sum())
    array[:] = kept
    return (above - below) / (2 * step)


@pytest.mark.parametrize("pair", list(itertools.product(LAYERS, LAYERS)), ids=" then ".join)
def test_a_pair_of_layers_has_the_gradient_of_finite_differences(pair: tuple[str, str]) -> None:
    for network, inputs in networks(pair):
        before = inputs.copy()
        weights = np.random.default_rng(2).normal(size=network.forward(inputs).shape)
        by_parameters, by_inputs = gradients(network, inputs, weights.copy())
        network.forward(inputs)
        network.backward(weights.copy())
        np.testing.assert_array_equal(network.gradients, by_parameters)
        np.testing.assert_array_equal(inputs, before)
        for array, found in [(network.parameters, by_parameters), (inputs, by_inputs)]:
            expected = np.empty_like(found)
            for index in np.ndindex(array.shape):
                direction = np.zeros_like(array)
                direction[index] = 1
                expected[index] = difference(network, inputs, weights, array, direction)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("first", LAYERS)
def test_three_layers_in_a_row_have_the_gradient_of_finite_differences(first: str) -> None:
    generator = np.random.default_rng(4)
    tried = 0
    for names in itertools.product([first], LAYERS, LAYERS):
        for network, inputs in networks(names):
            weights = generator.normal(size=network.forward(inputs).shape)
            by_parameters, by_inputs = gradients(network, inputs, weights.copy())
            for array, found in [(network.parameters, by_parameters), (inputs, by_inputs)]:
                direction = generator.normal(size=array.shape)
                expected = difference(network, inputs, weights, array, direction)
                assert float((found * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-7), names
                tried += 1
    assert tried > 50


# Against torch


def to_ours(images: Any) -> Array:
    """`[H, C, W, N]` of torch's `[N, C, H, W]`."""
    return np.ascontiguousarray(images.detach().numpy().transpose(2, 1, 3, 0))


@pytest.mark.parametrize(
    ("kernel", "padding", "bias"), [(1, 0, True), (2, 1, False), (3, 0, False), (3, 1, True), (5, 2, True)]
)
def test_a_convolution_is_torchs(kernel: int, padding: int, bias: bool) -> None:
    require("torch")
    import torch

    torch.manual_seed(1)
    theirs = torch.nn.Conv2d(3, 4, kernel, padding=padding, bias=bias, dtype=torch.float64)
    ours = Conv(3, 4, kernel, 6, 7, padding, bias)
    network = Network([ours], dtype=np.float64)
    network.parameters[:] = np.concatenate([one.detach().numpy().ravel() for one in theirs.parameters()])
    inputs = torch.randn(5, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    outputs = theirs(inputs)
    np.testing.assert_allclose(network.forward(to_ours(inputs)), to_ours(outputs), rtol=1e-12, atol=1e-12)

    gradient = torch.randn_like(outputs)
    outputs.backward(gradient)
    by_inputs = ours.backward(to_ours(gradient))
    np.testing.assert_allclose(by_inputs, to_ours(inputs.grad), rtol=1e-12, atol=1e-12)
    expected = np.concatenate([one.grad.numpy().ravel() for one in theirs.parameters()])  # type: ignore[union-attr]
    np.testing.assert_allclose(network.gradients, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("small", [True, False])
def test_a_convolution_is_the_same_by_whole_rows_and_by_pixels(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "small_kernels", lambda: small)
    layer = Conv(8, 16, 3, 6, 40, 0, True)  # a row of a batch of 128 is 2.3 million multiplications, a pixel 0.05
    network = Network([layer])
    network.parameters[:] = np.random.default_rng(1).normal(0, 0.1, len(network.parameters))
    inputs = np.random.default_rng(2).normal(size=(6, 8, 40, 128)).astype(np.float32)
    outputs = network.forward(inputs)
    for row, column, image in [(0, 0, 0), (3, 37, 127), (2, 20, 64)]:
        square = inputs[row : row + 3, :, column : column + 3, image].transpose(1, 0, 2)
        expected = np.einsum("cij,fcij->f", square, layer.weight) + layer.bias
        np.testing.assert_allclose(outputs[row, :, column, image], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("rows", [32, 31, 7, 200])
def test_a_product_in_slices_is_the_product(rows: int, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "small_kernels", lambda: small)
    monkeypatch.setattr(products, "_pieces", functools.cache(products._pieces.__wrapped__))
    generator = np.random.default_rng(1)
    left, right = generator.normal(size=(rows, 300)), generator.normal(size=(300, 200))
    out = np.empty((rows, 200))
    assert products.product(left, right, out) is out
    np.testing.assert_allclose(out, left @ right, rtol=1e-10, atol=1e-10)
    products.product(right.T, np.asfortranarray(left.T), out.T)
    np.testing.assert_allclose(out, left @ right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("pieces", "shape"), [(1, (8, 3)), (2, (2, 4, 3)), (4, (4, 2, 3))])
def test_rows_are_cut_into_as_many_slices_as_pay_and_not_at_all_where_none_do(
    pieces: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    multiplied: list[tuple[int, ...]] = []
    matmul = np.matmul

    def recording(left: Array, right: Array, out: Array) -> Array:
        multiplied.append(left.shape)
        result: Array = matmul(left, right, out=out)
        return result

    monkeypatch.setattr(products, "_pieces", lambda rows, of_each: pieces)
    monkeypatch.setattr(np, "matmul", recording)
    out = products.product(np.ones((8, 3)), np.ones((3, 2)), np.empty((8, 2)))
    np.testing.assert_array_equal(out, np.full((8, 2), 3.0))
    assert multiplied == [shape]


def test_a_product_is_small_up_to_a_million_multiplications_where_there_are_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "small_kernels", lambda: True)
    assert products.is_small(1_000_000)
    assert not products.is_small(1_000_001)
    monkeypatch.setattr(products, "small_kernels", lambda: False)
    assert not products.is_small(1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_keep_their_precision_forwards_and_backwards(dtype: type[np.floating]) -> None:
    layers: list[Layer] = [ToImages(2, 6, 6), Conv(2, 3, 3, 6, 6, 1, True), MaxPool(2), Relu(), Flatten()]
    network = Network(layers, dtype=dtype)
    network.parameters += np.random.default_rng(8).normal(0, 0.5, len(network.parameters)).astype(dtype)
    outputs = np.random.default_rng(9).random((5, 72)).astype(dtype)
    for layer in layers:
        outputs = layer.forward(outputs)
        assert outputs.dtype == dtype, layer
    gradient = np.ones_like(outputs)
    for layer in reversed(layers):
        gradient = layer.backward(gradient, inputs_too=True)
        assert gradient.dtype == dtype, layer
    assert network.gradients.dtype == dtype


def test_a_convolution_tells_how_many_numbers_meet_in_one_and_come_of_one() -> None:
    """By which its weights are drawn (Glorot and Bengio 2010; He et al. 2015)."""
    conv = Conv(2, 5, 3, 8, 8, 0, False)
    assert (conv.fan_in, conv.fan_out) == (2 * 9, 5 * 9)


def test_slices_are_the_fewest_that_are_small_and_of_four_rows_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "small_kernels", lambda: True)
    pieces = products._pieces.__wrapped__
    assert pieces(32, 784 * 128) == 4  # 8 rows: 802,816 multiplications
    assert pieces(784, 32 * 128) == 4
    assert pieces(8, 125_000) == 1  # just small
    assert pieces(8, 125_001) == 2
    assert pieces(8, 250_000) == 2
    assert pieces(8, 250_001) == 1  # not even 4 rows are
    assert pieces(31, 784 * 128) == 1  # a prime
    monkeypatch.setattr(products, "small_kernels", lambda: False)
    assert pieces(32, 784 * 128) == 1


@pytest.mark.parametrize(("square", "height", "width"), [(2, 6, 8), (2, 5, 7), (3, 7, 8), (1, 2, 3)])
def test_a_pool_is_torchs_and_of_equal_pixels_the_first_has_the_gradient(square: int, height: int, width: int) -> None:
    require("torch")
    import torch

    torch.manual_seed(1)
    inputs = torch.randint(0, 3, (5, 4, height, width)).double().requires_grad_()  # of three values: many are equal
    outputs = torch.nn.functional.max_pool2d(inputs, square)
    ours = MaxPool(square)
    np.testing.assert_array_equal(ours.forward(to_ours(inputs)), to_ours(outputs))
    gradient = torch.randn_like(outputs)
    outputs.backward(gradient)  # type: ignore[no-untyped-call]
    np.testing.assert_array_equal(ours.backward(to_ours(gradient)), to_ours(inputs.grad))


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 5)])
def test_batch_norm_is_torchs_and_so_are_its_running_statistics(shape: tuple[int, ...]) -> None:
    require("torch")
    import torch

    torch.manual_seed(1)
    theirs: Any = (torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d)(4, eps=1e-3, momentum=0.1)
    theirs.double()
    ours = BatchNorm(4, 0.9, 1e-3)
    network = Network([ours], dtype=np.float64)
    with torch.no_grad():
        theirs.weight.normal_()
        theirs.bias.normal_()
    ours.scale[:], ours.shift[:] = theirs.weight.detach().numpy(), theirs.bias.detach().numpy()

    def to_layer(batch: Any) -> Array:
        return batch.detach().numpy().copy() if batch.ndim == 2 else to_ours(batch)

    ours.training = True
    for _ in range(3):
        inputs = (torch.randn(shape, dtype=torch.float64) * 3 + 2).requires_grad_()
        theirs.zero_grad()
        outputs = theirs(inputs)
        gradient = torch.randn_like(outputs)
        outputs.backward(gradient)
        np.testing.assert_allclose(network.forward(to_layer(inputs)), to_layer(outputs), rtol=1e-10, atol=1e-10)
        by_inputs = ours.backward(to_layer(gradient))
        np.testing.assert_allclose(by_inputs, to_layer(inputs.grad), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(ours.scale_gradient, theirs.weight.grad.numpy(), rtol=1e-10)
        np.testing.assert_allclose(ours.shift_gradient, theirs.bias.grad.numpy(), rtol=1e-10)
        np.testing.assert_allclose(ours.mean, theirs.running_mean.numpy(), rtol=1e-12)
        np.testing.assert_allclose(ours.variance, theirs.running_var.numpy(), rtol=1e-12)

    ours.training = False
    theirs.eval()
    np.testing.assert_allclose(network.forward(to_layer(inputs)), to_layer(theirs(inputs)), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ours.mean, theirs.running_mean.numpy(), rtol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(np.float32, 2e-4, 2e-5), (np.float64, 1e-10, 1e-12)])
def test_a_network_of_convolutions_has_torchs_logits_and_gradients(dtype: Any, rtol: float, atol: float) -> None:
    require("torch")
    import torch
    from torch import nn

    torch.manual_seed(1)
    theirs = nn.Sequential(
        nn.Conv2d(1, 4, 5, padding=2, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 5 * 5, 10),
    )  # fmt: skip
    theirs.to(torch.float64 if dtype == np.float64 else torch.float32)
    ours = Network(
        [
            *(ToImages(1, 14, 14), Conv(1, 4, 5, 14, 14, 2, False), MaxPool(2), BatchNorm(4, 0.9, 1e-5), Relu()),
            *(Conv(4, 6, 3, 7, 7, 0, True), BatchNorm(6, 0.9, 1e-5), Relu()),
            *(Flatten(), Dense(6 * 5 * 5, 10)),
        ],
        dtype=dtype,
    )
    for layer in ours.layers:
        if isinstance(layer, BatchNorm):
            layer.training = True

    def in_our_order(arrays: list[Array]) -> Array:
        *others, weight, bias = arrays
        return np.concatenate([one.ravel() for one in (*others, weight.T, bias)])

    ours.parameters[:] = in_our_order([one.detach().numpy() for one in theirs.parameters()])
    for number in (16, 7):
        inputs = torch.rand(number, 1, 14, 14, dtype=next(theirs.parameters()).dtype)
        theirs.zero_grad()
        logits = theirs(inputs)
        gradient = torch.randn_like(logits)
        logits.backward(gradient)
        np.testing.assert_allclose(
            ours.forward(inputs.reshape(number, -1).numpy()), logits.detach().numpy(), rtol=rtol, atol=atol
        )
        ours.backward(gradient.numpy().copy())
        expected = in_our_order([one.grad.numpy() for one in theirs.parameters()])  # type: ignore[union-attr]
        np.testing.assert_allclose(ours.gradients, expected, rtol=rtol, atol=10 * atol)


# On several threads


def small_network() -> Network:
    network = Network(
        [
            *(ToImages(1, 8, 8), Conv(1, 3, 3, 8, 8, 1, True), MaxPool(2), BatchNorm(3, 0.9, 1e-5), Relu()),
            *(Conv(3, 4, 3, 4, 4, 0, False), BatchNorm(4, 0.9, 1e-5), Relu()),
            *(Flatten(), Dense(16, 6), BatchNorm(6, 0.9, 1e-5), Sigmoid(), Dense(6, 4)),
        ],
        dtype=np.float64,
    )
    network.parameters += np.random.default_rng(5).normal(0, 0.5, len(network.parameters))
    return network


def set_training(network: Network | Replicas, training: bool) -> None:
    for layer in network.layers:
        if isinstance(layer, BatchNorm):
            layer.training = training


@pytest.mark.parametrize(("threads", "number"), [(2, 16), (2, 7), (3, 16)])
def test_replicas_compute_what_one_network_does_of_the_whole_batch(threads: int, number: int) -> None:
    alone, replicas = small_network(), Replicas([small_network() for _ in range(threads)])
    generator = np.random.default_rng(6)
    for _ in range(3):
        inputs, gradient = generator.normal(size=(number, 64)), generator.normal(size=(number, 4))
        set_training(alone, True)
        set_training(replicas, True)
        np.testing.assert_allclose(replicas.forward(inputs), alone.forward(inputs), rtol=1e-9, atol=1e-12)
        alone.backward(gradient.copy())
        replicas.backward(gradient.copy())
        np.testing.assert_allclose(replicas.gradients, alone.gradients, rtol=1e-9, atol=1e-12)
        for network in (alone, replicas):
            network.parameters -= 0.1 * network.gradients
            set_training(network, False)
        np.testing.assert_allclose(replicas.forward(inputs), alone.forward(inputs), rtol=1e-9, atol=1e-12)


def test_replicas_begin_with_the_statistics_of_the_first() -> None:
    alone, first, second = small_network(), small_network(), small_network()
    for network in (alone, first):
        for layer in network.layers:
            if isinstance(layer, BatchNorm):
                layer.mean += 0.5
                layer.variance += 2
    replicas = Replicas([first, second])
    set_training(alone, False)
    set_training(replicas, False)
    inputs = np.random.default_rng(7).normal(size=(6, 64))
    np.testing.assert_allclose(replicas.forward(inputs), alone.forward(inputs), rtol=1e-9, atol=1e-12)


def test_replicas_with_other_layers_are_refused() -> None:
    longer = Network([*small_network().layers, Relu()], dtype=np.float64)
    with pytest.raises(ValueError, match="argument"):
        Replicas([small_network(), longer])


def test_a_thread_that_fails_does_not_leave_the_others_waiting() -> None:
    networks = [small_network(), small_network()]

    def fails(inputs: Array) -> Array:
        raise ArithmeticError("no")

    networks[1].layers[5].forward = fails  # type: ignore[method-assign]  # after the first meeting
    replicas = Replicas(networks)
    set_training(replicas, True)
    with pytest.raises((ArithmeticError, threading.BrokenBarrierError)):
        replicas.forward(np.zeros((4, 64)))


# What a layer says of itself


def test_flatten_gives_channel_row_column_and_to_images_takes_it() -> None:
    pixels = np.arange(2 * 24, dtype=np.float32).reshape(2, 24)
    images = ToImages(2, 3, 4).forward(pixels)
    assert images.shape == (3, 2, 4, 2)
    assert images[1, 0, 2, 1] == pixels[1].reshape(2, 3, 4)[0, 1, 2]
    np.testing.assert_array_equal(Flatten().forward(images), pixels)


def test_parameters_are_the_weight_then_the_bias_and_the_scale_then_the_shift() -> None:
    conv, norm = Conv(2, 3, 2, 4, 4, 0, True), BatchNorm(3, 0.9, 1e-5)
    network = Network([conv, norm])
    assert (conv.size, norm.size, conv.weight.shape) == (24 + 3, 6, (3, 2, 2, 2))
    np.testing.assert_array_equal(norm.scale, [1, 1, 1])
    network.parameters[:] = np.arange(33)
    np.testing.assert_array_equal(conv.weight.ravel(), np.arange(24))
    np.testing.assert_array_equal(conv.bias, [24, 25, 26])
    np.testing.assert_array_equal(norm.scale, [27, 28, 29])
    np.testing.assert_array_equal(norm.shift, [30, 31, 32])
    assert Conv(2, 3, 2, 4, 4, 0, False).size == 24
    assert (norm.training, Dropout(0.5, np.random.default_rng(1)).training) == (False, False)
    np.testing.assert_array_equal(norm.mean, [0, 0, 0])
    np.testing.assert_array_equal(norm.variance, [1, 1, 1])


def test_parameters_and_gradients_begin_at_a_cache_line() -> None:
    network = Network([Dense(5, 3)])
    assert network.parameters.ctypes.data % ALIGNMENT == network.gradients.ctypes.data % ALIGNMENT == 0
    assert len(network.parameters) == len(network.gradients) == 18


def test_a_dropout_that_does_not_train_hands_on_what_it_was_given() -> None:
    layer = Dropout(0.9, np.random.default_rng(1))
    np.testing.assert_array_equal(layer.forward(np.arange(6.0)), np.arange(6.0))


@pytest.mark.parametrize("rate", [0.2, 0.7])
def test_dropout_drops_its_share_and_the_others_grow_by_what_is_missing(rate: float) -> None:
    layer = Dropout(rate, np.random.default_rng(1))
    layer.training = True
    outputs = layer.forward(np.full((200, 100), 3.0))
    kept = outputs[outputs != 0]
    np.testing.assert_allclose(kept, 3 / (1 - rate), rtol=1e-12)
    assert 1 - len(kept) / outputs.size == pytest.approx(rate, abs=0.02)  # 6 standard errors
    np.testing.assert_array_equal(layer.backward(np.full((200, 100), 3.0)), outputs)
    assert not np.array_equal(layer.forward(np.full((200, 100), 3.0)), outputs)  # drawn anew


def test_a_dropped_share_is_drawn_in_float32_and_its_mask_is_of_the_inputs_dtype() -> None:
    layer = Dropout(0.4, np.random.default_rng(1))
    mask = layer.draw_mask(np.empty((3, 5), np.float32))
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask > 0, np.random.default_rng(1).random((3, 5), np.float32) >= 0.4)
