"""ONNX in and out: the `Graph` that passes work on, and the import that makes one of a published model."""

from lepton_compile.model.graph import Graph
from lepton_compile.model.importing import import_model

__all__ = ["Graph", "import_model"]
