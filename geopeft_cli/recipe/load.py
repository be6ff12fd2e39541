"""Read a recipe: YAML text, its base, the arguments over it, and every mistake in them at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from geopeft_cli.errors import UsageError
from geopeft_cli.recipe.catalog import find_recipe, list_recipes
from geopeft_cli.recipe.document import Item, parse_file
from geopeft_cli.recipe.explain import explain
from geopeft_cli.recipe.merge import merge, put_all
from geopeft_cli.recipe.overrides import parse_overrides, source_of
from geopeft_cli.recipe.problems import Problem, RecipeError, closest
from geopeft_cli.recipe.schema import Recipe


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge and validate a recipe.

    Args:
        source: a path, or the name of a shipped recipe.
        overrides: arguments ``key.sub=value``, applied in their order over the recipe and its base.

    Raises:
        RecipeError: the recipe, its base or an override has mistakes; all of them are listed.
        UsageError: there is no such recipe, or it cannot be read.
    """
    problems: list[Problem] = []
    path = locate(source)
    return _finish(_read_with_base(path, problems), str(path), overrides, problems)


def locate(source: str | Path) -> Path:
    """The file of a recipe given by path or by shipped name.

    Raises:
        UsageError: there is neither.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    shipped = find_recipe(str(source))
    if shipped is not None:
        return shipped
    if path.is_dir():
        raise UsageError(f"{source}: a directory, not a recipe")
    beside = [str(file) for file in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    suggestion = closest(str(source), [*beside, *(entry.name for entry in list_recipes())])
    question = f". Did you mean '{suggestion}'?" if suggestion else ""
    raise UsageError(
        f"{source}: no such file, and no shipped recipe of that name{question}",
        hint="'geopeft inspect --recipes' lists what ships; a setting is KEY=VALUE",
    )


def parse_recipe(text: str, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Validate a resolved recipe that is kept elsewhere than in a file of its own, such as in an adapter.

    Args:
        text: YAML or JSON; it has no base.
        source: what messages call it.
        overrides: as for :func:`load_recipe`.

    Raises:
        RecipeError: the recipe or an override has mistakes; all of them are listed.
    """
    problems: list[Problem] = []
    return _finish(parse_file(text, source, problems), source, overrides, problems)


def _finish(tree: Item | None, source: str, overrides: Sequence[str], problems: list[Problem]) -> Recipe:
    changes = parse_overrides(overrides, problems)
    recipe = None if tree is None else _validate(put_all(tree, changes), problems)
    if recipe is None or problems:
        raise RecipeError(_in_order(problems, source, overrides))
    return recipe


def _read_with_base(path: Path, problems: list[Problem]) -> Item | None:
    child = _read(path, problems)
    if child is None or not isinstance(child.value, dict) or "base" not in child.value:
        return child
    reference, child = child.value["base"], _without_base(child)
    if not isinstance(reference.value, str) or not reference.value:
        problems.append(Problem(reference.place, "base must be the path or the name of another recipe"))
        return None
    beside = path.parent / Path(reference.value).expanduser()
    try:
        base_path = Path(os.path.normpath(beside)) if beside.is_file() else locate(reference.value)
        base = _read(base_path, problems)
    except UsageError as error:
        problems.append(Problem(reference.place, f"base: {error.message}"))
        return None
    if base is None:
        return None
    grandparent = base.find(["base"])
    if grandparent is not None:
        text = f"a base must not have a base itself (it is the base of {path})"
        problems.append(Problem(grandparent.place, text))
    return merge(_without_base(base), child)


def _read(path: Path, problems: list[Problem]) -> Item | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file in UTF-8 (byte {error.start})") from error
    return parse_file(text, str(path), problems)


def _without_base(tree: Item) -> Item:
    entries = tree.value if isinstance(tree.value, dict) else {}
    return Item({key: item for key, item in entries.items() if key != "base"}, tree.place)


def _validate(tree: Item, problems: list[Problem]) -> Recipe | None:
    try:
        return Recipe.model_validate(tree.plain())
    except ValidationError as error:
        found = (explain(details, tree) for details in error.errors(include_url=False, include_input=False))
        problems.extend(problem for problem in found if problem is not None)
        return None


def _in_order(problems: Sequence[Problem], recipe: str, overrides: Sequence[str]) -> list[Problem]:
    """Without repetitions: the recipe from top to bottom, then its base, then the arguments."""
    arguments = [source_of(argument) for argument in overrides]

    def position(problem: Problem) -> tuple[int, int]:
        source, line = problem.place.source, problem.place.line or 0
        return (2, arguments.index(source)) if source in arguments else (int(source != recipe), line)

    return sorted(dict.fromkeys(problems), key=position)
