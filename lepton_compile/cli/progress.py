"""Progress of long steps on stderr: a moving line on a terminal, a line per step elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def show_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show what the function that is handed out reports: the stage, and how much of how much of it is done.

    A total of 0 or 1 is a stage that is not counted.
    """
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def report(stage: str, done: int, total: int) -> None:
            bar.update(task, description=f"{stage} {done} of {total}" if total > 1 else stage)

        yield report


def _plain_lines() -> Callable[[str, int, int], None]:
    """A line per stage. The first, in which the input is read, stays silent: what is wrong with it is the only line."""
    stages: list[str] = []

    def report(stage: str, done: int, total: int) -> None:
        if stages and stage != stages[-1]:
            print(f"{stage} ({total})" if total > 1 else stage, file=sys.stderr, flush=True)
        stages.append(stage)

    return report
