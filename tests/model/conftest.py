"""Small models in ONNX's own text form, which says what a test is about better than calls of helpers do."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import onnx
import pytest


@pytest.fixture
def parse() -> Callable[[str], onnx.ModelProto]:
    """Parse the text of a graph, after a header that gives it the operator set asked for."""

    def parse(text: str, opset: int = 21, functions: str = "", imports: str = "") -> onnx.ModelProto:
        header = f'<ir_version: 10, opset_import: ["" : {opset}{imports}]>'
        return onnx.parser.parse_model(f"{header}\n{text}\n{functions}")

    return parse


@pytest.fixture(scope="session")
def pretrained() -> ModuleType:
    """examples/pretrained.py."""
    path = Path(__file__).parents[2] / "examples" / "pretrained.py"
    spec = importlib.util.spec_from_file_location("pretrained", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["pretrained"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
