from __future__ import annotations

from collections.abc import Callable

import onnx.parser
import pytest

from lepton_compile.model import Graph


@pytest.fixture(scope="session")
def graph() -> Callable[[str], Graph]:
    """A graph from ONNX's textual format."""

    def parse(text: str) -> Graph:
        parsed = Graph.from_model(onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]>' + text))
        parsed.infer_shapes()
        return parsed

    return parse
