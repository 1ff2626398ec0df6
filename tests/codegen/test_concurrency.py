"""Several models compiled at once in threads of one process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import lepton_compile


def small_net(seed: int) -> onnx.ModelProto:
    """A convolution, a pool and a product."""
    random = np.random.default_rng(seed)
    weights = {
        "kernel": random.standard_normal((8, 3, 3, 3), dtype=np.float32),
        "matrix": random.standard_normal((8 * 16, 10), dtype=np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("MaxPool", ["positive"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small_net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_compiles_in_several_threads_do_not_meet() -> None:
    models = [small_net(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda model: lepton_compile.compile(model, "x86-64-v2"), models))
    image = np.random.default_rng(9).standard_normal((1, 3, 8, 8), dtype=np.float32)
    for model, compiled in zip(models, together, strict=True):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (expected,) = session.run(None, {"image": image})
        np.testing.assert_allclose(compiled.run({"image": image})["scores"], expected, rtol=1e-4, atol=1e-4)
    alone = lepton_compile.compile(models[0], "x86-64-v2")
    assert contents(alone.folder) == contents(together[0].folder)
