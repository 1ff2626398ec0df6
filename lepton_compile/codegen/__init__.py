"""Program to Library: kernels to objects, the C driver and header, linking, and the artefact's folder."""

from lepton_compile.codegen.artefact import Library, generate
from lepton_compile.codegen.pool import shutdown, workers
from lepton_compile.codegen.tracing import TracedStep, trace

__all__ = ["Library", "TracedStep", "generate", "shutdown", "trace", "workers"]
