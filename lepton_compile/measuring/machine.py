"""The machine that is measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_PACKAGES = (
    "lepton-compile",
    "onnxruntime",
    "openvino",
    "nncf",
    "ncnn",
    "pnnx",
    "apache-tvm",
    "onnx",
    "numpy",
)


def processor() -> str:
    """The processor's name, as the system has it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text("utf-8").splitlines() if information.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, platform.processor() or platform.machine())


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> dict[str, Any]:
    """The machine, and the versions of what is measured on it, as JSON values."""
    from lepton_compile.target import sense_host

    host = sense_host()
    installed = {item.metadata["Name"].lower(): item.version for item in importlib.metadata.distributions()}
    return {
        "processor": processor(),
        "cpu": host.cpu,
        "features": list(host.features),
        "threads_usable": host.resources.threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": list(os.getloadavg()),
        "versions": {package: installed[package] for package in _PACKAGES if package in installed},
    }
