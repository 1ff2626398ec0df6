"""Program to Library: kernels to objects, the C driver and header, linking, and the artefact's folder."""

from lepton_compile.codegen.artefact import Library, generate, generate_variants
from lepton_compile.codegen.pool import shutdown, workers
from lepton_compile.codegen.tracing import TracedStep, trace
from lepton_compile.codegen.variants import Variant

__all__ = ["Library", "TracedStep", "Variant", "generate", "generate_variants", "shutdown", "trace", "workers"]
