"""A program in C: one small function per call, and one that calls them in order.

A call's function stands under a comment that names its ONNX nodes, its kernel family and its shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count

from lepton_compile.codegen.interface import Interface, make_interface, onnx_name, shape_text, static_nbytes
from lepton_compile.codegen.names import C_TYPES, comment, string_literal
from lepton_compile.errors import BuildError
from lepton_compile.lowering.program import Buffer, Call, Program, Require, Step, Storage, location


@dataclass(frozen=True)
class Part:
    """A program as the driver of its library knows it.

    Attributes:
        program: The program.
        symbols: C name of every kernel by its own name, as `lepton_compile.codegen.building.kernel_tasks` gives it.
        offsets: Where its weights lie in the block `NAME_weights`.
        cpu_checks: What it asks the processor for, as `lepton_compile.codegen.cpu_features.cpu_checks` gives it.
        first_step: Number of its first step.
    """

    program: Program
    symbols: Mapping[str, str]
    offsets: Mapping[str, int]
    cpu_checks: tuple[str, ...] = ()
    first_step: int = 0

    @cached_property
    def interface(self) -> Interface:
        """The C names of its inputs and outputs."""
        return make_interface(self.program)

    def address(self, buffer: Buffer, *, const: bool) -> str:
        """The C expression of a pointer to a buffer's first element, where `self` is the instance."""
        owner, offset = location(self.program.buffers, buffer.name)
        base = self.program.buffers[owner]
        constant = "const " if const else ""
        cast = f"({constant}{C_TYPES[buffer.dtype]} *)"
        if base.storage is Storage.WEIGHT:
            return f"{cast}(self->weights + {self.offsets[owner] + offset})"
        if base.storage is Storage.ARENA:
            return f"{cast}(self->arena + {self.program.memory.offsets[owner] + offset})"
        if base.storage is Storage.INPUT:
            expression = f"self->inputs.{self.interface.inputs[owner]}"
        else:
            expression = f"self->outputs.{self.interface.outputs[owner]}"
        if offset:
            return f"{cast}(({constant}uint8_t *){expression} + {offset})"
        return expression if C_TYPES[base.dtype] == C_TYPES[buffer.dtype] else f"{cast}{expression}"

    def steps(self, name: str) -> Iterator[str]:
        """One C function per call, in the driver of the model `name`."""
        kernels, buffers = self.program.kernels, self.program.buffers
        for number, call in enumerate(self.program.calls(), self.first_step):
            kernel = kernels[call.kernel]
            if len(call.arguments) != kernel.inputs + kernel.outputs:
                raise BuildError(
                    f"step {number} gives kernel {kernel.name} {len(call.arguments)} arguments, not "
                    f"{kernel.inputs + kernel.outputs}",
                    kernel=kernel.name,
                    nodes=call.nodes,
                )
            operands = [buffers[argument] for argument in call.arguments]
            told = [shape_text(buffer) + (f" {buffer.layout}" if buffer.layout.block else "") for buffer in operands]
            nodes = comment(", ".join(call.nodes)) or "no node"
            arguments = [
                *(self.address(buffer, const=place < kernel.inputs) for place, buffer in enumerate(operands)),
                *(f"self->inputs.{self.interface.dimensions[dimension]}" for dimension in self.program.dimensions),
                "begin",
                "end",
            ]
            joined = ",\n      ".join(arguments)
            yield f"""\
/* Step {number}: {nodes}
 * {kernel.family}: {", ".join(told[: kernel.inputs])} -> {", ".join(told[kernel.inputs :])} */
static void step_{number}(void *context, int32_t begin, int32_t end) {{
  const struct {name}_instance *self = context;
  (void){self.symbols[kernel.name]}(
      {joined});
}}
"""

    def sequence(self, function: str) -> str:
        """The C function that runs the steps."""
        upper = self.program.name.upper()
        body = list(self._run(self.program.steps, count(self.first_step), "  "))
        body += [self._copy_output(buffer) for buffer in self.program.outputs if buffer.view_of is not None]
        if not body:
            body = ["  (void)self;"]
        body.append(f"  return {upper}_OK;")
        return f"""\
static {self.program.name}_status {function}(struct {self.program.name}_instance *self) {{
{chr(10).join(body)}
}}
"""

    def _run(self, steps: Sequence[Step], numbers: Iterator[int], indent: str) -> Iterator[str]:
        for step in steps:
            if isinstance(step, Call):
                number = next(numbers)
                blocks = self.program.kernels[step.kernel].blocks
                executor = "&self->executor" if step.parallel and blocks > 1 else "NULL"
                yield f"{indent}lepton_step(&self->profile, {number}, {executor}, step_{number}, self, {blocks});"
                continue
            pointer = self.address(self.program.buffers[step.condition], const=True)
            if isinstance(step, Require):
                yield f"{indent}if (!*{pointer}) {{ /* {comment(step.node)} */"
                yield f'{indent}  lepton_error_set(self->error, "%s", {string_literal(step.message)});'
                yield f"{indent}  return {self.program.name.upper()}_INVALID_INPUT;"
                yield f"{indent}}}"
            else:
                yield f"{indent}if (*{pointer}) {{ /* {comment(step.node)} */"
                yield from self._run(step.then_steps, numbers, indent + "  ")
                yield f"{indent}}} else {{"
                yield from self._run(step.else_steps, numbers, indent + "  ")
                yield f"{indent}}}"

    def _copy_output(self, buffer: Buffer) -> str:
        """An output that is another buffer's memory, such as an input handed through."""
        size = static_nbytes(buffer)
        if size is None:
            raise BuildError(f"output '{onnx_name(buffer)}' is a view of symbolic size", tensor=onnx_name(buffer))
        source = self.address(buffer, const=True)
        return f"  memcpy(self->outputs.{self.interface.outputs[buffer.name]}, {source}, {size});"
