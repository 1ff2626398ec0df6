"""How the axes of a tensor lie in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Layout:
    """How the logical axes of a tensor lie in memory.

    Attributes:
        block: 0 for row-major. Otherwise axis 1 (channels) of an N, C, spatial... tensor is split into blocks of this
            many, and the position inside a block becomes the innermost axis: N, ceil(C / block), spatial..., block.
            Lanes past the last channel are padding: they may hold anything, and no kernel lets them reach a real one.
    """

    block: int = 0

    def physical_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in memory of a tensor of this logical shape."""
        if not self.block:
            return shape
        n, c, *spatial = shape
        return (n, -(-c // self.block), *spatial, self.block)

    def __str__(self) -> str:
        return f"NC...{self.block}c" if self.block else "plain"


PLAIN = Layout()


def dense_size(rows: int, columns: int, reach: int) -> int:
    """How many numbers dense rows are, with what vectors read past the last one, `reach` numbers from its start."""
    return (rows - 1) * columns + reach


def dense_rows(rows: npt.NDArray[Number], reach: int) -> npt.NDArray[Number]:
    """Rows, the last axis, one behind the other, without padding between them; see `dense_size`."""
    return np.pad(rows.reshape(-1), (0, reach - rows.shape[-1]))
