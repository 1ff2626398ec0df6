"""If nodes, against onnxruntime, both ways."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def branch(model):
    """A new branch of the model."""
    return lambda: type(model)(model)


CONDITIONS = pytest.mark.parametrize("condition", [True, False])


@CONDITIONS
def test_branches_read_what_is_outside(condition: bool, model, branch, agree) -> None:
    x = model.input(1, 20, 6, 6)
    blocked = model.node("Conv", x, model.weight(20, 20, 3, 3), pads=[1, 1, 1, 1])
    weight = model.weight(20, 20, 1, 1)
    then, otherwise = branch(), branch()
    then.output(then.node("Relu", then.node("Conv", blocked, weight)), then.node("Add", x, then.weight(20, 1, 1)))
    otherwise.output(otherwise.node("Neg", blocked), otherwise.node("Conv", blocked, weight))
    first, second = model.branch(model.given(np.array(condition)), then, otherwise)
    model.output(first, model.node("MaxPool", second, kernel_shape=[2, 2]), model.node("Sigmoid", blocked))
    agree(model)


@CONDITIONS
def test_what_a_branch_converts_is_not_there_behind_it(condition: bool, model, branch, agree) -> None:
    """Both branches, and what comes after, need the same tensor in a layout that it does not have yet."""
    blocked = model.node("Conv", model.input(2, 5, 6, 6), model.weight(21, 5, 3, 3))
    flat = model.constant([2, -1], "int64")
    then, otherwise = branch(), branch()
    then.output(then.node("MatMul", then.node("Reshape", blocked, flat), then.weight(336, 3)))
    otherwise.output(otherwise.constant(np.arange(6).reshape(2, 3)))
    chosen = model.branch(model.given(np.array([condition])), then, otherwise)
    model.output(
        model.node("Add", chosen, model.node("MatMul", model.node("Reshape", blocked, flat), model.weight(336, 3)))
    )
    agree(model)


@CONDITIONS
def test_branches_that_compute_nothing(condition: bool, model, branch, agree) -> None:
    """They give what is outside, an input, or a constant as it is."""
    x = model.input(2, 5)
    doubled = model.node("Add", x, x)
    then, otherwise = branch(), branch()
    then.output(then.node("Identity", doubled), then.node("Identity", x))
    otherwise.output(otherwise.node("Identity", x), otherwise.constant(np.ones((2, 5))))
    first, second = model.branch(model.given(np.array(condition)), then, otherwise)
    model.output(first, second, model.node("Mul", first, second))
    agree(model)


@CONDITIONS
@pytest.mark.parametrize("inner", [True, False])
def test_nested(condition: bool, inner: bool, model, branch, agree) -> None:
    x, within = model.input(3, 4), model.given(np.array(inner))
    hidden = model.node("Tanh", x)
    then, otherwise = branch(), branch()
    deep, deeper = branch(), branch()
    local = then.node("Exp", hidden)
    deep.output(deep.node("MatMul", local, deep.weight(4, 4)))
    deeper.output(deeper.node("Add", hidden, local))
    then.output(then.node("Neg", then.branch(within, deep, deeper)))
    otherwise.output(otherwise.node("Relu", hidden))
    model.output(model.node("Add", model.branch(model.given(np.array(condition)), then, otherwise), x))
    agree(model)


@CONDITIONS
def test_a_condition_that_is_computed(condition: bool, model, branch, agree) -> None:
    x = model.input(3, 4)
    total = model.node("ReduceSum", x, keepdims=0)
    least = -1e6 if condition else 1e6
    then, otherwise = branch(), branch()
    then.output(then.node("Softmax", x))
    otherwise.output(otherwise.node("LogSoftmax", x))
    model.output(model.branch(model.node("Greater", total, model.constant(least)), then, otherwise))
    agree(model)
