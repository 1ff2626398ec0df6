"""Other engines that run the same ONNX file, on the same number of threads, on the same inputs.

In float32, unless OpenVINO is asked to compute in bfloat16, or the file is of a quantized model
(`lepton_compile.measuring.quantizers`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lepton_compile.runtime.loader import LeptonError

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
Run: TypeAlias = Callable[[Arrays], dict[str, npt.NDArray[Any]]]

# What pip has to install for each, by the name that Python imports.
_NEEDS = {"onnxruntime": ("onnxruntime",), "openvino": ("openvino",), "ncnn": ("ncnn", "pnnx")}

# Seconds after which an engine is taken to hang.
_SECONDS = 600

PEERS = tuple(_NEEDS)
"""The engines' names."""

FLOAT32 = "float32"
# What OpenVINO calls the types that it computes in.
_HINTS = {FLOAT32: "f32", "bfloat16": "bf16"}


def is_installed(engine: str) -> bool:
    """Whether an engine of `PEERS` can be imported."""
    return all(importlib.util.find_spec(package) is not None for package in _NEEDS[engine])


def require_peers(engines: Sequence[str]) -> None:
    """Make sure that there are such engines.

    Raises:
        LeptonError: One is unknown, or not installed.
    """
    for engine in engines:
        if engine not in _NEEDS:
            raise LeptonError(f"there is no engine {engine!r} to measure against; there are {', '.join(PEERS)}")
        if not is_installed(engine):
            raise LeptonError(f"{engine} is not installed: pip install {' '.join(_NEEDS[engine])}", engine=engine)


def load_peer(engine: str, model: Path, inputs: Arrays, threads: int, precision: str = FLOAT32) -> Run:
    """Load a model into an engine.

    Args:
        engine: One of `PEERS`.
        model: An ONNX file; or, for OpenVINO, an .xml file of its own.
        inputs: A value for every input; the engine is made ready for these shapes.
        threads: Threads to run on.
        precision: What it computes in where the model says float32: that, or "bfloat16", which OpenVINO alone takes.

    Returns:
        A function from the inputs to the outputs, both by name.

    Raises:
        LeptonError: The engine is unknown, not installed or has no such precision, ncnn's converter fails, or the
            engine crashes on the model, which is tried in a process of its own. What an engine raises comes through as
            it is.
    """
    require_peers([engine])
    if precision not in (_HINTS if engine == "openvino" else (FLOAT32,)):
        raise LeptonError(f"{engine} is not measured in {precision}", engine=engine)
    _require_survival(engine, model, inputs, threads, precision)
    return _load(engine, model, inputs, threads, precision)


def _load(engine: str, model: Path, inputs: Arrays, threads: int, precision: str) -> Run:
    if engine == "openvino":
        return _load_openvino(model, inputs, threads, precision)
    return {"onnxruntime": _load_onnxruntime, "ncnn": _load_ncnn}[engine](model, inputs, threads)


def _require_survival(engine: str, model: Path, inputs: Arrays, threads: int, precision: str) -> None:
    """Load and run the model in another process, which may die of it."""
    with tempfile.TemporaryDirectory(prefix="lepton-peer-") as folder:
        arrays = Path(folder) / "inputs.npz"
        np.savez(arrays, *inputs.values())
        arguments = [engine, str(model), str(arrays), json.dumps(list(inputs)), str(threads), precision]
        command = [sys.executable, "-P", "-m", __name__, *arguments]
        try:
            status = subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS).returncode
        except subprocess.TimeoutExpired as error:
            raise LeptonError(f"{engine} does not load and run the model within {_SECONDS} s", engine=engine) from error
    if status < 0:
        raise LeptonError(f"{engine} crashes on the model ({signal.Signals(-status).name})", engine=engine)


def _try(engine: str, model: str, arrays: str, names: str, threads: str, precision: str) -> None:
    """What `_require_survival` runs in a process of its own."""
    with np.load(arrays) as stored:
        inputs = {name: stored[f"arr_{place}"] for place, name in enumerate(json.loads(names))}
    _load(engine, Path(model), inputs, int(threads), precision)(inputs)
    os._exit(0)  # what an engine does at the end of its process is not what is asked


def _load_onnxruntime(model: Path, inputs: Arrays, threads: int) -> Run:
    """With all of its optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(outputs, session.run(outputs, dict(feed)), strict=True))


def _load_openvino(model: Path, inputs: Arrays, threads: int, precision: str) -> Run:
    """With static shapes, and kept from computing in bfloat16 unless that is asked for."""
    import openvino

    core = openvino.Core()
    read = core.read_model(model)
    read.reshape({tensor: list(array.shape) for tensor, array in inputs.items()})
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
    }
    request = core.compile_model(read, "CPU", settings).create_infer_request()
    # The order is ONNX's; of the names, OpenVINO keeps those that its own optimisations leave.
    outputs = [output.any_name for output in read.outputs] if model.suffix == ".xml" else _output_names(model)

    def run(feed: Arrays) -> dict[str, npt.NDArray[Any]]:
        request.infer(dict(feed), share_inputs=True)
        return {output: request.get_output_tensor(index).data.copy() for index, output in enumerate(outputs)}

    return run


def _load_ncnn(model: Path, inputs: Arrays, threads: int) -> Run:
    """Converted by pnnx; without the narrower types that it would choose by itself."""
    import ncnn

    folder = tempfile.TemporaryDirectory(prefix="lepton-ncnn-")
    parameters, weights = _convert_with_pnnx(model, inputs, Path(folder.name))
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.lightmode = True
    net.opt.use_vulkan_compute = False
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "bf16_packed"):
        if hasattr(net.opt, f"use_{option}"):
            setattr(net.opt, f"use_{option}", False)
    if net.load_param(str(parameters)) != 0 or net.load_model(str(weights)) != 0:
        raise LeptonError("ncnn can not load what pnnx made of the model")
    names, tensors, outputs = list(net.input_names()), _input_names(model, inputs), _output_names(model)
    if len(names) != len(inputs) or len(net.output_names()) != len(outputs):
        raise LeptonError("what pnnx made of the model has other inputs or outputs than it")

    def run(feed: Arrays) -> dict[str, npt.NDArray[Any]]:
        with net.create_extractor() as extractor:
            held = [_without_batch(feed[tensor]) for tensor in tensors]  # a Mat refers to its array
            for name, array in zip(names, held, strict=True):
                extractor.input(name, ncnn.Mat(array))
            results = {}
            for name, output in zip(net.output_names(), outputs, strict=True):
                status, value = extractor.extract(name)
                if status != 0:
                    raise LeptonError(f"ncnn can not compute {output}")
                results[output] = np.array(value)[None]
        return results

    run.__dict__["folder"] = folder  # the weights are mapped from there
    return run


def _without_batch(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """As pnnx has it: it drops the batch axis of 1; ncnn's integers have 32 bits."""
    narrow = array.astype(np.int32) if array.dtype.kind in "iu" else array
    return np.ascontiguousarray(narrow[0] if narrow.ndim > 1 and narrow.shape[0] == 1 else narrow)


def _convert_with_pnnx(model: Path, inputs: Arrays, folder: Path) -> tuple[Path, Path]:
    """The .param and .bin file that pnnx makes; it runs the model on the inputs to learn all shapes."""
    import pnnx

    (folder / "model.onnx").symlink_to(model.absolute())
    files = [f"input{number}.npy" for number in range(len(inputs))]
    for file, name in zip(files, _input_names(model, inputs), strict=True):
        np.save(folder / file, inputs[name])
    command = [str(pnnx.EXEC_PATH), "model.onnx", f"input={','.join(files)}", "fp16=0"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_PNNX_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise LeptonError(f"pnnx does not convert the model within {_PNNX_SECONDS} s") from error
    parameters, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    if done.returncode != 0 or not parameters.exists() or not weights.exists():
        last = (done.stderr.decode(errors="replace").strip() or "it gives no reason").splitlines()[-1]
        raise LeptonError(f"pnnx does not convert the model: {last}")
    return parameters, weights


_PNNX_SECONDS = 300


def _input_names(model: Path, inputs: Arrays) -> list[str]:
    """The names of the inputs, in the model's order."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    return [entry.name for entry in graph.input if entry.name in inputs]


def _output_names(model: Path) -> list[str]:
    import onnx

    return [output.name for output in onnx.load(model, load_external_data=False).graph.output]


if __name__ == "__main__":
    _try(*sys.argv[1:])
