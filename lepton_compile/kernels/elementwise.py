"""Kernels that compute each element of their output on its own: element-wise chains, transposes, gathers.

The loops are the output's dimensions in memory order. Neighbouring dimensions that every operand walks through alike
are merged, so that `relu` of a 4-D tensor is one long loop and a per-channel bias costs no division; the innermost one
is a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import ir, sym, te, tirx

from lepton_compile.kernels.expressions import (
    count_operations,
    evaluate,
    identity,
    loads_of,
    variables_outside_loads,
    vector_store,
)
from lepton_compile.kernels.kernel import Definition, Machine, Operands, Source, physical, shape_of
from lepton_compile.kernels.layout import Layout
from lepton_compile.kernels.loops import function, parallel, parameter, sequence, serial, store

# A flat loop is cut into pieces of this many elements for the threads to share; about the size of an L1 cache.
FLAT_BLOCK = 4096
# Enough blocks for any machine's threads to share evenly.
MANY_BLOCKS = 64


@dataclass(frozen=True)
class Part:
    """Where in a larger tensor a kernel's output goes: concatenation writes its operands side by side.

    Attributes:
        shape: Logical shape of the larger tensor.
        axis: The axis along which the output is a part of it.
        offset: Index of the output's first element on that axis.
    """

    shape: tuple[int, ...]
    axis: int
    offset: int


def elementwise(
    output: te.Tensor, layout: Layout, sources: Sequence[Source], machine: Machine, part: Part | None = None
) -> Definition:
    """Compute `output`, which has no reduction, in the given layout.

    Args:
        output: The tensor; everything that it is computed from is inlined down to `sources`.
        layout: How the output lies in memory.
        sources: The tensors that it reads.
        machine: The instruction set.
        part: Where the output goes if it is a part of a larger tensor of the same layout.

    Returns:
        A kernel of the sources, in order, and the output.
    """
    channels = shape_of(output)[1] if layout.block else 0
    walked = layout
    if part and layout.block and part.axis == 1 and (part.offset % layout.block or channels % layout.block):
        # A part that does not fill whole blocks is written in pieces of blocks that it fills.
        walked = Layout(math.gcd(layout.block, part.offset, channels))
    extents = walked.physical_shape(shape_of(output)) or (1,)
    analyzer = sym.Analyzer()
    variables = [tirx.Var(f"i{axis}", "int32") for axis in range(len(extents))]
    for variable, extent in zip(variables, extents, strict=True):
        analyzer.bind(variable, ir.Range(0, extent))
    inputs = Operands(sources, analyzer)

    def unguarded(at: Sequence[tirx.Expr]) -> tirx.Expr:
        return evaluate(output, logical(at, walked, len(output.shape)), inputs.load)

    general = unguarded(variables)
    guarded = bool(channels % walked.block) and not stays_in_lane(general, variables) if walked.block else False

    def value(at: Sequence[tirx.Expr]) -> tirx.Expr:
        if not guarded:
            return unguarded(at)
        inside = at[1] * layout.block + at[-1] < channels
        return tirx.if_then_else(inside, unguarded(at), tirx.const(0, str(output.dtype)))

    whole = layout.physical_shape(part.shape) if part else extents
    groups = merged_axes(general, variables, extents, walked.physical_shape(part.shape) if part else extents)
    sizes = [math.prod(extents[axis] for axis in group) for group in groups]
    result = parameter("y", whole, str(output.dtype))
    dtypes = {str(output.dtype), *(str(buffer.dtype) for buffer in inputs.parameters)}
    # Vectors of booleans are packed bits in LLVM but bytes in memory: leave those to its own vectoriser.
    lanes = 1 if "bool" in dtypes else machine.lanes

    def put(position: list[tirx.Expr], width: int) -> tirx.Stmt:
        """Store `width` elements from this position of the merged axes on."""

        def at(lane: tirx.Expr) -> list[tirx.Expr]:
            return unmerge([*position[:-1], position[-1] + lane], groups, extents)

        def place(lane: tirx.Expr) -> list[tirx.Expr]:
            if part is None:
                return at(lane)
            indices = logical(at(lane), walked, len(output.shape))
            indices[part.axis] = indices[part.axis] + part.offset
            return physical(layout, indices, analyzer)

        return vector_store(width, lambda lane: value(at(lane)), lambda lane, v: store(result, place(lane), v))

    def apart(read: ir.TensorLoad) -> int | None:
        """How many elements further into its operand's memory a load lies than the output's element in its own."""
        shape = [int(size) for size in read.source.shape]
        distance = analyzer.simplify(_row_major(read.indices, shape) - _row_major(variables, extents))
        return int(distance) if isinstance(distance, tirx.IntImm) else None

    def read_in_place(buffer: tirx.Buffer) -> bool:
        same = str(buffer.dtype) == str(output.dtype) and math.prod(map(int, buffer.shape)) == math.prod(extents)
        return part is None and same and all(apart(r) == 0 for r in loads_of(general) if r.source.same_as(buffer))

    body, blocks = vector_loops(sizes, lanes, put)
    return Definition(
        function=function([*inputs.parameters, result], body),
        inputs=len(sources),
        blocks=blocks,
        family="elementwise",
        operations=count_operations(general) * math.prod(extents),
        copies=apart(general) if part is None and isinstance(general, ir.TensorLoad) else None,
        in_place=tuple(number for number, buffer in enumerate(inputs.parameters) if read_in_place(buffer)),
    )


def _row_major(indices: Sequence[tirx.Expr], shape: Sequence[int]) -> tirx.Expr:
    """The place in memory, in elements."""
    place: tirx.Expr = tirx.const(0, "int32")
    for index, size in zip(indices, shape, strict=True):
        place = place * size + index
    return place


def stays_in_lane(value: tirx.Expr, variables: Sequence[tirx.Var]) -> bool:
    """Whether every load that follows the channels takes the output's own block and lane.

    Padding lanes then read padding lanes only, and nothing outside an operand.
    """
    block, lane = identity(variables[1]), identity(variables[-1])
    for read in loads_of(value):
        if not {block, lane} & set().union(*map(variables_outside_loads, read.indices)):
            continue
        if len(read.indices) != len(variables) or identity(read.indices[-1]) != lane:
            return False
        if identity(read.indices[1]) != block and int(read.source.shape[1]) != 1:
            return False
    return True


def logical(at: Sequence[tirx.Expr], layout: Layout, rank: int) -> list[tirx.Expr]:
    """The logical indices of a physical position."""
    if rank == 0:
        return []
    if not layout.block:
        return list(at)
    n, block, *spatial, lane = at
    return [n, block * layout.block + lane, *spatial]


def merged_axes(
    value: tirx.Expr, variables: Sequence[tirx.Var], extents: Sequence[int], whole: Sequence[int]
) -> list[list[int]]:
    """Groups of neighbouring axes that can be walked as one, given the value at the variables of the axes.

    `whole` are the extents of the tensor that the result is stored in; axes merge only where it is not larger.

    Two axes merge if every load either uses neither, or uses both as two neighbouring indices of a buffer whose second
    extent is that of the loop, and nothing but loads uses them.
    """
    loads = loads_of(value)
    outside = variables_outside_loads(value)

    def mergeable(first: int) -> bool:
        a, b = identity(variables[first]), identity(variables[first + 1])
        if whole[first + 1] != extents[first + 1]:
            return False
        if a in outside or b in outside:
            return False
        for read in loads:
            used = [variables_outside_loads(index) for index in read.indices]
            places = [p for p, names in enumerate(used) if a in names or b in names]
            if not places:
                continue
            if len(places) != 2 or places[1] != places[0] + 1:
                return False
            p = places[0]
            if identity(read.indices[p]) != a or identity(read.indices[p + 1]) != b:
                return False
            if int(read.source.shape[p + 1]) != extents[first + 1]:
                return False
        return True

    groups = [[0]]
    for axis in range(1, len(extents)):
        trivial = extents[axis] == 1 or all(extents[a] == 1 for a in groups[-1])
        if (trivial and whole[axis] == extents[axis]) or mergeable(axis - 1):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


def unmerge(position: Sequence[tirx.Expr], groups: Sequence[Sequence[int]], extents: Sequence[int]) -> list[tirx.Expr]:
    """The index of every axis from the positions in the groups; the simplifier undoes the divisions."""
    indices: list[tirx.Expr] = []
    for index, group in zip(position, groups, strict=True):
        rest = index
        parts: list[tirx.Expr] = []
        for place, axis in reversed(list(enumerate(group))):
            outermost = all(extents[a] == 1 for a in group[:place])
            if extents[axis] == 1:
                parts.append(tirx.const(0, "int32"))
            elif outermost:
                parts.append(rest)
            else:
                parts.append(tirx.floormod(rest, extents[axis]))
                rest = tirx.floordiv(rest, extents[axis])
        indices.extend(reversed(parts))
    return indices


def vector_loops(
    sizes: Sequence[int], lanes: int, put: Callable[[list[tirx.Expr], int], tirx.Stmt]
) -> tuple[tirx.Stmt, int]:
    """Loops over `sizes`, the innermost in vectors and a tail; `put(position, width)` is the statement of one vector.

    Returns:
        The loops, the outermost parallel, and its extent.
    """
    *outer, inner = sizes

    def along_inner(position: list[tirx.Expr], begin: tirx.Expr | int, count: tirx.Expr | int) -> tirx.Stmt:
        width = lanes
        while width > inner:
            width //= 2
        parts = []
        vectors = count // width if isinstance(count, int) else tirx.floordiv(count, width)
        if not (isinstance(vectors, int) and vectors == 0):
            parts.append(serial(vectors, lambda v: put([*position, begin + v * width], width), "vector"))
        if inner % width:
            left = count - vectors * width
            if not (isinstance(left, int) and left == 0):
                parts.append(serial(left, lambda t: put([*position, begin + vectors * width + t], 1), "tail"))
        return sequence(parts)

    def inside(position: list[tirx.Expr], left: Sequence[int]) -> tirx.Stmt:
        if not left:
            return along_inner(position, 0, inner)
        return serial(left[0], lambda i: inside([*position, i], left[1:]))

    # One axis is cut into pieces, so that there are enough blocks, and none that is hardly worth its indices.
    cut = 0
    while cut < len(outer) and math.prod(outer[: cut + 1]) < MANY_BLOCKS:
        cut += 1
    before, whole = math.prod(sizes[:cut]), sizes[cut]
    piece = FLAT_BLOCK
    if cut < len(outer):
        piece = max(1, min(FLAT_BLOCK // math.prod(sizes[cut + 1 :]), before * whole // MANY_BLOCKS))
    pieces = -(-whole // piece)

    def block(index: tirx.Expr) -> tirx.Stmt:
        *position, number = split_index(index, [*sizes[:cut], pieces])
        begin: tirx.Expr | int = number * piece if pieces > 1 else 0
        count: tirx.Expr | int = (
            min(piece, whole) if whole % piece == 0 or pieces == 1 else tirx.min(piece, whole - begin)
        )
        if cut == len(outer):
            return along_inner(position, begin, count)
        return serial(count, lambda i: inside([*position, begin + i], outer[cut + 1 :]))

    return parallel(before * pieces, block), before * pieces


def split_index(index: tirx.Expr, sizes: Sequence[int]) -> list[tirx.Expr]:
    """Indices of several loops from that of one over all of them."""
    parts: list[tirx.Expr] = []
    for place in reversed(range(len(sizes))):
        if sizes[place] == 1:
            parts.append(tirx.const(0, "int32"))
        elif place == 0:
            parts.append(index)
        else:
            parts.append(tirx.floormod(index, sizes[place]))
            index = tirx.floordiv(index, sizes[place])
    return parts[::-1]
