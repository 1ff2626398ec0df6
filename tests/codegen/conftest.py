"""Small programs made by hand, and a stand-in for a target: code generation needs nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from tvm import tirx
from tvm.tirx import stmt

from lepton_compile.codegen.linking import host_architecture
from lepton_compile.lowering.program import Buffer, Call, Kernel, MemoryPlan, Program, Storage
from lepton_compile.target import Resources


@dataclass(frozen=True)
class StandInTarget:
    """As much of a target as code generation asks for."""

    triple: str = f"{host_architecture()}-linux-gnu"
    cpu: str = "x86-64-v2" if host_architecture() == "x86_64" else "generic"
    features: tuple[str, ...] = ()
    enabled: tuple[str, ...] = ()
    resources: Resources = field(default_factory=lambda: Resources(1, 1))
    instruction_set: str = "scalar"
    vector_bytes: int = 16
    has_fma: bool = False
    has_dot_products: bool = False
    has_bfloat16_dot_products: bool = False

    @property
    def architecture(self) -> str:
        return self.triple.split("-")[0]

    @property
    def name(self) -> str:
        return "host" if self.architecture == host_architecture() else f"stand-in-{self.triple}"

    def tvm(self) -> dict[str, object]:
        return {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu, "mattr": list(self.features)}

    def zig_triple(self) -> str:
        return self.triple

    def enabled_features(self) -> frozenset[str]:
        return frozenset(self.enabled)

    def describe(self) -> dict[str, object]:
        return {"name": self.name, "cpu": {"name": self.cpu, "features": list(self.features)}}


def map_kernel(
    name: str,
    value: Callable[..., tirx.Expr],
    rows: int,
    columns: int | str,
    inputs: int = 1,
    dtype: str = "float32",
    vector: int = 1,
) -> Kernel:
    """out[i, j] = value(in0[i, j], ...), the rows in parallel."""
    width = tirx.Var(columns, "int32") if isinstance(columns, str) else columns
    buffers = [tirx.decl_buffer((rows, width), dtype, name=f"x{k}") for k in range(inputs)]
    out = tirx.decl_buffer((rows, width), dtype, name="y")
    i, j = tirx.Var("i", "int32"), tirx.Var("j", "int32")
    column: tirx.Expr = j
    lane = tirx.Var("lane", "int32")
    if vector > 1:
        column = j * vector + lane
    body: tirx.Stmt = stmt.BufferStore(out, value(*(tirx.BufferLoad(b, [i, column]) for b in buffers)), [i, column])
    if vector > 1:
        body = stmt.For(lane, 0, vector, stmt.ForKind.VECTORIZED, body)
        assert isinstance(width, int)
        width //= vector
    body = stmt.For(i, 0, rows, stmt.ForKind.PARALLEL, stmt.For(j, 0, width, stmt.ForKind.SERIAL, body))
    return Kernel(name, tirx.PrimFunc([*buffers, out], body), inputs, 1, rows, "map", rows, (f"node_{name}",))


def two_step_program(name: str = "toy", rows: int = 8, columns: int | str = 48) -> Program:
    """y = (x * 2 + w) + x, through an arena buffer."""
    shape = (rows, columns)
    buffers = {
        "x": Buffer("x", shape, "float32", storage=Storage.INPUT, tensor="images:0"),
        "w": Buffer("w", shape, "float32", storage=Storage.WEIGHT, tensor="weight"),
        "t": Buffer("t", shape, "float32", tensor="hidden"),
        "y": Buffer("y", shape, "float32", storage=Storage.OUTPUT, tensor="class"),
    }
    size = 4 * rows * columns if isinstance(columns, int) else 4 * rows * 1024
    weight_columns = columns if isinstance(columns, int) else 1024
    weight = np.arange(rows * weight_columns, dtype=np.float32).reshape(rows, weight_columns)
    kernels = {
        "scale_add": map_kernel("scale_add", lambda a, b: a * tirx.const(2, "float32") + b, rows, columns, 2),
        "add": map_kernel("add", lambda a, b: a + b, rows, columns, 2),
    }
    aligned = -(-size // 64) * 64
    return Program(
        name=name,
        inputs=(buffers["x"],),
        outputs=(buffers["y"],),
        buffers=buffers,
        weights={"w": weight},
        kernels=kernels,
        steps=(
            Call("scale_add", ("x", "w", "t"), ("Mul_1", "Add_2")),
            Call("add", ("t", "x", "y"), ("Add_3",), parallel=False),
        ),
        memory=MemoryPlan({"t": 0, "y": aligned}, 2 * aligned),
        dimensions=(columns,) if isinstance(columns, str) else (),
    )


@pytest.fixture(scope="session")
def host() -> StandInTarget:
    return StandInTarget()


@pytest.fixture(scope="session")
def make_map_kernel() -> Callable[..., Kernel]:
    return map_kernel


@pytest.fixture(scope="session")
def make_program() -> Callable[..., Program]:
    return two_step_program


@pytest.fixture(scope="session")
def make_target() -> type[StandInTarget]:
    return StandInTarget
