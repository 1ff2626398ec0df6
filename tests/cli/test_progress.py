"""What long steps report: lines where stderr is no terminal, one moving line where it is."""

from __future__ import annotations

import sys

from lepton_compile.cli.progress import show_progress


def work(progress) -> None:
    progress("importing", 0, 1)
    for done in range(4):
        progress("kernels", done, 3)
    progress("linking", 0, 1)


def test_a_line_per_stage_where_stderr_is_no_terminal(capsys):
    with show_progress() as progress:
        work(progress)
    assert capsys.readouterr().err == "kernels (3)\nlinking\n"  # reading the input is silent


def test_one_moving_line_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with show_progress() as progress:
        progress("kernels", 2, 3)
    shown = capsys.readouterr().err
    assert "kernels 2 of 3" in shown
    assert shown.count("\n") <= 1


def test_nothing_is_printed_where_nothing_is_reported(capsys):
    with show_progress():
        pass
    assert capsys.readouterr().err == ""
