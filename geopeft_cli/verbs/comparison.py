"""Several recipes, seeds and folds: one run after another into one folder, and what they come to as tables."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path

from geopeft_cli.errors import GeopeftError, UsageError
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.recipe.locations import resolve_paths
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.reports.comparison import Member, Row
from geopeft_cli.reports.comparison_files import write_comparison
from geopeft_cli.reports.notes import Notes
from geopeft_cli.storage import refuse_existing
from geopeft_cli.tasks import task_class
from geopeft_cli.training.distribution import Ranks
from geopeft_cli.verbs.finetune import RECIPE, check_same_recipe, finished, run_recipe

DEFAULT_FOLDER = Path("runs/comparison")


def plan_comparison(
    sources: Sequence[str | Path],
    overrides: Sequence[str] = (),
    output: Path = DEFAULT_FOLDER,
    seeds: Sequence[int] = (),
    folds: Sequence[int] = (),
) -> list[Row]:
    """The product of recipes, seeds and folds, with what the folder has of it already. Writes nothing.

    A run has its place in ``OUTPUT/NAME/seed0``, or ``seed0_fold3`` where the data has folds.

    Args:
        sources: recipe files or names of shipped ones.
        overrides: ``key.sub=value``, over each of them.
        output: the folder of all runs.
        seeds, folds: in place of ``seed`` and ``data.fold`` of the recipes.

    Raises:
        UsageError: a recipe has mistakes, two have one name, or the folder holds runs of other recipes.
    """
    if Ranks().size > 1:
        raise UsageError(
            "several runs in one command do not go with torchrun", "Give torchrun one recipe, seed and fold."
        )
    if not output.is_dir():
        refuse_existing(output)
    if (output / RECIPE).is_file():
        raise UsageError(f"{output} is a run, not a folder of runs", "Choose another --output.")
    places: dict[str, str] = {}
    rows = []
    for source in map(str, sources):
        members = []
        for seed, fold in product(seeds or (None,), folds or (None,)):
            own = ([] if seed is None else [f"seed={seed}"]) + ([] if fold is None else [f"data.fold={fold}"])
            recipe = resolve_paths(load_recipe(source, [*overrides, *own]))
            folder = output / recipe.name / Member(recipe, output).title.replace(", ", "_").replace(" ", "")
            check_same_recipe(folder, recipe)
            members.append(Member(recipe, folder, finished(folder)))
        row = Row(recipe.name, task_class(recipe.task.name).score, members)
        if row.name in places:
            raise UsageError(
                f"{places[row.name]} and {source} have one name: {row.name}", "Give each recipe a name of its own."
            )
        places[row.name] = source
        rows.append(row)
    return rows


def run_comparison(rows: Sequence[Row], output: Path, tell: Callable[[str], None] = lambda _: None) -> None:
    """Run what is not done, each in a process of its own, and keep ``comparison.*`` up to date after every run.

    A run that fails is noted in its row, and the next one begins. To be called from the main thread.

    Args:
        rows: of :func:`plan_comparison`; changed in place.
        output: the folder of the tables.
        tell: takes a line before and after every run.

    Raises:
        KeyboardInterrupt: the run of the moment has ended and goes on from its last epoch when this is called again.
        GeopeftError: the tables cannot be written.
    """
    write_comparison(rows, output)
    pending = [(row, member) for row in rows for member in row.members if member.summary is None]
    for number, (row, member) in enumerate(pending, start=1):
        tell(f"run {number} of {len(pending)}: {row.name}, {member.title}")
        member.failure = in_own_process(member.recipe, member.folder)
        if member.failure is None:
            member.summary = finished(member.folder)
        told = f"{row.score.replace('_', ' ')} {row.scores[member.title]:.2f} %" if member.summary else member.failure
        tell(f"  {told}")
        write_comparison(rows, output)


def in_own_process(recipe: Recipe, folder: Path) -> str | None:
    """Run or resume a recipe where its memory is its own and nothing that it does ends the others.

    Returns:
        Why it failed, else ``None``.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(recipe, folder, sender))
    with _interrupts_ignored():
        process.start()
    try:
        sender.close()
        failure: str | None = receiver.recv()
    except EOFError:
        process.join()
        failure = how_it_ended(process.exitcode)
    except KeyboardInterrupt:
        process.terminate()
        raise
    finally:
        process.join()
        receiver.close()
    return failure


def how_it_ended(code: int | None) -> str:
    """What can be said of a process that ended without a word; a negative code is a signal."""
    if code is not None and code < 0:
        return f"its process was killed by signal {-code}" + (": memory may have run out" if code == -9 else "")
    return f"its process ended with exit code {code}"


def attempt(recipe: Recipe, folder: Path) -> str | None:
    """Run or resume a recipe; why it failed, else ``None``. A bug prints its traceback."""
    try:
        run_recipe(recipe, folder)
    except GeopeftError as error:
        return str(error)
    except Exception as error:  # the other runs go on, whatever it was
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def _work(recipe: Recipe, folder: Path, answer: Connection) -> None:
    """What the process of a run does. Ctrl-C reaches all processes of a terminal: here only the parent's word ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("geopeft").addHandler(Notes(logging.WARNING))
    answer.send(attempt(recipe, folder))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A process that is started meanwhile ignores them for good."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
