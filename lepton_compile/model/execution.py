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


class Session:
    """A model made ready by onnxruntime, on the CPU, to be run many times.

    Args:
        model: The model, at most 2 GB.
        outputs: Names of outputs or of inner tensors of the main graph that runs may ask for; all outputs by default.
        optimise: Whether onnxruntime may rewrite the model; not by default, so that each node gives its own answer. It
            keeps to the values that QuantizeLinear and DequantizeLinear stand for: none is replaced by arithmetic on
            integers, which differs between processors.
        threads: Threads within one operator; 0 lets onnxruntime choose.

    Raises:
        ModelError: onnxruntime does not take the model; the message is its own.
    """

    def __init__(
        self, model: onnx.ModelProto, outputs: Sequence[str] | None = None, *, optimise: bool = False, threads: int = 0
    ) -> None:
        declared = [value.name for value in model.graph.output]
        self._outputs = list(declared if outputs is None else outputs)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        extra = [name for name in self._outputs if name not in declared]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in extra)
        try:
            content = model.SerializeToString()
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own errors share no base class but this one
            raise ModelError(f"onnxruntime refuses the model: {error}") from error
        finally:
            del model.graph.output[len(declared) :]

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """What the model computes for these inputs.

        Args:
            inputs: A value for every input.
            outputs: Of the outputs that the session was made for, the ones to compute; all by default.

        Raises:
            ModelError: onnxruntime does not take the inputs; the message is its own.
        """
        wanted = list(self._outputs if outputs is None else outputs)
        try:
            values = self._session.run(wanted, {name: np.asarray(value) for name, value in inputs.items()})
        except Exception as error:
            raise ModelError(f"onnxruntime refuses the model: {error}") from error
        return dict(zip(wanted, values, strict=True))


def evaluate(
    model: onnx.ModelProto,
    inputs: Mapping[str, Array],
    outputs: Sequence[str] | None = None,
    *,
    optimise: bool = False,
    threads: int = 0,
) -> dict[str, Array]:
    """What onnxruntime computes for these inputs; arguments and errors as of `Session`."""
    return Session(model, outputs, optimise=optimise, threads=threads).run(inputs)
