"""The tuning file: what was measured, as JSON; an input of a build, and what a user's cache consists of.

{"format": 1,
"measured": {"convolution 1 of 1x64->64 56->56k3s1d1p1 56->56k3s1d1p1 in 32 vectors of 16":
{"direct, tile 14x2": 0.00192, "winograd 4x4 fused, tile 14x2, chunks of 28": 0.000588}},
"taken": {"convolution 1 of 1x64->64 56->56k3s1d1p1 56->56k3s1d1p1 in 32 vectors of 16":
"winograd 4x4 fused, tile 14x2, chunks of 28"}}
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lepton_compile.errors import LeptonError

FORMAT = 1


@dataclass(frozen=True)
class TuningTable:
    """Algorithms that were measured, and those that were taken.

    Attributes:
        measured: Seconds by the algorithm's name, by the problem's key.
        taken: The algorithm's name, by the problem's key.
    """

    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    taken: Mapping[str, str] = field(default_factory=dict)

    def to_record(self) -> dict[str, object]:
        """The table as what a tuning file holds in JSON."""
        return {"format": FORMAT, "measured": self.measured, "taken": self.taken}

    def merged(self, other: TuningTable) -> TuningTable:
        """Both tables in one; where they differ, the other holds."""
        return TuningTable({**self.measured, **other.measured}, {**self.taken, **other.taken})

    def restricted(self, keys: frozenset[str]) -> TuningTable:
        """What it says of these problems."""
        return TuningTable(
            {key: value for key, value in self.measured.items() if key in keys},
            {key: value for key, value in self.taken.items() if key in keys},
        )

    @classmethod
    def from_json(cls, text: str) -> TuningTable:
        """Read the text of a tuning file.

        Raises:
            ValueError: It is none; says why.
        """
        try:
            record = json.loads(text)
            if record["format"] != FORMAT:
                raise ValueError(f"it has format {record['format']}, and this version reads {FORMAT}")
            measured = {
                str(key): {str(name): float(seconds) for name, seconds in times.items()}
                for key, times in record["measured"].items()
            }
            taken = {str(key): _name(value) for key, value in record["taken"].items()}
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"it is no tuning file ({type(error).__name__}: {error})") from error
        if not all(math.isfinite(seconds) and seconds > 0 for times in measured.values() for seconds in times.values()):
            raise ValueError("it has times that are not positive")
        return cls(measured, taken)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> TuningTable:
        """Read a tuning file that is an input of a build.

        Raises:
            LeptonError: It cannot be read, or is no tuning file.
        """
        try:
            return cls.from_json(Path(path).read_text("utf-8"))
        except (OSError, ValueError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            raise LeptonError(f"the tuning file {path} cannot be used: {reason}", path=path) from error


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("an algorithm's name is a text")
    return value
