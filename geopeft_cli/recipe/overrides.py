"""Arguments of the form ``key.sub=value``."""

from __future__ import annotations

from collections.abc import Sequence

from geopeft_cli.recipe.document import Item, parse_value
from geopeft_cli.recipe.problems import Place, Problem

Override = tuple[tuple[str, ...], Item]


def parse_overrides(arguments: Sequence[str], problems: list[Problem]) -> list[Override]:
    """The path and the value of each argument; malformed ones are added to ``problems``."""
    parsed = (_parse(argument, problems) for argument in arguments)
    return [override for override in parsed if override is not None]


def source_of(argument: str) -> str:
    """How messages name an argument; line breaks in it are escaped."""
    return f"argument {argument!r}"


def _parse(argument: str, problems: list[Problem]) -> Override | None:
    source = source_of(argument)
    key, equals, value = argument.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    text = None
    if not equals:
        text = "is not of the form key=value"
    elif not all(path):
        text = f"has an empty key in {key!r}" if key else "has no key before '='"
    elif path[0] == "base":
        text = "base can be set in the recipe only"
    if text is not None:
        problems.append(Problem(Place(source), text))
        return None
    item = parse_value(value, source, problems)
    return None if item is None else (path, item)
