"""The entry point of `lepton`: the list of commands, and how errors become one line and an exit code.

Exit codes: 0 done; 2 the user's input is wrong; 3 a budget can't be met; 1 our fault.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from lepton_compile.cli.bench import bench
from lepton_compile.cli.bisect import bisect
from lepton_compile.cli.compile import compile
from lepton_compile.cli.explain import explain
from lepton_compile.cli.inspect import inspect
from lepton_compile.cli.passes import passes
from lepton_compile.cli.run import run
from lepton_compile.cli.targets import targets

DONE, OUR_FAULT, WRONG_INPUT, BUDGET_MISSED = 0, 1, 2, 3

app = typer.Typer(
    name="lepton",
    help="Compile an ONNX model and a description of a device into a standalone native library.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (compile, explain, run, bench, inspect, bisect, passes):
    app.command()(command)
app.add_typer(targets)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("lepton-compile"))
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options that stand before the command; `main` reads --debug itself, since errors end up there."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `lepton` with these arguments (the process's own by default) and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(given or ["--help"]))


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        return app(args=[a for a in arguments if a != "--debug"], prog_name="lepton", standalone_mode=False) or DONE
    except typer.TyperException as error:
        return _fail(error.format_message(), error.exit_code)
    except typer.Abort:
        return _fail("stopped", OUR_FAULT)
    except BrokenPipeError:
        # The reader of our output went away (`lepton passes | head`); Python must not complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _fail(*_explain(error))


def _explain(error: Exception) -> tuple[str, int]:
    from lepton_compile.errors import BudgetError, BuildError, LeptonError

    if isinstance(error, BudgetError):
        return str(error), BUDGET_MISSED
    if isinstance(error, LeptonError) and not isinstance(error, BuildError):
        return str(error), WRONG_INPUT
    text = str(error) if isinstance(error, LeptonError) else f"{type(error).__name__}: {error}"
    return f"{text} (lepton --debug shows the traceback)", OUR_FAULT


def _fail(message: str, code: int) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return code
