"""Our own neural-network library, held against finite differences, against torch, and against its own words."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import require

from scratch import initialisers, optimizers
from scratch.buffers import Array, Buffer
from scratch.layers import Dense, Layer, Relu, Sigmoid, relu, sigmoid, softmax
from scratch.losses import soft_cross_entropy, softmax_cross_entropy
from scratch.network import Network
from scratch.optimizers import BLOCK, FLUSH_EVERY, NEGLIGIBLE, SGD, Adam, Optimizer, RMSprop, Scheduled, flush

ACTIVATIONS: dict[str, type[Relu] | type[Sigmoid]] = {"relu": Relu, "sigmoid": Sigmoid}


def make_network(activation: str, *, sizes: tuple[int, ...], dtype: npt.DTypeLike) -> Network:
    layers: list[Layer] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [Dense(fan_in, fan_out), ACTIVATIONS[activation]()]
    network = Network(layers[:-1], dtype=dtype)
    network.parameters[:] = np.random.default_rng(1).normal(0, 0.7, network.parameters.shape)
    return network


def make_batch(rows: int, *, features: int, dtype: npt.DTypeLike, seed: int = 2) -> tuple[Array, npt.NDArray[np.uint8]]:
    generator = np.random.default_rng(seed)
    inputs: Array = generator.normal(size=(rows, features)).astype(dtype)
    return inputs, generator.integers(0, 4, rows).astype(np.uint8)


def loss_and_gradients(network: Network, inputs: Array, labels: npt.NDArray[np.uint8]) -> tuple[float, Array]:
    loss, gradient = softmax_cross_entropy(network.forward(inputs), labels)
    network.backward(gradient)
    return loss, network.gradients.copy()


# Gradients


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.parametrize("sizes", [(5, 4), (5, 7, 4), (5, 7, 6, 4)])
def test_every_gradient_is_the_central_finite_difference_of_the_loss(activation: str, sizes: tuple[int, ...]) -> None:
    network = make_network(activation, sizes=sizes, dtype=np.float64)
    inputs, labels = make_batch(9, features=5, dtype=np.float64)
    _, gradients = loss_and_gradients(network, inputs, labels)

    step = 1e-6
    differences = np.empty_like(gradients)
    for i in range(len(network.parameters)):
        kept = network.parameters[i]
        network.parameters[i] = kept + step
        above, _ = softmax_cross_entropy(network.forward(inputs), labels)
        network.parameters[i] = kept - step
        below, _ = softmax_cross_entropy(network.forward(inputs), labels)
        network.parameters[i] = kept
        differences[i] = (above - below) / (2 * step)

    assert np.abs(gradients).max() > 0.05  # something to compare
    np.testing.assert_allclose(gradients, differences, rtol=1e-6, atol=1e-9)


def test_the_gradient_of_the_logits_is_the_finite_difference_of_the_loss() -> None:
    logits = np.random.default_rng(3).normal(0, 3, (6, 4))
    labels = np.array([0, 1, 2, 3, 0, 1], np.uint8)
    _, gradient = softmax_cross_entropy(logits.copy(), labels)
    for row, column in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[row, column] = 1e-6
        above, below = (softmax_cross_entropy(logits + sign * step, labels)[0] for sign in (1, -1))
        assert gradient[row, column] == pytest.approx((above - below) / 2e-6, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_a_dense_layer_gives_the_gradient_of_its_inputs_too(activation: str) -> None:
    network = make_network(activation, sizes=(5, 7, 4), dtype=np.float64)
    inputs, labels = make_batch(3, features=5, dtype=np.float64)
    _, gradient = softmax_cross_entropy(network.forward(inputs), labels)
    for layer in reversed(network.layers):
        gradient = layer.backward(gradient)
    for row, column in np.ndindex(inputs.shape):
        step = np.zeros_like(inputs)
        step[row, column] = 1e-6
        above, below = (softmax_cross_entropy(network.forward(inputs + sign * step), labels)[0] for sign in (1, -1))
        assert gradient[row, column] == pytest.approx((above - below) / 2e-6, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(np.float32, 1e-5, 1e-7), (np.float64, 1e-12, 1e-15)])
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_loss_and_gradients_are_those_of_torch_autograd(activation: str, dtype: Any, rtol: float, atol: float) -> None:
    require("torch")
    import torch

    sizes = (20, 16, 12, 4)
    network = make_network(activation, sizes=sizes, dtype=dtype)
    inputs, labels = make_batch(33, features=20, dtype=dtype)
    loss, _ = loss_and_gradients(network, inputs, labels)

    dense = [layer for layer in network.layers if isinstance(layer, Dense)]
    outputs = torch.tensor(inputs)
    weights = [
        (torch.tensor(one.weight, requires_grad=True), torch.tensor(one.bias, requires_grad=True)) for one in dense
    ]
    for i, (weight, bias) in enumerate(weights):
        outputs = outputs @ weight + bias
        if i < len(weights) - 1:
            outputs = torch.sigmoid(outputs) if activation == "sigmoid" else torch.relu(outputs)
    expected = torch.nn.functional.cross_entropy(outputs, torch.tensor(labels, dtype=torch.long))
    expected.backward()  # type: ignore[no-untyped-call]

    assert loss == pytest.approx(expected.item(), rel=rtol)
    for layer, (weight, bias) in zip(dense, weights, strict=True):
        assert weight.grad is not None
        assert bias.grad is not None
        np.testing.assert_allclose(layer.weight_gradient, weight.grad.numpy(), rtol=rtol, atol=atol)
        np.testing.assert_allclose(layer.bias_gradient, bias.grad.numpy(), rtol=rtol, atol=atol)


# Optimizers


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-5), (np.float64, 1e-10)])
@pytest.mark.parametrize("size", [7, BLOCK, 2 * BLOCK + 3])
@pytest.mark.parametrize("name", ["adam", "adam with other constants", "rmsprop", "sgd", "sgd with momentum"])
def test_fifty_steps_move_the_parameters_as_torch_does(name: str, size: int, dtype: Any, rtol: float) -> None:
    require("torch")
    import torch

    generator = np.random.default_rng(4)
    start: Array = generator.normal(size=size).astype(dtype)
    ours = start.copy()
    theirs = torch.tensor(start, requires_grad=True)
    optimizer: Optimizer
    expected: torch.optim.Optimizer
    if name == "adam":
        optimizer = Adam(ours, learning_rate=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-8)
        expected = torch.optim.Adam([theirs], lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    elif name == "adam with other constants":
        optimizer = Adam(ours, learning_rate=0.02, beta_1=0.8, beta_2=0.95, epsilon=1e-3)
        expected = torch.optim.Adam([theirs], lr=0.02, betas=(0.8, 0.95), eps=1e-3)
    elif name == "rmsprop":
        optimizer = RMSprop(ours, learning_rate=0.02, decay=0.9, epsilon=1e-3)
        expected = torch.optim.RMSprop([theirs], lr=0.02, alpha=0.9, eps=1e-3)
    elif name == "sgd":
        optimizer = SGD(ours, learning_rate=0.05)
        expected = torch.optim.SGD([theirs], lr=0.05)
    else:
        optimizer = SGD(ours, learning_rate=0.05, momentum=0.9)
        expected = torch.optim.SGD([theirs], lr=0.05, momentum=0.9)

    for _ in range(50):
        gradients: Array = (generator.normal(size=size) * 10.0 ** generator.integers(-4, 2)).astype(dtype)
        theirs.grad = torch.tensor(gradients)
        expected.step()
        optimizer.step(gradients)

    assert np.abs(ours - start).mean() > 1e-3  # they have moved
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=rtol, atol=rtol)


def test_adams_first_step_is_the_learning_rate_against_the_gradients_sign() -> None:
    parameters = np.zeros(3, np.float64)
    Adam(parameters, learning_rate=0.01, beta_1=0.9, beta_2=0.999, epsilon=0.0).step(np.array([1e-9, -3.0, 1e6]))
    np.testing.assert_allclose(parameters, [-0.01, 0.01, -0.01], rtol=1e-12)


def test_an_optimizer_moves_the_networks_own_parameters() -> None:
    network = make_network("sigmoid", sizes=(5, 7, 4), dtype=np.float32)
    inputs, labels = make_batch(40, features=5, dtype=np.float32)
    optimizer = Adam(network.parameters, learning_rate=0.02, beta_1=0.9, beta_2=0.999, epsilon=1e-8)
    losses = []
    for _ in range(300):
        loss, gradient = softmax_cross_entropy(network.forward(inputs), labels)
        network.backward(gradient)
        optimizer.step(network.gradients)
        losses.append(loss)
    assert losses[-1] < 0.3 * losses[0]


OPTIMIZERS: dict[str, Callable[[Array], Optimizer]] = {
    "adam": lambda parameters: Adam(parameters, learning_rate=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-8),
    "rmsprop": lambda parameters: RMSprop(parameters, learning_rate=1e-3, decay=0.9, epsilon=1e-7),
    "sgd with momentum": lambda parameters: SGD(parameters, learning_rate=1e-2, momentum=0.9),
}


def subnormals(optimizer: Optimizer) -> int:
    """How many of the optimizer's own numbers are subnormal, which processors compute with slowly."""
    arrays = [value for value in vars(optimizer).values() if isinstance(value, np.ndarray)]
    assert arrays
    return sum(int(((array != 0) & (np.abs(array) < np.finfo(array.dtype).tiny)).sum()) for array in arrays)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_averages_of_gradients_that_stay_0_do_not_stay_subnormal(name: str) -> None:
    parameters: Array = np.ones(500, np.float32)
    optimizer = OPTIMIZERS[name](parameters)
    size = 10.0 ** np.random.default_rng(9).uniform(-18.7, 0, 500)  # their squares are normal numbers
    optimizer.step(size.astype(np.float32))
    for step in range(2000):
        optimizer.step(np.zeros(500, np.float32))
        assert subnormals(optimizer) == 0 or step < FLUSH_EVERY


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_averages_are_looked_through_at_every_sixty_fourth_step_alone(name: str) -> None:
    optimizer = OPTIMIZERS[name](np.ones(2, np.float32))

    def smallest() -> float:
        averages = {name: value for name, value in vars(optimizer).items() if isinstance(value, np.ndarray)}
        del averages["_parameters"]
        return float(min(np.abs(average).min() for average in averages.values()))

    small = 1e-32 if name == "sgd with momentum" else 1e-16  # the others keep its square
    optimizer.step(np.array([1.0, small], np.float32))
    for _ in range(FLUSH_EVERY - 2):
        optimizer.step(np.array([0.0, small], np.float32))
        assert smallest() > 0
    optimizer.step(np.zeros(2, np.float32))
    assert smallest() == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_to_set_them_to_0_leaves_every_parameter_as_it_was(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> tuple[Array, int]:
        network = make_network("relu", sizes=(20, 16, 4), dtype=np.float32)
        optimizer = OPTIMIZERS[name](network.parameters)
        first = network.layers[0]
        assert isinstance(first, Dense)
        generator = np.random.default_rng(8)
        subnormal = 0
        for step in range(900):
            if step == 50:
                first.bias[:3] = -100  # these units are dead from here on
            inputs: Array = generator.uniform(-1, 1, (8, 20)).astype(np.float32)
            loss_and_gradients(network, inputs, generator.integers(0, 4, 8).astype(np.uint8))
            optimizer.step(network.gradients)
            subnormal = max(subnormal, subnormals(optimizer))
        return network.parameters, subnormal

    mended, none = trained()
    monkeypatch.setattr(optimizers, "NEGLIGIBLE", 0.0)
    unmended, some = trained()
    assert none == 0 < some
    np.testing.assert_array_equal(mended, unmended)


# Losses and activations


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_loss_is_exact_and_finite_for_logits_of_ten_thousand(dtype: Any) -> None:
    logits = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0], [-1e4, -1e4, -1e4]], dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right, gradient = softmax_cross_entropy(logits[:1], np.array([0]))
        assert right == 0.0
        np.testing.assert_array_equal(gradient, [[0, 0, 0]])
        wrong, gradient = softmax_cross_entropy(logits[1:2], np.array([1]))
        assert wrong == 2e4
        np.testing.assert_array_equal(gradient, [[1, -1, 0]])
        even, gradient = softmax_cross_entropy(logits[2:], np.array([2]))
        assert even == pytest.approx(np.log(3), rel=1e-6)
        np.testing.assert_allclose(gradient, [[1 / 3, 1 / 3, -2 / 3]], rtol=1e-6)


def test_the_loss_is_a_mean_over_the_batch_and_leaves_the_logits_alone() -> None:
    logits = np.random.default_rng(5).normal(size=(4, 3))
    labels = np.array([0, 1, 2, 1])
    before = logits.copy()
    whole, gradient = softmax_cross_entropy(logits, labels)
    np.testing.assert_array_equal(logits, before)
    single = [softmax_cross_entropy(logits[i : i + 1], labels[i : i + 1]) for i in range(4)]
    assert whole == pytest.approx(np.mean([loss for loss, _ in single]), rel=1e-14)
    np.testing.assert_allclose(gradient, np.concatenate([one for _, one in single]) / 4, rtol=1e-13)


def test_targets_that_are_one_digit_each_give_the_loss_of_labels() -> None:
    generator = np.random.default_rng(3)
    logits, labels = generator.normal(0, 3, (6, 4)), np.array([0, 3, 2, 2, 1, 0])
    hard, gradient = softmax_cross_entropy(logits.copy(), labels)
    soft, of_targets = soft_cross_entropy(logits, np.eye(4)[labels])
    assert soft == pytest.approx(hard, rel=1e-12)
    np.testing.assert_allclose(of_targets, gradient, rtol=0, atol=1e-15)


def test_the_gradient_of_a_loss_with_targets_is_its_slope() -> None:
    generator = np.random.default_rng(4)
    logits, targets = generator.normal(0, 3, (5, 4)), generator.dirichlet(np.ones(4), 5)
    _, gradient = soft_cross_entropy(logits, targets)
    for place in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[place] = 1e-6
        above, below = (soft_cross_entropy(logits + sign * step, targets)[0] for sign in (1, -1))
        assert gradient[place] == pytest.approx((above - below) / 2e-6, abs=1e-8)


def test_where_every_class_is_to_be_as_probable_the_loss_is_least_there() -> None:
    even = np.full((1, 4), 0.25)
    loss, gradient = soft_cross_entropy(np.full((1, 4), 1000.0), even)
    assert loss == pytest.approx(np.log(4))
    np.testing.assert_array_equal(gradient, 0)
    assert soft_cross_entropy(np.array([[2.0, 0, 0, 0]]), even)[0] > loss


def test_a_row_of_the_loss_does_not_see_the_others_however_far_they_lie() -> None:
    logits = np.array([[1e4, 1e4 - 1], [-1e4, -1e4 - 1], [0, -1]], np.float32)
    loss, gradient = softmax_cross_entropy(logits, np.array([0, 0, 0]))
    small = 1 / (1 + float(np.e))
    assert loss == pytest.approx(-np.log(1 - small), rel=1e-5)
    np.testing.assert_allclose(gradient, [[-small / 3, small / 3]] * 3, rtol=1e-5)


def test_softmax_sums_to_one_and_survives_ten_thousand() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, -1e4], [0.5, 1.5]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probabilities = softmax(logits)
    e = float(np.e)
    np.testing.assert_allclose(probabilities, [[1.0, 0.0], [0.5, 0.5], [1 / (1 + e), e / (1 + e)]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_survives_ten_thousand_without_a_warning(dtype: Any) -> None:
    inputs = np.array([-1e4, -3.0, 0.0, 3.0, 1e4], dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = sigmoid(inputs)
    middle = 1 / (1 + float(np.exp(-3.0)))
    np.testing.assert_allclose(outputs, [0.0, 1 - middle, 0.5, middle, 1.0], rtol=1e-6, atol=1e-9)
    assert outputs.dtype == dtype


@pytest.mark.parametrize("function", [sigmoid, relu])
def test_an_activation_writes_where_it_is_told_to(function: Any) -> None:
    inputs = np.array([-1.0, 2.0], np.float32)
    expected = function(inputs)
    assert not np.shares_memory(expected, inputs)
    assert function(inputs, out=inputs) is inputs
    np.testing.assert_array_equal(inputs, expected)


def test_relu_keeps_the_positive_and_its_gradient_at_zero_is_zero() -> None:
    np.testing.assert_array_equal(relu(np.array([-2.0, 0.0, 3.0])), [0, 0, 3])
    layer = Relu()
    layer.forward(np.array([[-2.0, 0.0, 3.0]]))
    np.testing.assert_array_equal(layer.backward(np.array([[5.0, 6.0, 7.0]])), [[0, 0, 7]])


# Initialisers


@pytest.mark.parametrize(
    ("draw", "limit"),
    [
        (initialisers.glorot_uniform, (6 / (784 + 128)) ** 0.5),
        (initialisers.he_uniform, (6 / 784) ** 0.5),
        (initialisers.fan_in_uniform, 784**-0.5),
    ],
)
def test_an_initialiser_fills_its_bounds_evenly(draw: Any, limit: float) -> None:
    weights = draw(np.random.default_rng(6), (784, 128), fan_in=784, fan_out=128)
    assert weights.shape == (784, 128)
    assert weights.dtype == np.float32
    assert 0.999 * limit < weights.max() <= np.float32(limit)
    assert -np.float32(limit) <= weights.min() < -0.999 * limit
    assert weights.mean() == pytest.approx(0, abs=0.01 * limit)  # 5 standard errors
    assert weights.var() == pytest.approx(limit**2 / 3, rel=0.01)


@pytest.mark.parametrize("draw", [initialisers.glorot_uniform, initialisers.he_uniform, initialisers.fan_in_uniform])
def test_an_initialiser_draws_by_its_generator_alone(draw: Any) -> None:
    def drawn(seed: int) -> bytes:
        weights = draw(np.random.default_rng(seed), (5, 3), fan_in=5, fan_out=3, dtype=np.float64)
        assert (weights.dtype, weights.shape) == (np.float64, (5, 3))
        return bytes(weights.tobytes())

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


# Buffers and views


def test_a_buffer_keeps_its_memory_until_more_or_another_type_is_asked_for() -> None:
    buffer = Buffer()
    first = buffer.shaped((2, 3), np.float32)
    assert first.shape == (2, 3)
    assert first.dtype == np.float32
    first[:] = 7
    again, part = buffer.shaped((3, 2), np.float32), buffer.shaped((4,), np.float32)
    assert np.shares_memory(first, again)
    assert np.shares_memory(first, part)
    np.testing.assert_array_equal(part, np.full(4, 7, np.float32))
    assert not np.shares_memory(first, buffer.shaped((7,), np.float32))
    assert buffer.shaped((7,), np.float64).dtype == np.float64


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_a_small_batch_after_a_big_one_is_answered_as_if_alone(activation: str) -> None:
    sizes = (5, 7, 6, 4)
    network = make_network(activation, sizes=sizes, dtype=np.float32)
    for rows, seed in [(64, 1), (7, 2), (1, 3), (65, 4), (64, 5)]:
        inputs, labels = make_batch(rows, features=5, dtype=np.float32, seed=seed)
        alone = make_network(activation, sizes=sizes, dtype=np.float32)
        loss, gradients = loss_and_gradients(network, inputs, labels)
        expected_loss, expected = loss_and_gradients(alone, inputs, labels)
        assert loss == expected_loss
        np.testing.assert_array_equal(gradients, expected)
        assert network.forward(inputs).shape == (rows, 4)


def test_a_forward_pass_leaves_the_images_alone() -> None:
    network = make_network("relu", sizes=(5, 7, 4), dtype=np.float32)
    inputs, labels = make_batch(9, features=5, dtype=np.float32)
    before = inputs.copy()
    loss_and_gradients(network, inputs, labels)
    np.testing.assert_array_equal(inputs, before)


def test_parameters_and_gradients_are_one_flat_vector_that_the_layers_see() -> None:
    first, second = Dense(3, 2), Dense(2, 4)
    network = Network([first, Sigmoid(), second])
    assert network.parameters.shape == network.gradients.shape == (3 * 2 + 2 + 2 * 4 + 4,)
    network.parameters[:] = np.arange(20)
    np.testing.assert_array_equal(first.weight, [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(first.bias, [6, 7])
    np.testing.assert_array_equal(second.weight, np.arange(8, 16).reshape(2, 4))
    np.testing.assert_array_equal(second.bias, [16, 17, 18, 19])
    second.bias[0] = -1
    assert network.parameters[16] == -1
    for view in (first.weight_gradient, first.bias_gradient, second.weight_gradient, second.bias_gradient):
        assert np.shares_memory(view, network.gradients)


def test_a_network_computes_what_its_layers_say() -> None:
    network = make_network("sigmoid", sizes=(3, 2, 4), dtype=np.float64)
    first, _, second = network.layers
    assert isinstance(first, Dense)
    assert isinstance(second, Dense)
    inputs = np.random.default_rng(7).normal(size=(5, 3))
    hidden = 1 / (1 + np.exp(-(inputs @ first.weight + first.bias)))
    np.testing.assert_allclose(network.forward(inputs), hidden @ second.weight + second.bias, rtol=1e-12)


def test_a_scheduled_optimizer_moves_by_each_step_s_own_rate() -> None:
    parameters = np.zeros(2)
    optimizer = Scheduled(SGD(parameters, learning_rate=9.0), [1.0, 0.5])
    assert optimizer.learning_rate == 9.0
    for rate, moved in ((1.0, -1.0), (0.5, -1.5)):
        optimizer.step(np.ones(2))
        assert optimizer.learning_rate == rate
        np.testing.assert_array_equal(parameters, [moved, moved])


def test_averages_below_what_is_negligible_become_0() -> None:
    averages = np.array([NEGLIGIBLE, -NEGLIGIBLE, 0.9 * NEGLIGIBLE, -0.9 * NEGLIGIBLE, 1.0])
    flush(averages)
    np.testing.assert_array_equal(averages, [NEGLIGIBLE, -NEGLIGIBLE, 0, 0, 1])
