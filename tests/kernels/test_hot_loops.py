"""The reductions of convolutions and matrix products keep their accumulators in registers, on every instruction set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import capstone
import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from tvm import te

from lepton_compile.codegen.kernels import build_object
from lepton_compile.kernels import winograd
from lepton_compile.kernels.byte_products import offset
from lepton_compile.kernels.convolution import convolution
from lepton_compile.kernels.convolution_plan import convolution_of
from lepton_compile.kernels.dequantizing_matmul import Packing, dequantizing_matmul
from lepton_compile.kernels.dot_convolution import dot_convolution
from lepton_compile.kernels.dot_matmul import dot_matmul
from lepton_compile.kernels.dot_product import BYTES, PAIRS, Words
from lepton_compile.kernels.expressions import leaves
from lepton_compile.kernels.integer_depthwise import integer_depthwise
from lepton_compile.kernels.kernel import Definition, Epilogue, Machine, Source
from lepton_compile.kernels.layout import PLAIN, Layout
from lepton_compile.kernels.matmul import matmul, matrix_product_of
from lepton_compile.kernels.window import ConvolutionShape, Window
from lepton_compile.kernels.winograd_plan import plans
from lepton_compile.lowering.builder import Builder
from lepton_compile.lowering.linear import linear_in, quantized
from lepton_compile.lowering.lower import machine_of
from lepton_compile.lowering.region import Scope
from lepton_compile.target import Target, resolve_target

TARGETS = ("x86-64-v3", "x86-64-v4", "cortex-a72")
BYTE_TARGETS = ("x86-64-v4-vnni", "cortex-a76")
WITH_DOT_PRODUCTS = {"extends": "x86-64-v4-vnni", "cpu": {"features": ["+avx512bf16"]}}
MULTIPLY_ADDS = ("vfmadd", "fmla", "vpdpbusd", "sdot")
STORED = {BYTES: "uint8", PAIRS: "bfloat16"}
SHUFFLES = ("vperm", "vpshuf", "vpunpck", "tbl", "zip", "uzp", "trn")
BRANCHES = ("j", "b.", "cbz", "cbnz", "tbz", "tbnz")


@dataclass(frozen=True)
class Loop:
    """An innermost loop: instructions from a label to the branch back to it, without another branch."""

    instructions: tuple[capstone.CsInsn, ...]

    def multiply_adds(self) -> int:
        return sum(each.mnemonic.startswith(MULTIPLY_ADDS) for each in self.instructions)

    def vector_stores(self) -> list[str]:
        """Without those of addresses, for which Arm's broadcasting load takes a register each."""
        return [store for store in self.stores() if not store.split()[1].startswith(("w", "x"))]

    def spilled(self) -> list[str]:
        """What it does with vectors that lie on the stack."""
        every = [f"{each.mnemonic} {each.op_str}" for each in self.instructions]
        return [each for each in every if _STACK.search(each) and _VECTOR.search(each)]

    def stores(self) -> list[str]:
        return [f"{each.mnemonic} {each.op_str}" for each in self.instructions if _stores(each)]


_STACK, _VECTOR = re.compile(r"\b(rsp|sp)\b"), re.compile(r"\b([xyz]mm|[vq])\d")


def _stores(instruction: capstone.CsInsn) -> bool:
    if instruction.mnemonic.startswith(("st1", "str", "stp", "stur")):
        return True
    # x86's memory operand is the destination where it is written first: "vmovups ymmword ptr [rdi], ymm0".
    return "ptr" in instruction.op_str.partition(",")[0] and instruction.mnemonic.startswith(("mov", "vmov"))


def instructions(path: Path) -> list[capstone.CsInsn]:
    """The instructions of an object's code."""
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        code = elf.get_section_by_name(".text").data()
        arm = elf.get_machine_arch() == "AArch64"
    disassembler = (
        capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
        if arm
        else capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    )
    disassembler.skipdata = True
    return list(disassembler.disasm(_VDPBF16PS.sub(_as_vpdpbusd, code), 0))


def innermost_loops(path: Path) -> Iterator[Loop]:
    """The innermost loops of an object's code."""
    decoded = instructions(path)
    places = {instruction.address: index for index, instruction in enumerate(decoded)}
    last_branch = -1
    for index, instruction in enumerate(decoded):
        if (
            not instruction.mnemonic.startswith(("j", "b.", "cbz", "cbnz", "tbz", "tbnz"))
            and instruction.mnemonic != "b"
        ):
            continue
        target = instruction.op_str.split(",")[-1].strip().lstrip("#")
        begin = places.get(int(target, 16)) if target.startswith("0x") else None
        if begin is not None and last_branch < begin <= index:
            yield Loop(tuple(decoded[begin:index]))
        last_branch = index


# Capstone does not know vdpbf16ps (EVEX.F3.0F38.W0 52); vpdpbusd (EVEX.66.0F38.W0 50) has the same operands.
_VDPBF16PS = re.compile(rb"(?s)\x62(.)(.)(.)\x52")


def _as_vpdpbusd(found: re.Match[bytes]) -> bytes:
    extension, operands, mask = (part[0] for part in found.groups())
    if extension & 0x0F != 0x02 or operands & 0x83 != 0x02:
        return found[0]
    return bytes([0x62, extension, operands ^ 0x03, mask, 0x50])


def direct(machine: Machine) -> Definition:
    shapes = convolution_of(ConvolutionShape(1, 64, 64, 1, (Window(28, 28, 3, pad=1),) * 2), machine)
    image, result = (te.placeholder((1, 64, 28, 28), "float32", name=name) for name in ("image", "result"))
    blocked = Layout(machine.lanes)
    return convolution(shapes, Source(image, blocked), Epilogue(result, result, (), blocked), machine)


def of_one_channel(machine: Machine) -> Definition:
    """A tap of its borders is a step of the reduction, and neighbouring taps read the same inputs."""
    shapes = convolution_of(ConvolutionShape(1, 1, 16, 1, (Window(40, 40, 5, pad=2),) * 2), machine)
    image = te.placeholder((1, 1, 40, 40), "float32", name="image")
    result = te.placeholder((1, 16, 40, 40), "float32", name="result")
    return convolution(shapes, Source(image, PLAIN), Epilogue(result, result, (), Layout(machine.lanes)), machine)


def pixels(machine: Machine) -> Definition:
    shapes = convolution_of(ConvolutionShape(1, 64, 128, 1, (Window(14, 14, 1),) * 2), machine)
    image = te.placeholder((1, 64, 14, 14), "float32", name="image")
    result = te.placeholder((1, 128, 14, 14), "float32", name="result")
    blocked = Layout(machine.lanes)
    return convolution(shapes, Source(image, blocked), Epilogue(result, result, (), blocked), machine)


def filtered(machine: Machine) -> Definition:
    shape = ConvolutionShape(1, 64, 64, 1, (Window(28, 28, 3, pad=1),) * 2)
    plan = next(plan for plan in plans(shape, machine) if not plan.staged)
    image, result = (te.placeholder((1, 64, 28, 28), "float32", name=name) for name in ("image", "result"))
    blocked = Layout(machine.lanes)
    return winograd.convolution(plan, Source(image, blocked), Epilogue(result, result, (), blocked), machine)


def product(machine: Machine) -> Definition:
    shapes = matrix_product_of([], [128], 384, 384, machine)
    left = te.placeholder((128, 384), "float32", name="left")
    result = te.placeholder((128, 384), "float32", name="result")
    return matmul(shapes, left, Source(left, PLAIN), False, [], Epilogue(result, result, (), PLAIN), machine)


def packed(machine: Machine, packing: Packing, dtype: str) -> Definition:
    """A product of one row, by a matrix of integers."""
    shapes = matrix_product_of([], [1], 384, 384, machine, packing.vectors(machine))
    left, result = (te.placeholder((1, 384), "float32", name=name) for name in ("left", "result"))
    epilogue = Epilogue(result, result, (), PLAIN)
    return dequantizing_matmul(shapes, packing, dtype, left, Source(left, PLAIN), False, epilogue, machine)


def of_bytes(machine: Machine) -> Definition:
    return packed(machine, Packing(8, 384, scaled=False), "int8")


def of_half_bytes(machine: Machine) -> Definition:
    return packed(machine, Packing(4, 32, scaled=True, zero=8), "int32")


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("family", [of_bytes, of_half_bytes])
def test_packed_weights_are_widened_in_registers(name: str, family, tmp_path: Path) -> None:
    target = resolve_target(name)
    build_object(family(machine_of(target)).function, "kernel", target.tvm(), tmp_path / "kernel.o")
    reductions = [loop for loop in innermost_loops(tmp_path / "kernel.o") if loop.multiply_adds() >= 4]
    assert reductions
    for loop in reductions:
        assert not loop.stores()


def dot_direct(words: Words, machine: Machine) -> Definition:
    shapes = convolution_of(ConvolutionShape(1, 64, 64, 1, (Window(28, 28, 3, pad=1),) * 2), machine)
    image = te.placeholder((1, 64, 28, 28), STORED[words], name="image")
    result = te.placeholder((1, 64, 28, 28), words.sums, name="result")
    blocked = Layout(machine.lanes)
    return dot_convolution(words, shapes, Source(image, blocked), Epilogue(result, result, (), blocked), machine)


def dot_product(words: Words, machine: Machine) -> Definition:
    shapes = matrix_product_of([], [128], 384, 384, machine)
    left = te.placeholder((128, 384), STORED[words], name="left")
    result = te.placeholder((128, 384), words.sums, name="result")
    epilogue = Epilogue(result, result, (), PLAIN)
    return dot_matmul(words, shapes, left, Source(left, PLAIN), [], epilogue, machine)


def reductions_of(definition: Definition, target: Target, path: Path) -> list[Loop]:
    """The loops of multiply-adds, which keep what they add up in registers."""
    build_object(definition.function, "kernel", target.tvm(), path)
    reductions = [loop for loop in innermost_loops(path) if loop.multiply_adds() >= 4]
    assert reductions, "no loop of multiply-adds was found"
    assert max(loop.multiply_adds() for loop in reductions) >= machine_of(target).registers // 2
    for loop in reductions:
        assert not loop.stores()
        assert not loop.spilled()
    return reductions


@pytest.mark.parametrize("family", [direct, of_one_channel, pixels, filtered, product])
@pytest.mark.parametrize("name", TARGETS)
def test_reductions_store_nothing(name: str, family, tmp_path: Path) -> None:
    target = resolve_target(name)
    reductions_of(family(machine_of(target)), target, tmp_path / "kernel.o")


@pytest.mark.parametrize("family", [dot_direct, dot_product])
@pytest.mark.parametrize("words", [BYTES, PAIRS], ids=lambda words: words.name)
def test_reductions_of_words_store_nothing(words: Words, family, tmp_path: Path) -> None:
    target = resolve_target(WITH_DOT_PRODUCTS)
    reductions = reductions_of(family(words, machine_of(target)), target, tmp_path / "kernel.o")
    mnemonics = {each.mnemonic for loop in reductions for each in loop.instructions}
    assert "vpdpbusd" in mnemonics
    assert not any(mnemonic.startswith(("call", "vfmadd")) for mnemonic in mnemonics)


def bytes_direct(machine: Machine) -> Definition:
    shapes = convolution_of(ConvolutionShape(1, 64, 64, 1, (Window(28, 28, 3, pad=1),) * 2), machine)
    image, sums = _bytes_and_sums((1, 64, 28, 28), (1, 64, 28, 28), machine)
    blocked = Layout(machine.lanes)
    return dot_convolution(BYTES, shapes, Source(image, blocked), Epilogue(sums, sums, (), blocked), machine)


def bytes_product(machine: Machine) -> Definition:
    shapes = matrix_product_of([], [128], 384, 384, machine)
    left, sums = _bytes_and_sums((128, 384), (128, 384), machine)
    return dot_matmul(BYTES, shapes, left, Source(left, PLAIN), [], Epilogue(sums, sums, (), PLAIN), machine)


def _bytes_and_sums(image: tuple[int, ...], sums: tuple[int, ...], machine: Machine) -> tuple[te.Tensor, te.Tensor]:
    """Bytes that the instruction counts as they are, and sums."""
    dtype = "int8" if offset(machine.dot_products, "uint8") else "uint8"
    return te.placeholder(image, dtype, name="image"), te.placeholder(sums, "int32", name="sums")


@pytest.mark.parametrize("family", [bytes_direct, bytes_product])
@pytest.mark.parametrize("name", BYTE_TARGETS)
def test_reductions_of_bytes_store_nothing(name: str, family, tmp_path: Path) -> None:
    target = resolve_target(name)
    machine = machine_of(target)
    build_object(family(machine).function, "kernel", target.tvm(), tmp_path / "kernel.o")
    reductions = [loop for loop in innermost_loops(tmp_path / "kernel.o") if loop.multiply_adds() >= 4]
    assert max(loop.multiply_adds() for loop in reductions) >= machine.registers // 2
    for loop in reductions:
        assert not loop.vector_stores()


@pytest.mark.parametrize("name", BYTE_TARGETS)
def test_four_taps_are_a_shuffle_and_a_product(name: str, tmp_path: Path) -> None:
    """Depthwise convolutions of bytes: no byte is moved on its own, and no sum goes to memory between the taps."""
    target = resolve_target(name)
    machine = machine_of(target)
    image, sums = _bytes_and_sums((1, 64, 30, 30), (1, 64, 28, 28), machine)
    blocked = Layout(machine.lanes)
    epilogue = Epilogue(sums, sums, (), blocked)
    kernel = integer_depthwise([Window(30, 28, 3)] * 2, Source(image, blocked), epilogue, machine)
    build_object(kernel.function, "kernel", target.tvm(), tmp_path / "kernel.o")
    loop = max(innermost_loops(tmp_path / "kernel.o"), key=Loop.multiply_adds)
    shuffles = [each for each in loop.instructions if each.mnemonic.startswith(SHUFFLES)]
    assert loop.multiply_adds() >= 8
    assert len(shuffles) <= 2 * loop.multiply_adds()
    assert len(loop.vector_stores()) <= 8, "more than the results is stored"


def test_quantizing_sums_again_is_short(tmp_path: Path) -> None:
    """A multiply-add, a rounding, the lower limit, and a store that saturates, for each vector of sums."""
    target = resolve_target("x86-64-v4-vnni")
    machine = machine_of(target)
    scope = Scope(Builder("model", machine), ["node"])
    shape = (1, 64, 28, 28)
    image, sums = _bytes_and_sums(shape, shape, machine)
    form = linear_in(sums, np.linspace(1e-4, 1e-3, 64).reshape(1, -1, 1, 1), 1e6).shifted(np.float64(0.1))
    result = quantized(scope, form, 0.05, 4, "uint8")
    assert result is not None
    (factors,) = (leaf for leaf in leaves(result) if leaf.op != sums.op)
    blocked = Layout(machine.lanes)
    shapes = convolution_of(ConvolutionShape(1, 64, 64, 1, (Window(28, 28, 1),) * 2), machine)
    epilogue = Epilogue(result, sums, (Source(factors, blocked),), blocked)
    kernel = dot_convolution(BYTES, shapes, Source(image, blocked), epilogue, machine)
    build_object(kernel.function, "kernel", target.tvm(), tmp_path / "kernel.o")
    names = [each.mnemonic for each in instructions(tmp_path / "kernel.o")]
    tile = names.count("vcvtps2dq")
    assert tile >= machine.registers // 2
    assert names.count("vcvtdq2ps") == names.count("vpmovusdb") == tile
    assert sum(name.startswith("vfmadd") for name in names) == tile
    assert not {"vrndscaleps", "vcvttps2dq", "vpmovdb", "vmaxps", "vminps", "vdivps"} & set(names)


def test_a_store_is_seen() -> None:
    """The check itself: what an accumulator that went to memory would look like."""
    code = {
        (capstone.CS_ARCH_X86, capstone.CS_MODE_64): bytes.fromhex("c5fc1107"),  # vmovups ymmword ptr [rdi], ymm0
        (capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM): bytes.fromhex("0000803d"),  # str q0, [x0]
    }
    for (architecture, mode), data in code.items():
        (instruction,) = capstone.Cs(architecture, mode).disasm(data, 0)
        assert _stores(instruction)
