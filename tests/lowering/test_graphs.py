"""What holds kernels together: views, outputs, layouts that meet, element types, shapes of no or one element."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compile.errors import LeptonError
from lepton_compile.kernels.kernel import Machine
from lepton_compile.lowering import lower
from lepton_compile.lowering.builder import Builder
from lepton_compile.lowering.program import Storage
from lepton_compile.model import import_model


def shaped(model, tensor: str, *shape: int) -> str:
    return model.node("Reshape", tensor, model.constant(shape, "int64"))


def test_reshapes_are_views(model, agree) -> None:
    x = model.input(2, 6, 4, 5)
    flat = shaped(model, x, 2, 120)
    hidden = model.node("MatMul", flat, model.weight(120, 16))
    square = model.node("Unsqueeze", shaped(model, hidden, 2, 4, 4), model.constant([1], "int64"))
    model.output(model.node("Relu", square), model.node("Squeeze", shaped(model, hidden, 1, 32)))
    (plain, _) = agree(model)
    views = [buffer for buffer in plain.buffers.values() if buffer.view_of]
    assert any(buffer.storage is Storage.INPUT for buffer in views)
    assert any(buffer.storage is Storage.ARENA for buffer in views)
    families = {plain.kernels[call.kernel].family for call in plain.calls()}
    assert families == {"matmul", "elementwise"}


def test_views_of_blocked_tensors(model, agree) -> None:
    x = model.node("Conv", model.input(1, 3, 8, 8), model.weight(20, 3, 3, 3))
    flat = model.node("Flatten", x)
    model.output(model.node("MatMul", flat, model.weight(720, 5)))
    heads = model.node("Transpose", shaped(model, x, 1, 4, 5, 36), perm=[0, 3, 1, 2])
    model.output(model.node("Softmax", heads, axis=2), shaped(model, x, 720), x)
    # One pixel an image: the blocked channels lie as the plain ones do.
    pooled = model.node("GlobalAveragePool", x)
    model.output(model.node("Relu", shaped(model, pooled, 20)), shaped(model, pooled, 4, 5))
    agree(model)


def test_a_pixel_of_several_images_is_no_view(model, agree) -> None:
    x = model.node("Conv", model.input(3, 5, 6, 6), model.weight(21, 5, 3, 3))
    model.output(model.node("MatMul", model.node("Flatten", model.node("GlobalMaxPool", x)), model.weight(21, 4)))
    agree(model)


def test_outputs_of_every_kind(model, agree) -> None:
    """An input, a view of one, a constant, one value twice, one that is read inside, and one that is a view of it."""
    x = model.input(2, 6)
    doubled = model.node("Add", x, x)
    model.output(
        model.node("Identity", x),
        shaped(model, x, 3, 4),
        model.node("Identity", model.constant(np.arange(4))),
        doubled,
        model.node("Identity", doubled),
        shaped(model, doubled, 12),
        model.node("Relu", doubled),
        model.node("Identity", shaped(model, doubled, 4, 3)),
    )
    agree(model)


def test_an_output_that_another_output_views(model, agree) -> None:
    """The memory of an output is the caller's: a view of it is a copy, and what is read from it stays right."""
    hidden = model.node("Conv", model.input(1, 4, 5, 5), model.weight(6, 4, 1, 1))
    flat = shaped(model, hidden, 1, 150)
    model.output(hidden, flat, model.node("MatMul", flat, model.weight(150, 3)), model.node("Sigmoid", hidden))
    agree(model)


def test_no_nodes_at_all(model, agree) -> None:
    x = model.input(3)
    model.output(model.node("Identity", x))
    agree(model)


def test_scalars(model, agree) -> None:
    x, vector = model.given(np.float32(2.5)), model.input(7)
    total = model.node("Add", x, model.node("ReduceSum", vector, keepdims=0))
    model.output(total, model.node("Mul", total, vector), model.node("Mul", x, model.constant(3.0)))
    model.output(model.node("Unsqueeze", x, model.constant([0], "int64")), model.node("Identity", x))
    model.output(model.node("MatMul", vector, vector), model.node("Greater", x, model.constant(0.0)))
    agree(model)


def test_one_tensor_as_several_operands(model, agree) -> None:
    x = model.input(1, 16, 6, 6)
    y = model.node("Conv", x, model.weight(16, 16, 1, 1))
    model.output(model.node("Mul", y, y), model.node("Where", model.node("Greater", y, x), y, y))
    square = model.input(5, 5)
    model.output(model.node("MatMul", square, square), model.node("Gemm", square, square, square, transB=1))
    model.output(model.node("Conv", model.input(1, 2, 3, 3), model.weight(2, 2, 1, 1)))
    same = model.input(3, 3, 3, 3)
    model.output(model.node("Conv", same, same, pads=[1, 1, 1, 1]))
    agree(model)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8", "int16", "int32", "int64"])
def test_types(dtype: str, model, agree) -> None:
    x, y = model.input(2, 3, 5, dtype=dtype), model.input(5, dtype=dtype)
    model.output(model.node("Concat", x, x, axis=1), model.node("Transpose", x, perm=[2, 0, 1]), shaped(model, x, 30))
    model.output(model.node("Cast", x, to=1), model.node("Equal", x, y))
    if dtype not in ("int8", "uint8", "int16"):  # which onnxruntime has no addition of
        model.output(model.node("Add", x, y), model.node("Mul", x, model.weight(1, 3, 1, dtype=dtype)))
    agree(model)


def test_truth(model, agree) -> None:
    x, y = model.input(2, 37, dtype="bool"), model.input(37, dtype="bool")
    either = model.node("Or", x, y)
    model.output(
        model.node("And", either, model.node("Not", x)), model.node("Cast", either, to=1), model.node("Identity", x)
    )
    model.output(model.node("Where", either, model.input(2, 37), model.constant(0.5)))
    agree(model)


def test_blocked_and_plain_meet(model, agree) -> None:
    """Every way of combining a blocked tensor with others, its channels aligned or not."""
    for channels in (16, 21):
        x = model.node("Conv", model.input(2, 3, 6, 5), model.weight(channels, 3, 3, 3))
        for shape in ((1,), (3,), (4, 3), (channels, 1, 1), (1, channels, 1, 1), (2, channels, 1, 1), (2, 1, 4, 3)):
            model.output(model.node("Mul", x, model.input(*shape)), model.node("Sub", model.weight(*shape), x))
        model.output(model.node("Transpose", x, perm=[0, 2, 3, 1]), model.node("Slice", x, *slices(model, 1, 3, 11)))
        model.output(model.node("ReduceMean", x, model.constant([1], "int64"), keepdims=1))
        model.output(model.node("ReduceMax", x, model.constant([2, 3], "int64"), keepdims=0))
        model.output(
            model.node("Softmax", x, axis=1), model.node("Pad", x, model.constant([0, 2, 1, 0, 0, 3, 0, 1], "int64"))
        )
        model.output(*model.node("Split", x, outputs=3, axis=1, num_outputs=3))
        model.output(
            model.node("Add", model.node("Relu", x), model.node("Conv", x, model.weight(channels, channels, 1, 1)))
        )
    agree(model, passes=[True])


def slices(model, axis: int, begin: int, end: int) -> list[str]:
    return [model.constant([value], "int64") for value in (begin, end, axis)]


def test_shuffled_channels(model, agree) -> None:
    """Split, reshape and transpose as in ShuffleNet, between convolutions."""
    x = model.node("Conv", model.input(1, 3, 7, 7), model.weight(24, 3, 3, 3))
    first, second = model.node("Split", x, outputs=2, axis=1, num_outputs=2)
    second = model.node("Relu", model.node("Conv", second, model.weight(12, 1, 3, 3), group=12, pads=[1, 1, 1, 1]))
    joined = model.node("Concat", first, second, axis=1)
    mixed = model.node("Transpose", shaped(model, joined, 1, 2, 12, 5, 5), perm=[0, 2, 1, 3, 4])
    model.output(model.node("Conv", shaped(model, mixed, 1, 24, 5, 5), model.weight(8, 24, 1, 1)))
    agree(model)


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3)])
def test_inputs_of_no_elements_are_an_error_of_ours(shape: tuple[int, ...], model, host) -> None:
    model.output(model.node("Relu", model.input(*shape)))
    with pytest.raises(LeptonError):
        lower(import_model(model.proto()), host, "model")


def test_values_of_no_elements_in_between(model, agree) -> None:
    x = model.input(2, 4)
    nothing = model.node("Slice", x, *slices(model, 1, 2, 2))
    model.output(model.node("Concat", nothing, x, model.node("Relu", nothing), axis=1))
    agree(model)


def test_large_elementwise_work_is_split_over_threads(model, agree) -> None:
    x = model.input(3, 70, 333)
    y = model.node("Tanh", model.node("Add", x, model.weight(70, 1)))
    model.output(y, model.node("ReduceSum", y, model.constant([1], "int64")))
    (program, _) = agree(model)
    assert all(call.parallel for call in program.calls())


def test_lowering_twice_gives_the_same_program(model, host) -> None:
    import tvm

    x = model.node("Conv", model.input(1, 3, 9, 9), model.weight(20, 3, 3, 3), pads=[1, 1, 1, 1])
    model.output(model.node("Softmax", model.node("MaxPool", model.node("Relu", x), kernel_shape=[2, 2])))
    one, other = (lower(import_model(model.proto()), host, "model") for _ in range(2))
    assert one.steps == other.steps and one.buffers == other.buffers and one.memory == other.memory
    assert list(one.weights) == list(other.weights)
    for name, kernel in one.kernels.items():
        assert tvm.ir.save_json(kernel.function) == tvm.ir.save_json(other.kernels[name].function)


def test_the_weights_behind_views_of_views_are_kept() -> None:
    builder = Builder("model", Machine(lanes=8, registers=16))
    weight = builder.weight(np.arange(6, dtype=np.float32))
    view = builder.view(builder.view(weight, (2, 3), None), (3, 2), None)
    unused = builder.weight(np.arange(7, dtype=np.float32))
    result = builder.buffer((3, 2), "float32", storage=Storage.OUTPUT)
    builder.outputs.append(result)
    builder.copy(view, result, ())
    program = builder.finish()
    assert list(program.weights) == [weight.name] and unused.name not in program.buffers
    assert program.buffers[program.buffers[view.name].view_of or ""].view_of == weight.name
