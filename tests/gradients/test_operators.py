"""Operators in PyTorch against onnxruntime: one sample, and several at once through vmap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lowering.conftest import Model, onnxruntimes

from lepton_compile.errors import UnsupportedOperatorError
from lepton_compile.model import Graph

torch = pytest.importorskip("torch")
network = pytest.importorskip("lepton_compile.gradients.network")


def check(model: Model, opset: int = 21, tolerance: float = 2e-5) -> None:
    """Every output is onnxruntime's, of the model's own inputs and of others beside them."""
    proto = model.proto(opset)
    graph = Graph.from_model(proto)
    graph.infer_shapes()
    made = network.Network(graph)
    # Integers are places and truth values, of which others need not be valid.
    others = {
        name: np.array(np.flip(value)) if value.dtype.kind == "f" else value for name, value in model.inputs.items()
    }
    feeds = [dict(model.inputs), others]
    with torch.no_grad():
        single = made({name: torch.from_numpy(np.array(value)) for name, value in feeds[0].items()})
        together = torch.func.vmap(made)(
            {name: torch.from_numpy(np.stack([feed[name] for feed in feeds])) for name in feeds[0]}
        )
    for place, feed in enumerate(feeds):
        for name, wanted in onnxruntimes(proto, feed).items():
            answers = [together[name][place]] + ([single[name]] if place == 0 else [])
            for answer in answers:
                got = answer.numpy()
                assert got.dtype == wanted.dtype and got.shape == wanted.shape, (got.dtype, got.shape)
                if wanted.dtype.kind == "f":
                    scale = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-6))
                    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * scale)
                else:
                    np.testing.assert_array_equal(got, wanted)


def one(
    op_type: str, *inputs: Any, outputs: int = 1, opset: int = 21, tolerance: float = 2e-5, **attributes: Any
) -> None:
    """Check a node. Floats are given at run time, integers are constants, "" is left out."""
    model = Model()
    names = []
    for value in inputs:
        if isinstance(value, str):
            names.append(value)
        elif value.dtype.kind in "fb":
            names.append(model.given(value))
        else:
            names.append(model.constant(value, str(value.dtype)))
    made = model.node(op_type, *names, outputs=outputs, **attributes)
    model.output(*([made] if outputs == 1 else made))
    check(model, opset, tolerance)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


X = floats(2, 3, 6)
UNARY = "Abs Atan Asinh Ceil Cos Cosh Elu Celu Selu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsNaN LeakyRelu "
UNARY += "Mish Neg Reciprocal Relu Round Sigmoid Sign Sin Sinh Softplus Softsign Tan Tanh ThresholdedRelu"


@pytest.mark.parametrize("op_type", UNARY.split())
def test_of_one_tensor(op_type: str) -> None:
    one(op_type, X)


@pytest.mark.parametrize("op_type", ["Acos", "Acosh", "Asin", "Atanh", "Log", "Sqrt"])
def test_where_they_are_defined(op_type: str) -> None:
    one(op_type, np.abs(np.tanh(X)) + (1 if op_type == "Acosh" else 0))


BINARY = "Add Sub Mul Div Max Min Sum Mean Equal Greater GreaterOrEqual Less LessOrEqual"


@pytest.mark.parametrize("op_type", BINARY.split())
@pytest.mark.parametrize("other", [(3, 6), (2, 3, 6), (2, 1, 1), ()], ids=str)
def test_of_two_tensors(op_type: str, other: tuple[int, ...]) -> None:
    one(op_type, X, floats(*other, seed=1))


@pytest.mark.parametrize("op_type", ["And", "Or", "Xor"])
def test_logic(op_type: str) -> None:
    one(op_type, X > 0, floats(3, 6) > 0)
    one("Not", X > 0)
    one("Where", X > 0, X, floats(6))


def test_of_two_tensors_and_an_attribute() -> None:
    one("Pow", np.abs(X), floats(6))
    one("Mod", X, floats(6), fmod=1)
    one("PRelu", X, floats(3, 1))
    one("LeakyRelu", X, alpha=0.3)
    one("Elu", X, alpha=0.3)
    one("Gelu", X, approximate="tanh")
    one("HardSigmoid", X, alpha=0.4, beta=0.1)
    one("Cast", X, to=7)
    one("Cast", X > 0, to=1)
    one("Dropout", X, outputs=2)
    one("Clip", X, np.array(-0.5, np.float32), np.array(0.25, np.float32))
    one("Clip", X, "", np.array(0.25, np.float32))


@pytest.mark.parametrize(("numerator", "denominator"), [(-7, 2), (7, -2), (6, 3)])
def test_integers_are_divided_towards_zero(numerator: int, denominator: int) -> None:
    model = Model()
    model.output(model.node("Div", model.given(integers(numerator)), model.given(integers(denominator))))
    check(model)


def test_movement() -> None:
    one("Concat", X, floats(2, 5, 6), axis=-2)
    one("Split", X, integers(1, 3, 2), outputs=3, axis=2)
    one("Split", X, outputs=3, axis=1, num_outputs=3)
    one("Slice", X, integers(1, -1), integers(9, -7), integers(1, 2), integers(1, -2))
    one("Slice", X, integers(-1), integers(-(2**62)), integers(2), integers(-1))
    one("Slice", X, integers(2, 1), integers(1, 3))
    one("Gather", X, integers(2, -1, 0), axis=1)
    one("Gather", X, np.array([[0, 5], [1, 1]]), axis=-1)
    one("GatherElements", X, np.array([[[0, -1, 2, 1, 1, 0]]] * 2), axis=1)
    one("Tile", X, integers(1, 2, 3))
    one("Transpose", X, perm=[2, 0, 1])
    one("Transpose", X)
    one("Trilu", X, upper=0)
    one("Trilu", X, np.array(1))
    one("Expand", floats(3, 1), integers(2, 1, 4))
    one("DepthToSpace", floats(2, 8, 3, 2), blocksize=2)
    one("DepthToSpace", floats(2, 8, 3, 2), blocksize=2, mode="CRD")
    one("SpaceToDepth", floats(2, 3, 4, 6), blocksize=2)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pad(mode: str) -> None:
    one("Pad", X, integers(0, 1, 4, 0, 0, 2), mode=mode)
    one("Pad", X, integers(1, -2), "", integers(2), mode=mode)
    one("Pad", X, integers(1, 2), np.array(3.0, np.float32), integers(1)) if mode == "constant" else None


def test_shapes() -> None:
    one("Reshape", X, integers(0, -1, 2))
    one("Flatten", X, axis=2)
    one("Squeeze", floats(1, 3, 1))
    one("Unsqueeze", X, integers(0, -1))
    one("Shape", X, start=1)
    one("Size", X)
    model = Model()
    filled = model.node("ConstantOfShape", model.constant((3, 6), "int64"))
    counted = model.node("Range", *(model.constant(each) for each in (2.0, 7.0, 0.9)))
    model.output(model.node("Add", model.node("Add", model.given(X), filled), counted))
    check(model)
    one("EyeLike", floats(3, 4), k=1)


def test_products() -> None:
    one("MatMul", floats(2, 1, 4, 5), floats(3, 5, 6))
    one("MatMul", floats(5), floats(3, 5, 6))
    one("Gemm", floats(5, 4), floats(6, 5), floats(6), transA=1, transB=1, alpha=0.5, beta=2.0)
    one("Gemm", floats(4, 5), floats(5, 6))
    one("Einsum", floats(2, 3, 4), floats(2, 4, 5), equation="bij,bjk->bik")


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.tuples(*[st.integers(1, 3)] * 3, *[st.integers(0, 2)] * 2, st.integers(3, 9)), min_size=1, max_size=3),
    st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
)
@settings(max_examples=60, deadline=None)
def test_convolutions(groups: int, width: int, axes: list[tuple[int, ...]], automatic: str) -> None:
    taps, strides, dilations, before, after, sizes = (list(each) for each in zip(*axes, strict=True))
    assume(all(n >= (k - 1) * d + 1 for n, k, d in zip(sizes, taps, dilations, strict=True)))
    assume(automatic in ("NOTSET", "VALID") or all(d == 1 for d in dilations))
    window = {"strides": strides, "dilations": dilations, "group": groups}
    window |= {"pads": before + after} if automatic == "NOTSET" else {"auto_pad": automatic}
    x = floats(2, 2 * groups, *sizes)
    one("Conv", x, floats(width * groups, 2, *taps), floats(width * groups), **window)


@given(
    st.integers(1, 2),
    st.lists(st.tuples(*[st.integers(1, 3)] * 3, *[st.integers(0, 1)] * 2, st.integers(3, 6)), min_size=1, max_size=2),
    st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", "extra"]),
)
@settings(max_examples=60, deadline=None)
def test_transposed_convolutions(groups: int, axes: list[tuple[int, ...]], automatic: str) -> None:
    taps, strides, dilations, before, after, sizes = (list(each) for each in zip(*axes, strict=True))
    window: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": groups}
    if automatic in ("NOTSET", "extra"):
        window["pads"] = before + after
    else:
        assume(all((k - 1) * d + 1 >= s for k, s, d in zip(taps, strides, dilations, strict=True)))
        window["auto_pad"] = automatic
    if automatic == "extra":
        window["output_padding"] = [min(1, s - 1) for s in strides]
    one("ConvTranspose", floats(2, 2 * groups, *sizes), floats(2 * groups, 3, *taps), floats(3 * groups), **window)


@given(
    st.sampled_from(["MaxPool", "AveragePool"]),
    st.lists(st.tuples(*[st.integers(1, 3)] * 3, *[st.integers(0, 2)] * 2, st.integers(4, 9)), min_size=1, max_size=2),
    st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER"]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_pooling(op_type: str, axes: list[tuple[int, ...]], automatic: str, ceil: bool, counted: bool) -> None:
    taps, strides, dilations, before, after, sizes = (list(each) for each in zip(*axes, strict=True))
    spans = [(k - 1) * d + 1 for k, d in zip(taps, dilations, strict=True)]
    # onnxruntime wants padding smaller than windows, and onnx has another shape where a last window is padding alone.
    assume(all(max(p, q) < k for p, q, k in zip(before, after, taps, strict=True)))
    assume(all(n >= span for n, span in zip(sizes, spans, strict=True)))
    # Nor is it asked for padding of less than nothing.
    assume(automatic == "NOTSET" or all(d == 1 and k >= s for d, k, s in zip(dilations, taps, strides, strict=True)))
    windows = [
        -(-(n + p + q - span) // s) + 1 for n, p, q, s, span in zip(sizes, before, after, strides, spans, strict=True)
    ]
    assume(not ceil or all((w - 1) * s < n + p for w, s, n, p in zip(windows, strides, sizes, before, strict=True)))
    window: dict[str, Any] = {"kernel_shape": taps, "strides": strides, "dilations": dilations}
    window |= {"pads": before + after, "ceil_mode": int(ceil)} if automatic == "NOTSET" else {"auto_pad": automatic}
    window |= {"count_include_pad": int(counted)} if op_type == "AveragePool" else {}
    one(op_type, floats(2, 3, *sizes), **window)


def test_pooling_of_all() -> None:
    one("GlobalAveragePool", floats(2, 3, 4, 5))
    one("GlobalMaxPool", floats(2, 3, 4, 5))


def test_normalizations() -> None:
    x = floats(2, 6, 4, 3)
    one("BatchNormalization", x, *[floats(6, seed=each) for each in range(3)], np.abs(floats(6)), epsilon=1e-3)
    one("InstanceNormalization", x, floats(6), floats(6, seed=1))
    one("LayerNormalization", x, floats(4, 3), floats(4, 3, seed=1), axis=2)
    one("LayerNormalization", x, floats(3))
    one("LRN", x, size=3, alpha=0.3, beta=0.6, bias=2.0)
    one("LpNormalization", x, axis=1, p=1)
    one("LpNormalization", x, axis=1)
    one("Softmax", x, axis=1)
    one("LogSoftmax", x)
    one("Softmax", x, axis=2, opset=11)


REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"


@pytest.mark.parametrize("op_type", REDUCTIONS.split())
def test_reductions(op_type: str) -> None:
    one(op_type, X, integers(1, -1))
    one(op_type, X, integers(0), keepdims=0)
    one(op_type, X)


def test_where_the_largest_is() -> None:
    one("ReduceLogSum", np.abs(X), integers(1))
    one("ArgMax", X, axis=1)
    one("ArgMin", X, axis=-1, keepdims=0)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("before", [0, 1])
def test_recurrent(direction: str, before: int) -> None:
    count = 2 if direction == "bidirectional" else 1
    x, state = floats(5, 2, 3), floats(count, 2, 4)
    weights = floats(count, 16, 3), floats(count, 16, 4), floats(count, 32)
    settings_ = {"hidden_size": 4, "direction": direction}
    one("LSTM", x, *weights, outputs=3, **settings_)
    one("LSTM", x, *weights, "", state, floats(count, 2, 4, seed=1), floats(count, 12), outputs=3, **settings_)
    weights = floats(count, 12, 3), floats(count, 12, 4), floats(count, 24)
    one("GRU", x, *weights, outputs=2, linear_before_reset=before, **settings_)
    one("GRU", x, *weights[:2], "", "", state, outputs=2, linear_before_reset=before, **settings_)


MODES = ["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"]


@pytest.mark.parametrize("transformation", MODES)
@pytest.mark.parametrize(
    ("mode", "rounding"),
    [("linear", "floor"), ("nearest", "floor"), ("nearest", "round_prefer_floor"), ("nearest", "ceil")],
)
@pytest.mark.parametrize("size", [(9, 7), (3, 2), (10, 1)])
def test_resize(transformation: str, mode: str, rounding: str, size: tuple[int, int]) -> None:
    model = Model()
    sizes = model.constant((2, 3, *size), "int64")
    settings_ = {"mode": mode, "nearest_mode": rounding, "coordinate_transformation_mode": transformation}
    model.output(model.node("Resize", model.given(floats(2, 3, 5, 4)), "", "", sizes, **settings_))
    scales = model.constant([1.0, 1.0, 2.0, 1.6])
    model.output(model.node("Resize", model.given(floats(2, 3, 5, 4)), "", scales, **settings_))
    check(model)


def test_what_is_not_known_is_named() -> None:
    model = Model()
    model.output(model.node("CumSum", model.input(3, 4), model.constant(1, "int64"), name="sum"))
    graph = Graph.from_model(model.proto())
    with pytest.raises(UnsupportedOperatorError, match=r"CumSum .*'node_sum': it cannot be differentiated"):
        network.Network(graph)
    with pytest.raises(UnsupportedOperatorError, match=r"Resize .* mode is 'cubic'"):
        one("Resize", floats(1, 1, 4), "", np.ones(3, np.float32), mode="cubic")
    with pytest.raises(UnsupportedOperatorError, match=r"MaxPool .* it has 2 outputs"):
        one("MaxPool", floats(1, 1, 4), kernel_shape=[2], outputs=2)


def test_gradients_are_differences() -> None:
    """Of a small net, along a random direction of all weights."""
    model = Model()
    x = model.node("Sigmoid", model.node("Conv", model.input(1, 2, 5, 5), model.weight(4, 2, 3, 3), model.weight(4)))
    x = model.node("BatchNormalization", x, *[model.weight(4) for _ in range(3)], model.constant(np.ones(4)))
    model.output(model.node("Gemm", model.node("Flatten", x), model.weight(36, 3), model.weight(3)))
    graph = Graph.from_model(model.proto())
    graph.infer_shapes()
    made = network.Network(graph).double()
    feed = {name: torch.from_numpy(value).double() for name, value in model.inputs.items()}
    directions = [torch.from_numpy(floats(*each.shape)).double() for each in made.parameters()]

    def loss() -> Any:
        return sum(value.square().sum() for value in made(feed).values())

    loss().backward()
    expected = sum((each.grad * to).sum() for each, to in zip(made.parameters(), directions, strict=True)).item()
    ends = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            for parameter, to in zip(made.parameters(), directions, strict=True):
                parameter += step * to
            ends.append(loss().item())
    assert abs((ends[0] - ends[1]) / 2e-6 - expected) < 1e-6 * abs(expected)
