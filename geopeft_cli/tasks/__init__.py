"""Tasks by recipe name."""

from __future__ import annotations

from importlib import import_module

from geopeft_cli.contracts import Task

TASKS = {
    "classification": "geopeft_cli.tasks.classification:Classification",
}


def task_class(name: str) -> type[Task]:
    """The class behind a recipe name, imported now."""
    module, _, attribute = TASKS[name].partition(":")
    found: type[Task] = getattr(import_module(module), attribute)
    return found
