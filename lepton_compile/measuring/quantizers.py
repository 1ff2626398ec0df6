"""Int8 models by the quantizers of other engines, as their users make them: given what help they need to work at all.

- onnxruntime, static: QDQ, unsigned bytes by the extremes that samples have, weights per channel. Before that, shapes
  are made static, constants folded, the model converted to opset 17 and prepared as its documentation says, without
  symbolic shape inference, which fails on many models.
- The same of convolutions and matrix products alone: what a transformer needs, whose mask of attention is as large as
  numbers get.
- onnxruntime, dynamic: matrix products and what else it knows; no samples.
- OpenVINO, by NNCF: its mixed preset, and the transformer's where matrices that are both computed are multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from lepton_compile.measuring.peers import Arrays

OPSET = 17
"""What models of older operator sets are converted to for onnxruntime's quantizer."""


def quantize_onnxruntime(model: Path, samples: Sequence[Arrays], folder: Path) -> Path:
    """Quantize statically.

    Args:
        model: An ONNX file.
        samples: A value for every input, all of the same shapes; at least one.
        folder: An empty folder for the files that are made.

    Returns:
        The quantized model, an ONNX file. What the quantizer raises comes through as it is.
    """
    return _quantize_static(model, samples, folder, None)


def quantize_onnxruntime_products(model: Path, samples: Sequence[Arrays], folder: Path) -> Path:
    """Quantize convolutions and matrix products alone; as `quantize_onnxruntime`."""
    return _quantize_static(model, samples, folder, ["Conv", "ConvTranspose", "MatMul", "Gemm"])


def _quantize_static(model: Path, samples: Sequence[Arrays], folder: Path, operators: list[str] | None) -> Path:
    from onnxruntime import quantization

    quantization.quantize_static(
        _prepared(model, samples[0], folder),
        folder / "model.onnx",
        _reader(samples),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=operators,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    return folder / "model.onnx"


def quantize_onnxruntime_dynamic(model: Path, samples: Sequence[Arrays], folder: Path) -> Path:
    """Quantize weights, and activations as the model runs; as `quantize_onnxruntime`, and samples tell shapes alone."""
    from onnxruntime import quantization

    quantization.quantize_dynamic(_prepared(model, samples[0], folder), folder / "model.onnx", per_channel=True)
    return folder / "model.onnx"


def quantize_openvino(model: Path, samples: Sequence[Arrays], folder: Path) -> Path:
    """Quantize by NNCF; as `quantize_onnxruntime`, and the model is an .xml file, with its weights beside it."""
    import nncf
    import openvino

    read = openvino.Core().read_model(model)
    read.reshape({name: list(array.shape) for name, array in samples[0].items()})
    proto = onnx.load(model, load_external_data=False)
    quantized = nncf.quantize(
        read,
        nncf.Dataset([dict(sample) for sample in samples]),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
        model_type=nncf.ModelType.TRANSFORMER if _multiplies_computed(proto.graph) else None,
    )
    for output, value in zip(quantized.outputs, proto.graph.output, strict=True):
        output.set_names({value.name})
    openvino.save_model(quantized, folder / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"


QUANTIZERS: Mapping[str, Callable[[Path, Sequence[Arrays], Path], Path]] = {
    "onnxruntime": quantize_onnxruntime,
    "onnxruntime products": quantize_onnxruntime_products,
    "onnxruntime dynamic": quantize_onnxruntime_dynamic,
    "openvino": quantize_openvino,
}
"""The quantizers, by the engine's name."""


def _prepared(model: Path, sample: Arrays, folder: Path) -> Path:
    """What onnxruntime's quantizer takes."""
    import onnxruntime
    from onnxruntime.quantization.shape_inference import quant_pre_process

    static, folded, converted = (folder / f"{name}.onnx" for name in ("static", "folded", "converted"))
    proto = onnx.load(model)
    for value in proto.graph.input:
        if value.name in sample:
            shape = value.type.tensor_type.shape
            del shape.dim[:]
            for size in sample[value.name].shape:
                shape.dim.add().dim_value = size
    onnx.save(proto, static)

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(static, options, providers=["CPUExecutionProvider"])

    proto = onnx.load(folded)
    used = {node.domain for node in proto.graph.node}
    kept = [entry for entry in proto.opset_import if entry.domain in used | {""}]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    if next(entry.version for entry in kept if entry.domain == "") < OPSET:
        proto = onnx.version_converter.convert_version(proto, OPSET)
    onnx.save(proto, converted)
    quant_pre_process(converted, folder / "prepared.onnx", skip_symbolic_shape=True)
    return folder / "prepared.onnx"


def _reader(samples: Sequence[Arrays]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The samples, one after another."""

        def __init__(self) -> None:
            self._left: Iterator[Arrays] = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self._left, None)
            return None if sample is None else dict(sample)

    return Reader()


def _multiplies_computed(graph: onnx.GraphProto) -> bool:
    """Whether a matrix product is of two computed matrices, as attention's are."""
    constants = {value.name for value in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    products = (node for node in graph.node if node.op_type == "MatMul")
    return any(not constants & set(node.input) for node in products)
