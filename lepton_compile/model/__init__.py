"""ONNX in and out: the `Graph` that passes work on, and the import that makes one of a published model."""

from lepton_compile.model.graph import FUSED_DOMAIN, Graph
from lepton_compile.model.importing import import_model

__all__ = ["FUSED_DOMAIN", "Graph", "import_model"]
