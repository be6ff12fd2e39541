"""YAML text as a tree of values that know where they were written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from geopeft_cli.recipe.problems import Place, Problem

Scalar: TypeAlias = str | int | float | bool | None

_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_TEXT_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "value")}
_DEEPEST, _LARGEST = 32, 10_000

# What PyYAML says, and what a reader who does not know its grammar understands.
_SYNTAX = {
    "found character '\\t'": "a tab character; YAML indents with spaces",
    "that cannot start any token": "a character that cannot begin a value; put the text in quotes",
    "expected <block end>": "the indentation does not fit the lines above",
    "mapping values are not allowed here": "a ':' that does not belong here, or wrong indentation above it",
    "but found another document": "a second document; a recipe is one YAML document",
    "expected the node content": "a value is missing here",
    "second occurrence": "an anchor that is defined twice",
}
# The same for what begins at one place and is found to be wrong at a later one.
_UNFINISHED = {
    "could not find expected ':'": "a line that is not 'key: value'",
    "found unexpected end of stream": "a quotation mark that is not closed",
    "expected ',' or ']'": "a list that is not closed with ']'",
    "expected ',' or '}'": "a mapping that is not closed with '}'",
}


@dataclass(frozen=True)
class Item:
    """A value and its place: the line of its key in a mapping, its own line in a list."""

    value: dict[str, Item] | list[Item] | Scalar
    place: Place

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def find(self, path: Sequence[str | int]) -> Item | None:
        """The item at ``path``, None where nothing is written."""
        item: Item | None = self
        for part in path:
            if item is not None and isinstance(item.value, dict):
                item = item.value.get(str(part))
            elif item is not None and isinstance(item.value, list) and isinstance(part, int):
                item = item.value[part] if part < len(item.value) else None
            else:
                return None
        return item

    def nearest(self, path: Sequence[str | int]) -> Item:
        """The item at ``path``, or the innermost written section around it."""
        for length in range(len(path), 0, -1):
            if (item := self.find(path[:length])) is not None:
                return item
        return self


def parse_file(text: str, source: str, problems: list[Problem]) -> Item | None:
    """Read a recipe's text; None if it has no usable structure. What is wrong is added to ``problems``."""
    reader = _Reader(text, source, problems, lines=True)
    item = reader.read()
    if item is None:
        return None
    if item.value is None:
        problems.append(Problem(Place(source, 1), "the recipe is empty"))
        return None
    if not isinstance(item.value, dict):
        kind = "a list" if isinstance(item.value, list) else "a single value"
        problems.append(Problem(item.place, f"a recipe is a mapping of 'key: value' lines, this is {kind}"))
        return None
    return item


def parse_value(text: str, source: str, problems: list[Problem]) -> Item | None:
    """Read the value of an argument; None if it is not YAML."""
    return _Reader(text, source, problems, lines=False).read()


class _Reader:
    def __init__(self, text: str, source: str, problems: list[Problem], *, lines: bool) -> None:
        self.text, self.source, self.problems, self.lines = text, source, problems, lines
        self.size = 0

    def read(self) -> Item | None:
        try:
            self.loader = yaml.SafeLoader(self.text)
            node = self.loader.get_single_node()
            return Item(None, self.at(None)) if node is None else self.item(node, self.at(node.start_mark), 0)
        except yaml.reader.ReaderError as error:
            before = self.text[: error.position]
            place = Place(self.source, before.count("\n") + 1, len(before) - before.rfind("\n"))
            self.syntax(place, f"the character {chr(int(error.character))!r}, which YAML does not allow")
        except yaml.MarkedYAMLError as error:
            text = error.problem or error.context or str(error)
            unfinished = next((plain for found, plain in _UNFINISHED.items() if found in text), None)
            plain = unfinished or next((plain for found, plain in _SYNTAX.items() if found in text), text)
            mark = (error.context_mark if unfinished else None) or error.problem_mark
            self.syntax(Place(self.source, mark.line + 1, mark.column + 1) if mark else self.at(None), plain)
        except RecursionError:
            self.report(None, "nested too deeply, or an alias that contains itself")
        return None

    def syntax(self, place: Place, text: str) -> None:
        place = place if self.lines else Place(self.source)
        self.problems.append(Problem(place, f"not valid YAML: {text}"))

    def at(self, mark: yaml.Mark | None) -> Place:
        return Place(self.source, mark.line + 1 if mark else 1) if self.lines else Place(self.source)

    def report(self, mark: yaml.Mark | None, text: str) -> None:
        self.problems.append(Problem(self.at(mark), text))

    def item(self, node: yaml.Node, place: Place, depth: int) -> Item:
        self.size += 1
        # An alias may contain itself, and aliases of aliases grow exponentially.
        if depth > _DEEPEST or self.size > _LARGEST:
            raise RecursionError
        self.check_tag(node)
        if isinstance(node, yaml.MappingNode):
            return Item(self.mapping(node, depth), place)
        if isinstance(node, yaml.SequenceNode):
            return Item([self.item(child, self.at(child.start_mark), depth + 1) for child in node.value], place)
        return Item(self.scalar(node), place)

    def mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Item]:
        entries: dict[str, Item] = {}
        for key, value in node.value:
            place = self.at(key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                self.report(key.start_mark, "a key must be a word, not a list or a mapping")
            elif key.tag == "tag:yaml.org,2002:merge":
                self.report(key.start_mark, "merge keys ('<<') are not read; use 'base: other.yaml'")
            elif key.value in entries:
                line = entries[key.value].place.line
                self.report(
                    key.start_mark, f"duplicate key {key.value!r}" + (f", first in line {line}" if line else "")
                )
            else:
                entries[key.value] = self.item(value, place, depth + 1)
        return entries

    def check_tag(self, node: yaml.Node) -> None:
        if node.tag not in _PLAIN_TAGS | _TEXT_TAGS:
            shown = node.tag.replace("tag:yaml.org,2002:", "!!")
            self.report(node.start_mark, f"unknown tag {shown!r}; recipes hold plain values only")

    def scalar(self, node: yaml.Node) -> Scalar:
        tag = node.tag
        if tag not in _PLAIN_TAGS | _TEXT_TAGS:
            tag = "tag:yaml.org,2002:str"
        text = _joined(node.value)
        if text is None:
            self.report(node.start_mark, "an escape such as '\\ud800', which stands for no character")
            return ""
        if tag in _TEXT_TAGS:
            return text
        try:
            value: Scalar = self.loader.construct_object(yaml.ScalarNode(tag, text))
        except (ValueError, KeyError, yaml.YAMLError):
            self.report(node.start_mark, f"{text[:40]!r} is not a value of type {tag.rpartition(':')[2]}")
            return text
        return value


def _joined(text: str) -> str | None:
    """The text with escaped surrogate pairs, as JSON writes them, as characters; None if half of a pair is alone."""
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return None
