"""What the counts of the trainers' source count."""

from __future__ import annotations

from comparison.study.usability import count, usabilities

SOURCE = '''
"""A docstring."""

import torch
from torch import nn as layers
from json import dumps


def build(wide: bool) -> object:
    """Another."""
    model = layers.Sequential(  # one logical line on three
        layers.Linear(1, 2)
    )
    if wide:
        model.append(layers.Linear(2, 2))
    for parameter in model.parameters():
        dumps([torch.nn.functional.relu(p) for p in parameter])
    return model
'''


def test_statements_names_methods_and_branches_are_counted_and_nothing_else() -> None:
    counted = count("torch", SOURCE, "build")
    assert counted.logical_lines == 7  # def, model, if, append, for, dumps, return
    assert counted.framework_names == ("torch.nn.Linear", "torch.nn.Sequential", "torch.nn.functional.relu")
    assert counted.methods == ("append", "parameters")
    assert counted.branches == 3  # if, for, and the comprehension's for
    assert counted.exhibit.startswith("def build(wide: bool) -> object:")
    assert counted.exhibit.endswith("return model")


def test_the_three_trainers_are_counted_from_their_source() -> None:
    counts = {counted.framework: counted for counted in usabilities()}
    assert list(counts) == ["numpy", "torch", "keras"]
    assert "torch.optim.Adam" in counts["torch"].framework_names
    assert "keras.layers.Dense" in counts["keras"].framework_names
    assert "scratch.layers.Dense" in counts["numpy"].framework_names
    assert "fit" in counts["keras"].methods
    assert "backward" in counts["torch"].methods
    assert "loss.backward()" in counts["torch"].exhibit
    assert "model.backward(gradient)" in counts["numpy"].exhibit
    assert "model.compile(" in counts["keras"].exhibit
    assert (counts["numpy"].installed_mb or 0) > 10
    assert all(counted.logical_lines > 50 and counted.branches > 3 for counted in counts.values())
