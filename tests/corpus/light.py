"""The nine classic nets that come with onnx, given weights.

As shipped, their weights are constants (ConstantOfShape), so that their answers do not depend on the input. Here they
are random, and scaled as training leaves them: the values that reach each layer have a size of about one, and each
BatchNormalization holds the mean and variance of what reaches it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnxruntime

# Each net's input.
NETS = {
    "bvlc_alexnet": "data_0",
    "densenet121": "data_0",
    "inception_v1": "data_0",
    "inception_v2": "data_0",
    "resnet50": "gpu_0/data_0",
    "shufflenet": "gpu_0/data_0",
    "squeezenet": "data_0",
    "vgg19": "data_0",
    "zfnet512": "gpu_0/data_0",
}


def build(net: str) -> onnx.ModelProto:
    """The net with weights of its own; the same every time on one machine."""
    folder = Path(onnx.backend.test.__file__).parent / "data" / "light"
    model = onnx.load(folder / f"light_{net}.onnx")
    graph = model.graph
    random = np.random.default_rng(sum(net.encode()))
    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    role = _roles(nodes)
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shape = tuple(int(size) for size in constants.pop(node.input[0]))
            constants[node.output[0]] = _random_constant(role[node.output[0]], shape, random)

    runs = [{NETS[net]: image} for image in (_noise(random), _picture(random), _picture(random))]
    for node in nodes:
        _scale(node, runs, constants)
        for values in runs:
            values[node.output[0]] = _run(node, values, constants)

    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    inputs = [entry for entry in graph.input if entry.name == NETS[net]]
    del graph.input[:]
    graph.input.extend(inputs)
    model.ir_version = 8  # from 4 on, an initializer need not be an input
    onnx.checker.check_model(model)
    return model


def _noise(random: np.random.Generator, size: int = 224) -> np.ndarray:
    return random.standard_normal((1, 3, size, size), np.float32)


def _picture(random: np.random.Generator) -> np.ndarray:
    """Noise at every scale, with as much power in each octave: the spectrum of photographs."""
    octaves = [_noise(random, 224 // zoom).repeat(zoom, axis=2).repeat(zoom, axis=3) for zoom in (1, 4, 16, 56, 224)]
    return (np.sum(octaves, axis=0) / len(octaves) ** 0.5).astype(np.float32)


def _roles(nodes: list[onnx.NodeProto]) -> dict[str, tuple[str, int]]:
    """Which operator reads each tensor first, and as which input; looking through changes of shape."""
    roles: dict[str, tuple[str, int]] = {}
    for node in reversed(nodes):
        for index, name in enumerate(node.input):
            through = node.op_type in ("Reshape", "Unsqueeze") and index == 0
            roles[name] = roles.get(node.output[0], (node.op_type, 0)) if through else (node.op_type, index)
    return roles


def _random_constant(role: tuple[str, int], shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    match role:
        case ("Conv" | "Gemm", 1):
            # He et al., "Delving deep into rectifiers" (2015): keeps the variance through a ReLU.
            return random.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        case ("BatchNormalization" | "Mul", 0 | 1):
            return random.uniform(0.7, 1.3, shape).astype(np.float32)
        case ("BatchNormalization", 4):
            return np.ones(shape, np.float32)
        case _:
            return random.standard_normal(shape, np.float32) * np.float32(0.1)


def _scale(node: onnx.NodeProto, runs: list[dict[str, np.ndarray]], constants: dict[str, np.ndarray]) -> None:
    """Set what normalises: the size of a layer's weights, the statistics of a BatchNormalization."""
    if node.op_type == "Conv" and len(node.input) == 3:
        # Each channel gets mean 0 and variance 1, as BatchNormalization would give it.
        made = np.concatenate([_run(node, values, constants) for values in runs])
        scale = 1 / (made.std(axis=(0, 2, 3)) + np.float32(0.1))
        if made.shape[2:] == (1, 1):  # three numbers say nothing of a channel
            scale = np.full(made.shape[1], 1 / made.std(), np.float32)
        else:
            constants[node.input[2]] = (constants[node.input[2]] - made.mean(axis=(0, 2, 3))) * scale
        constants[node.input[1]] = constants[node.input[1]] * scale[:, None, None, None]
    elif node.op_type in ("Conv", "Gemm") and node.input[1] in constants:
        made = np.concatenate([_run(node, values, constants) for values in runs])
        constants[node.input[1]] = constants[node.input[1]] / made.std()
    elif node.op_type == "BatchNormalization":
        seen = np.concatenate([values[node.input[0]] for values in runs])
        constants[node.input[3]] = seen.mean(axis=(0, 2, 3), dtype=np.float64).astype(np.float32)
        # Other images differ more.
        constants[node.input[4]] = (2 * seen.var(axis=(0, 2, 3), dtype=np.float64) + 0.1).astype(np.float32)


def _run(node: onnx.NodeProto, values: dict[str, np.ndarray], constants: dict[str, np.ndarray]) -> np.ndarray:
    """What one node computes."""
    inputs = {name: values[name] if name in values else constants[name] for name in node.input}
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node],
            "node",
            [
                onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                for name, value in inputs.items()
            ],
            [onnx.helper.make_empty_tensor_value_info(node.output[0])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 9)],
        ir_version=8,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (value,) = session.run(None, inputs)
    return np.asarray(value)
