"""Write a validated recipe as YAML with every default spelled out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Literal, get_origin

import yaml

from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.recipe.types import Section


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that loads to an equal recipe, in the order of the schema."""
    return yaml.dump(_plain(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=sys.maxsize)


class _Dumper(yaml.SafeDumper):
    """Lists of plain values stand in one line; nothing is abbreviated by aliases."""

    def represent_list(self, data: Any) -> yaml.SequenceNode:
        in_line = not any(isinstance(entry, dict) for entry in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=in_line)

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(list, _Dumper.represent_list)


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        names = sorted(type(value).model_fields, key=lambda name: not _says_the_kind(value, name))
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return value


def _says_the_kind(section: Section, name: str) -> bool:
    """Whether the key decides which others there are; it stands first."""
    field = type(section).model_fields[name]
    return field.is_required() and get_origin(field.annotation) is Literal
