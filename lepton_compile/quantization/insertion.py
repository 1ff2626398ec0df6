"""Putting QuantizeLinear and DequantizeLinear around layers, which says that they are to compute in integers.

    y = conv(x, w, b)   ->   y = conv(dequantize(quantize(x)), dequantize(W), dequantize(B))

W and B are integers. Products of what they stand for are products of integers times one scale for each output, which is
how the kernels compute them, exactly; so ONNX's own semantics is what they mean:

    quantize(x) = saturate(round_half_to_even(x / scale) + zero point),   dequantize(q) = (q - zero point) * scale
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from lepton_compile.model import Graph
from lepton_compile.quantization.layers import LAYERS, Layer
from lepton_compile.quantization.rounding import followed
from lepton_compile.quantization.weights import LARGEST_BIAS, rounded, rounded_bias, spread, weight_scales
from lepton_compile.rewriting.patterns import Uses, constant, is_operator, operand, producer

Array = npt.NDArray[Any]


class Insertion:
    """Edits of one graph, in place.

    Args:
        graph: The graph.
        chosen: Names of the layers that are quantized.
        scales: Scale and zero point of each source of their groups.
    """

    def __init__(self, graph: Graph, chosen: frozenset[str], scales: Mapping[str, tuple[float, int]]) -> None:
        self._graph = graph
        self._chosen = chosen
        self._scales = scales
        self._uses = Uses(graph)
        self._tensors = graph.gs.tensors()
        self._nodes = {node.name: node for node in graph.gs.nodes}

    def scale_weights(self, layer: Layer, factors: Array) -> None:
        """Multiply the weights of each input channel, whose values will be divided by as much."""
        node = self._nodes[layer.node]
        weights = _known(node.inputs[1])
        scaled = weights * spread(factors, layer.weights_axis, weights.ndim)
        node.inputs[1] = self._constant(node.inputs[1].name, scaled)

    def quantize_weights(self, layer: Layer, rounding: str | None = None) -> None:
        """Let a layer read its weights and bias from integers.

        Args:
            layer: The layer.
            rounding: How weights are rounded if not to the nearest integers, as `rounding.told` says it.

        Raises:
            ValueError: The rounding is not of these weights.
        """
        node = self._nodes[layer.node]
        weights = _known(node.inputs[1])
        steps = weight_scales(weights, layer.output_axis)
        integers = rounded(weights, steps, layer.output_axis)
        if rounding is not None:
            integers = followed(integers, rounding)
        node.inputs[1] = self._dequantized(node, node.inputs[1], integers, steps, layer.output_axis)
        bias = operand(node, 2)
        known = constant(bias)
        if bias is None or known is None or known.shape != steps.shape or float(node.attrs.get("beta", 1)) != 1:
            return
        sums = np.float32(self._scale_of(layer)) * steps
        if (np.abs(known) > LARGEST_BIAS * sums).any():
            return
        node.inputs[2] = self._dequantized(node, bias, rounded_bias(known, sums), sums, 0)

    def quantize_tensor(self, name: str, factors: Array | None, axis: int) -> None:
        """Let the readers of a source read what is left of it, but for layers that stay in floating point.

        Args:
            name: The source.
            factors: What its channels are divided by before; only the layers read it then.
            axis: The axis that the channels lie along.
        """
        tensor = self._tensors[name]
        scale, zero = self._scales[name]
        readers = [reader for reader in _unique(tensor.outputs) if self._is_willing(reader, factors is not None)]
        source = producer(tensor)
        added: list[gs.Node] = []
        quantizing = tensor
        if factors is not None:
            quantizing = gs.Variable(self._uses.fresh_name(f"{name}_smoothed"), tensor.dtype, tensor.shape)
            inverse = self._constant(f"{name}_smoothing", spread(1 / factors, 0, len(tensor.shape) - axis))
            added.append(gs.Node("Mul", self._name(name, "smooth"), {}, [tensor, inverse], [quantizing]))
        parameters = [
            self._constant(f"{name}_scale", np.array(scale, np.float32)),
            self._constant(f"{name}_zero_point", np.array(zero, np.uint8)),
        ]
        integers = gs.Variable(self._uses.fresh_name(f"{name}_quantized"), np.dtype(np.uint8), tensor.shape)
        restored = gs.Variable(self._uses.fresh_name(f"{name}_dequantized"), tensor.dtype, tensor.shape)
        for reader in readers:
            for place, read in enumerate(reader.inputs):
                if read is tensor:
                    reader.inputs[place] = restored
        added += [
            gs.Node("QuantizeLinear", self._name(name, "quantize"), {}, [quantizing, *parameters], [integers]),
            gs.Node("DequantizeLinear", self._name(name, "dequantize"), {}, [integers, *parameters], [restored]),
        ]
        if source is None:
            self._graph.gs.nodes[:0] = added
        for node in reversed(added if source is not None else []):
            self._uses.insert_after(source, node)

    def _is_willing(self, reader: gs.Node, layers_only: bool) -> bool:
        if is_operator(reader, *LAYERS):
            return reader.name in self._chosen
        return not layers_only

    def _scale_of(self, layer: Layer) -> float:
        """The scale of what a layer reads: that of the source which the elements come from."""
        tensor = self._tensors[layer.input]
        while tensor.name not in self._scales:
            source = producer(tensor)
            assert source is not None, f"'{layer.input}' comes from no source that has a scale"
            tensor = source.inputs[0]
        return self._scales[tensor.name][0]

    def _dequantized(self, node: gs.Node, known: gs.Tensor, integers: Array, scales: Array, axis: int) -> gs.Variable:
        """A tensor that a layer reads in place of a known one."""
        name = known.name
        inputs = [
            self._constant(f"{name}_quantized", integers),
            self._constant(f"{name}_scale", scales),
            self._constant(f"{name}_zero_point", np.zeros(scales.shape, integers.dtype)),
        ]
        made = gs.Variable(self._uses.fresh_name(f"{name}_dequantized"), known.dtype, known.shape)
        dequantize = gs.Node("DequantizeLinear", self._name(name, "dequantize"), {"axis": axis}, inputs, [made])
        self._uses.insert_before(node, dequantize)
        return made

    def _constant(self, name: str, values: Array) -> gs.Constant:
        return gs.Constant(self._uses.fresh_name(name), values)

    def _name(self, *parts: str) -> str:
        return self._uses.fresh_name("_".join(parts))


def _known(tensor: gs.Tensor) -> Array:
    values = constant(tensor)
    assert values is not None
    return values


def _unique(nodes: Sequence[gs.Node]) -> Iterator[gs.Node]:
    return iter({id(node): node for node in nodes}.values())
