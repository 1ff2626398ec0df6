"""Values that an operator does not take are an error of the run, as in onnxruntime, and never touch foreign memory."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from lepton_compile.codegen import generate
from lepton_compile.errors import LeptonError, ShapeError, UnsupportedOperatorError
from lepton_compile.kernels.kernel import Machine
from lepton_compile.lowering import lower
from lepton_compile.lowering.builder import Builder
from lepton_compile.model import import_model
from lepton_compile.runtime.loader import CompiledModel


def compiled(model, host):
    library = generate(lower(import_model(model.proto()), host, "model"), host)
    return CompiledModel(library.folder, keep=library)


def refused(model, host, problem, **changed):
    """The model runs on its own inputs, not on the changed ones, and then on its own again."""
    whole = compiled(model, host)
    before = whole.run(model.inputs)
    with pytest.raises(LeptonError, match=problem):
        whole.run({**model.inputs, **changed})
    for name, value in whole.run(model.inputs).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("index", [5, -6, 10**9])
def test_gather_wants_an_index_of_the_axis(index, model, host):
    picked = model.given(np.array([[0, 4], [-5, 2]]))
    model.output(model.node("Gather", model.input(3, 5), picked, axis=1, name="y"))
    refused(model, host, "Gather 'node_y': an index is out of range", **{picked: np.array([[0, 1], [index, 2]])})


@pytest.mark.parametrize("indices", [[[1, 5], [0, 0]], [[0, 0], [-4, 1]]])
def test_gather_nd_wants_indices_of_its_axes(indices, model, host):
    picked = model.given(np.array([[2, 4], [-3, -5]]))
    model.output(model.node("GatherND", model.input(3, 5), picked, name="y"))
    refused(model, host, "GatherND 'node_y': an index is out of range", **{picked: np.array(indices)})


@pytest.mark.parametrize("operator", ["GatherElements", "ScatterElements"])
def test_elements_want_an_index_of_the_axis(operator, model, host):
    data, picked = model.input(3, 5), model.given(np.array([[0, 2, -1, 1, 0]]))
    updates = (model.input(1, 5),) if operator == "ScatterElements" else ()
    model.output(model.node(operator, data, picked, *updates, axis=0, name="y"))
    refused(model, host, "an index is out of range", **{picked: np.array([[0, 3, -1, 1, 0]])})


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
@pytest.mark.parametrize("operator", ["Div", "Mod"])
def test_integers_are_not_divided_by_zero(operator, dtype, model, host):
    divisor = model.given(np.array([1, 2, 3], dtype))
    model.output(model.node(operator, model.input(4, 3, dtype=dtype), divisor, name="y"))
    refused(model, host, f"{operator} 'node_y': division by zero", **{divisor: np.array([1, 0, 3], dtype)})


def test_the_least_integer_can_be_divided_by_minus_one(model, host):
    least = np.iinfo(np.int32).min
    a, b = model.given(np.array([least, least, 7], np.int32)), model.given(np.array([-1, 1, -1], np.int32))
    model.output(model.node("Div", a, b, name="quotient"), model.node("Mod", a, b, name="remainder"))
    answers = compiled(model, host).run(model.inputs)
    assert answers["quotient"].tolist() == [least, least, -7]
    assert answers["remainder"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("length", [-1, 4, 2**20])
@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_want_lengths_of_the_steps(operator, length, model, host):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    lengths = model.given(np.array([2, 3], np.int32))
    weights = (model.weight(1, gates * 4, 5), model.weight(1, gates * 4, 4))
    model.output(model.node(operator, model.input(3, 2, 5), *weights, "", lengths, hidden_size=4, name="y"))
    refused(model, host, "length of a sequence is not from 0 to 3", **{lengths: np.array([1, length], np.int32)})


@pytest.mark.parametrize("length", [-1, 4, 2**28])
def test_reverse_sequence_wants_lengths_of_the_steps(length, model, host):
    lengths = model.given(np.array([2, 3]))
    model.output(model.node("ReverseSequence", model.input(2, 3), lengths, time_axis=1, batch_axis=0, name="y"))
    refused(model, host, "length of a sequence is not from 0 to 3", **{lengths: np.array([1, length])})


@pytest.mark.parametrize("operator", ["Div", "Mod"])
@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_padding_lanes_are_divided_without_a_trap(dtype, operator, model, agree):
    """Three channels in blocks of more: the lanes past the third hold zeros."""
    channels = model.node("Conv", model.input(1, 3, 4, 4), model.weight(3, 3, 1, 1), model.constant([40, 50, 60]))
    whole = model.node("Cast", channels, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    by_constants = model.node(operator, whole, model.constant([[[2]], [[3]], [[5]]], dtype))
    model.output(by_constants, model.node(operator, model.constant([100], dtype), whole))
    agree(model)


def test_padding_lanes_are_no_indices(model, agree):
    """Where the channels there are give 0, the lanes past them give an index far outside."""
    channels = model.node(
        "Conv", model.input(1, 3, 4, 4), model.constant(np.zeros((3, 3, 1, 1))), model.constant([5] * 3)
    )
    index = model.node("Cast", model.node("Sub", model.constant([5]), model.node("Relu", channels)), to=7)
    far = model.node("Mul", index, model.constant(2**26, "int64"))
    model.output(model.node("Gather", model.weight(4), far), model.node("GatherElements", channels, far, axis=2))
    agree(model)


def test_floats_are_divided_by_zero(model, agree):
    model.output(model.node("Div", model.input(3), model.given(np.array([0, -0.0, 2], np.float32))))
    agree(model)


def test_a_constant_index_out_of_range_is_found_at_once(model, host):
    model.output(model.node("Gather", model.input(3, 5), model.constant([7], "int64"), axis=1, name="y"))
    with pytest.raises(UnsupportedOperatorError, match="an index is out of range for an axis of 5"):
        compiled(model, host)


def test_a_requirement_inside_a_branch_counts_only_when_the_branch_is_taken(model, host):
    x, picked, wanted = model.input(4, 2), model.given(np.array([9])), model.given(np.array(False))
    then, otherwise = type(model)(model), type(model)(model)
    then.output(then.node("Gather", x, picked))
    otherwise.output(otherwise.node("Gather", x, otherwise.constant([1], "int64")))
    model.output(model.branch(wanted, then, otherwise))
    whole = compiled(model, host)
    (answer,) = whole.run(model.inputs).values()
    np.testing.assert_array_equal(answer, model.inputs[x][[1]])
    with pytest.raises(LeptonError, match="an index is out of range"):
        whole.run({**model.inputs, wanted: np.array(True)})


def test_bfloat16_is_rounded_to_nearest_even(model, host):
    x = model.given(np.array([0.12573, 1.00390625, 1.01171875, np.inf, np.nan, -3e38, 1e-40], np.float32))
    half = model.node("Cast", x, to=16)
    model.output(model.node("Cast", half, to=1, name="y"))
    bits = model.inputs[x].view(np.uint32)
    expected = (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).astype(np.uint32).view(np.float32)
    expected[4] = np.nan
    np.testing.assert_array_equal(compiled(model, host).run(model.inputs)["y"], expected)


@pytest.mark.parametrize("length", [100, 400])
def test_long_chains(length, model, agree):
    value, half = model.input(4, 5), model.constant(0.5)
    for number in range(length):
        value = model.node("Tanh", value) if number % 2 else model.node("Mul", value, half)
    model.output(value)
    agree(model)


def test_sizes_beyond_32_bits_are_refused(host):
    import onnx

    shape = [1, 2**16, 2**15]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(ShapeError, match=r"tensor 'x' .* has 2\^31 elements or more"):
        lower(import_model(proto), host, "model")


def test_sizes_beyond_32_bits_in_blocks_are_refused():
    builder = Builder("model", Machine(lanes=16, registers=32))
    with pytest.raises(ShapeError, match=r"tensor 'image' .* has 2\^31 elements or more in blocks of 16 channels"):
        builder.buffer((1, 3, 12000, 12000), "float32", builder.blocked, tensor="image")
