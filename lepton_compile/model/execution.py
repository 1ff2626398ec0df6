"""Evaluating models with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from lepton_compile.errors import ModelError

Array = npt.NDArray[Any]


def evaluate(
    model: onnx.ModelProto,
    inputs: Mapping[str, Array],
    outputs: Sequence[str] | None = None,
    *,
    optimise: bool = False,
    threads: int = 0,
) -> dict[str, Array]:
    """What onnxruntime computes for these inputs, on the CPU.

    Args:
        model: The model, at most 2 GB.
        inputs: A value for every input.
        outputs: Names of outputs or of inner tensors of the main graph; all outputs by default.
        optimise: Whether onnxruntime may rewrite the model; not by default, so that each node gives its own answer.
        threads: Threads within one operator; 0 lets onnxruntime choose.

    Raises:
        ModelError: onnxruntime does not take the model or the inputs; the message is its own.
    """
    declared = [value.name for value in model.graph.output]
    wanted = list(declared if outputs is None else outputs)
    extra = [name for name in wanted if name not in declared]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in extra)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = session.run(wanted, {name: np.asarray(value) for name, value in inputs.items()})
    except Exception as error:  # onnxruntime's own errors share no base class but this one
        raise ModelError(f"onnxruntime refuses the model: {error}") from error
    finally:
        del model.graph.output[len(declared) :]
    return dict(zip(wanted, values, strict=True))
