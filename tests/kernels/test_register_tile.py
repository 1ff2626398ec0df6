"""The choice of a register tile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_compile.kernels.kernel import Machine
from lepton_compile.kernels.register_tile import TileShape, choose_tile, step_cycles

machines = st.builds(Machine, lanes=st.sampled_from((4, 8, 16)), registers=st.sampled_from((8, 16, 32)))


def cycles(tile: TileShape, columns: int, blocks: int) -> float:
    """Cycles of one step of the reduction, over all tiles that cover columns x blocks."""
    widths = [min(tile.columns, columns - begin) for begin in range(0, columns, tile.columns)]
    return sum(step_cycles(width, tile.blocks) for width in widths for _ in range(0, blocks, tile.blocks))


@given(st.integers(1, 200), st.integers(1, 40), machines)
def test_a_tile_fits_its_registers_and_no_other_one_is_faster(columns: int, blocks: int, machine: Machine) -> None:
    tile = choose_tile(columns, blocks, machine)
    assert tile.columns <= columns and tile.blocks <= blocks
    assert tile.columns * tile.blocks + tile.blocks + 1 <= machine.registers
    best = cycles(tile, columns, blocks)
    for b in range(1, blocks + 1):
        for c in range(1, columns + 1):
            if c * b + b + 1 <= machine.registers:
                assert cycles(TileShape(c, b), columns, blocks) >= best - 1e-9


@pytest.mark.parametrize("registers", [8, 16, 32])
def test_large_products_fill_most_registers(registers: int) -> None:
    tile = choose_tile(1000, 64, Machine(8, registers))
    assert tile.columns * tile.blocks > registers // 2


def test_the_tail_counts() -> None:
    """14 columns are two tiles of 7, not one of 12 and one of 2."""
    tile = choose_tile(14, 4, Machine(16, 32))
    assert 14 % tile.columns == 0
