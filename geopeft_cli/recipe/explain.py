"""Say what pydantic found in the words of someone who writes recipes."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

from pydantic_core import ErrorDetails

from geopeft_cli.recipe.document import Item
from geopeft_cli.recipe.outline import paths, resolve, slot_at
from geopeft_cli.recipe.problems import Problem, closest

Path = tuple[str | int, ...]

# "{shown}" is the value as written; the rest comes from the error's own context.
_TEXTS = {
    "string_type": "must be text, is {shown}",
    "string_too_short": "must not be empty",
    "bool_type": "must be true or false, is {shown}",
    "int_type": "must be a whole number, is {shown}",
    "float_type": "must be a number, is {shown}",
    "finite_number": "must be a finite number, is {shown}",
    "greater_than": "must be greater than {gt}, is {shown}",
    "greater_than_equal": "must be at least {ge}, is {shown}",
    "less_than": "must be less than {lt}, is {shown}",
    "less_than_equal": "must be at most {le}, is {shown}",
    "tuple_type": "must be a list, is {shown}",
    "too_short": "must have at least {min_length} entry",
    "dict_type": "must be a section with keys of its own, is {shown}",
    "model_type": "must be a section with keys of its own, is {shown}",
    "model_attributes_type": "must be a section with keys of its own, is {shown}",
    "value_error": "cannot be used: {error}",
}


def explain(error: ErrorDetails, tree: Item) -> Problem | None:
    """The problem behind one of pydantic's errors; None if another error says the same better."""
    kind, context = error["type"], error.get("ctx", {})
    path, slot = resolve(error["loc"])
    item = tree.find(path)
    if kind == "extra_forbidden":
        return _unknown_key(error["loc"], tree)
    if kind == "missing":
        return _missing(path, slot.choices, tree)
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _choice((*path, str(slot.discriminator)), [str(name) for name, _ in slot.kinds], tree)
    if kind == "literal_error":
        return _choice(path, slot.choices, tree)
    if kind == "recipe":
        path = (*path, *(part for part in str(context["key"]).split(".") if part))
        return Problem(tree.nearest(path).place, f"{dotted(path)} {context['text']}")
    if kind == "too_short" and item is not None and item.value:
        return None  # pydantic counts the valid entries only, and has reported the invalid ones
    template = _TEXTS.get(kind, "has a value that is not allowed, {shown}")
    shown = _shown(item, quoted=kind.endswith("_type"))
    hint = " (put it in quotes)" if kind == "string_type" and item is not None and _is_bare(item) else ""
    return Problem(tree.nearest(path).place, f"{dotted(path)} {template.format(shown=shown, **context)}{hint}")


def dotted(path: Sequence[str | int]) -> str:
    """``data.augment[0]`` for ("data", "augment", 0)."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _unknown_key(location: Sequence[str | int], tree: Item) -> Problem:
    section, slot = resolve(location[:-1])
    key = str(location[-1])
    path = (*section, key)
    place = tree.nearest(path).place
    family = slot_at(section)
    owners = [str(kind) for kind, model in family.kinds if key in model.model_fields]
    if owners:
        [(kind, _)] = slot.kinds
        return Problem(place, f"{dotted(path)} is for {family.discriminator}: {' or '.join(owners)}, not {kind}")
    return Problem(place, f"unknown key {dotted(path)!r}", _elsewhere(key) or _beside(section, key, slot.keys))


def _beside(section: Path, key: str, keys: Sequence[str]) -> str | None:
    match = closest(key, keys if section else ("base", *keys))
    return None if match is None else dotted((*section, match))


def _elsewhere(key: str) -> str | None:
    matches = [path for path in paths() if path[-1] == key]
    return dotted(min(matches, key=len)) if matches else None


def _missing(path: Path, choices: Sequence[str], tree: Item) -> Problem:
    listed = f", one of {', '.join(choices)}" if choices else ""
    return Problem(tree.nearest(path).place, f"missing key {dotted(path)!r}{listed}")


def _choice(path: Path, choices: Sequence[str], tree: Item) -> Problem:
    item = tree.find(path)
    if item is None:
        return _missing(path, choices, tree)
    text = f"{dotted(path)} must be {'one of ' if len(choices) > 1 else ''}{', '.join(choices)}, is {_shown(item)}"
    return Problem(item.place, text, closest(item.value, choices) if isinstance(item.value, str) else None)


def _is_bare(item: Item) -> bool:
    return isinstance(item.value, (bool, int, float))


def _shown(item: Item | None, *, quoted: bool = True) -> str:
    value = None if item is None else item.value
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list"
    return value if isinstance(value, str) and not quoted else reprlib.repr(value)
