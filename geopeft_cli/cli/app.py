"""The command line: its five verbs, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated, ParamSpec

import typer

from geopeft_cli.cli.eval import evaluate
from geopeft_cli.cli.export import export
from geopeft_cli.cli.finetune import finetune
from geopeft_cli.cli.inspect import inspect
from geopeft_cli.cli.merge import merge
from geopeft_cli.errors import GeopeftError
from geopeft_cli.reports.notes import Notes

INTERRUPTED = 130

P = ParamSpec("P")

app = typer.Typer(
    name="geopeft",
    help="Adapt pre-trained 3D point-cloud networks to new data by training a few percent of their parameters.",
    epilog="Begin with: [bold]geopeft finetune quickstart[/bold]",
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """The command with foreseeable failures turned into a message on stderr and an exit code.

    Anything else that is raised is a bug and keeps its traceback.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except GeopeftError as error:
            show_error(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from interrupt
        except BrokenPipeError as error:
            if not _reader_is_gone():
                raise
            raise typer.Exit(1) from error

    return run


def show_error(error: GeopeftError) -> None:
    """Print message and hint on stderr, exactly as they are: no markup in them is read and no line is wrapped."""
    from rich.console import Console

    from geopeft_cli.recipe.problems import RecipeError

    console = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)
    if not isinstance(error, RecipeError):
        console.print("error: ", style="bold red", end="")
    console.print(error.message)
    if error.hint:
        console.print(error.hint, style="dim")


def _reader_is_gone() -> bool:
    """Whether the program that reads our output has ended; if so, what is left to print goes nowhere."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _print_version(wanted: bool) -> None:
    if wanted:
        from geopeft_cli import __version__

        print(f"geopeft {__version__}")
        raise typer.Exit


@app.callback()
def _prepare(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    logging.getLogger("geopeft").handlers = [Notes(logging.WARNING)]


app.command("finetune")(reported(finetune))
app.command("eval")(reported(evaluate))
app.command("merge")(reported(merge))
app.command("export")(reported(export))
app.command("inspect")(reported(inspect))
