"""A network as data: what follows from its layers, what is refused, and the way through JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from digits.errors import ImpossibleRecipe
from digits.network import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    Network,
    Relu,
    Sigmoid,
    arrays,
    dense_network,
    from_data,
    in_words,
    network_of,
    parameters,
    shapes,
    to_data,
)

CONV: Network = (
    Conv(filters=24, kernel=5, padding=2, bias=False), MaxPool(2), BatchNorm(momentum=0.9, epsilon=1e-5), Relu(),
    Conv(filters=48, kernel=3, padding=0, bias=True), Sigmoid(), MaxPool(5), Dropout(0.25), Dense(20), Relu(), Dense(10),
)  # fmt: skip


def test_shapes_follow_from_the_layers() -> None:
    assert shapes(CONV) == [
        (1, 28, 28), (24, 28, 28), (24, 14, 14), (24, 14, 14), (24, 14, 14), (48, 12, 12), (48, 12, 12), (48, 2, 2),
        (48, 2, 2), (20,), (20,), (10,),
    ]  # fmt: skip
    assert shapes(dense_network((128, 20), "relu")) == [(1, 28, 28), (128,), (128,), (20,), (20,), (10,)]


def test_arrays_and_parameters_follow_from_the_layers() -> None:
    assert arrays(CONV[0], (1, 28, 28)) == {"weight": (24, 1, 5, 5)}
    assert arrays(CONV[4], (24, 14, 14)) == {"weight": (48, 24, 3, 3), "bias": (48,)}
    assert arrays(CONV[2], (24, 14, 14)) == dict.fromkeys(("scale", "shift", "mean", "variance"), (24,))
    assert arrays(CONV[8], (48, 2, 2)) == {"weight": (192, 20), "bias": (20,)}
    assert arrays(CONV[1], (24, 28, 28)) == {}
    assert parameters(CONV) == 24 * 25 + 2 * 24 + 48 * 24 * 9 + 48 + 193 * 20 + 21 * 10  # running ones not counted
    assert parameters(dense_network((128,), "sigmoid")) == 785 * 128 + 129 * 10


def test_a_network_is_written_as_papers_write_it() -> None:
    assert in_words(dense_network((128, 20), "relu")) == "784-128 relu-20 relu-10"
    assert in_words(dense_network((128,), "sigmoid", 0.5)) == "784-128 sigmoid-dropout 0.5-10"
    assert in_words(CONV) == "24C5-pool-BN-relu-48C3-sigmoid-pool-dropout 0.25-20 relu-10"


@pytest.mark.parametrize("network", [CONV, dense_network((128,), "relu", 0.5)])
def test_a_network_survives_the_way_through_json(network: Network) -> None:
    data = json.loads(json.dumps(to_data(network)))
    assert from_data(data) == network
    assert network_of({"network": data}) == network


def test_a_recipe_from_before_layers_were_data_gives_its_network() -> None:
    old = {"hidden": [128, 20], "activation": "relu", "dropout": 0.5}
    assert network_of(old) == (Dense(128), Relu(), Dropout(0.5), Dense(20), Relu(), Dropout(0.5), Dense(10))
    assert network_of({**old, "dropout": 0.0}) == (Dense(128), Relu(), Dense(20), Relu(), Dense(10))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ((), "must end with Dense(10)"),
        ((Dense(128), Relu()), "must end with Dense(10)"),
        ((Dense(11),), "must end with Dense(10)"),
        ((Dense(10), Relu()), "must end with Dense(10)"),
        ((Dense(0), Dense(10)), "Dense(units=0) needs at least 1 unit"),
        ((Conv(filters=0, kernel=3, padding=0, bias=True), Dense(10)), "filters and kernel of at least 1"),
        ((Conv(filters=1, kernel=3, padding=-1, bias=True), Dense(10)), "padding of 0"),
        ((Conv(filters=1, kernel=29, padding=0, bias=True), Dense(10)), "images larger than 28x28"),
        ((MaxPool(29), Dense(10)), "images larger than 28x28"),
        ((MaxPool(0), Dense(10)), "a size of at least 1"),
        ((Dense(20), MaxPool(2), Dense(10)), "images; it gets 20 features"),
        ((Dense(20), Conv(filters=1, kernel=1, padding=0, bias=True), Dense(10)), "images; it gets 20 features"),
        ((Dropout(1.0), Dense(10)), "a rate of at least 0 and less than 1"),
        ((Dropout(-0.1), Dense(10)), "a rate of at least 0 and less than 1"),
        ((BatchNorm(momentum=1.0, epsilon=1e-5), Dense(10)), "a momentum of at least 0 and less than 1"),
        ((BatchNorm(momentum=0.9, epsilon=0.0), Dense(10)), "an epsilon greater than 0"),
    ],
)
def test_an_impossible_network_is_refused_in_a_sentence(network: Network, expected: str) -> None:
    with pytest.raises(ImpossibleRecipe) as refused:
        shapes(network)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    "layer", [{"layer": "pool"}, {}, {"layer": "dense"}, {"layer": "dense", "units": 3, "bias": False}, {"units": 3}]
)
def test_a_layer_that_is_none_of_ours_is_refused(layer: dict[str, Any]) -> None:
    with pytest.raises(ImpossibleRecipe, match="A layer is one of dense, conv, max_pool"):
        from_data([layer])
