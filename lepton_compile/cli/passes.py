"""`lepton passes`: the passes that are installed, built in and brought by plugins."""

from __future__ import annotations

import lepton_compile
from lepton_compile.cli.table import print_table


def passes() -> None:
    """List the passes: when each runs, whether it keeps the model's values, and what it does."""
    print_table(
        (
            (
                entry.name,
                entry.stage.value if entry.stage else "-",
                "yes" if entry.exact else "no",
                f"cannot be loaded: {entry.error}" if entry.error else entry.summary,
            )
            for entry in lepton_compile.list_passes()
        ),
        header=("pass", "stage", "exact", "what it does"),
    )
