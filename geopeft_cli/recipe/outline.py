"""Which keys and choices the schema has at which path, for merging and for messages."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.recipe.types import Section


@dataclass(frozen=True)
class Slot:
    """What may stand at one path.

    Attributes:
        kinds: the sections that may stand here, by the value of ``discriminator``; a section that has no other
            kinds beside it is listed under None.
        discriminator: the key whose value says which of ``kinds`` is meant.
        choices: the words that may stand here, if only certain words may.
        entries: what the entries of a list may be.
    """

    kinds: tuple[tuple[str | None, type[Section]], ...] = ()
    discriminator: str | None = None
    choices: tuple[str, ...] = ()
    entries: Slot | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that are valid here, whatever the kind."""
        return tuple(dict.fromkeys(key for _, section in self.kinds for key in section.model_fields))

    def narrow(self, kind: str) -> Slot:
        """The slot when the discriminator says ``kind``."""
        return Slot(kinds=tuple(pair for pair in self.kinds if pair[0] == kind))

    def child(self, key: str | int) -> Slot:
        """The slot of a key, of whatever kind, or of a list's entry; an empty slot if there is none."""
        if isinstance(key, int):
            return self.entries or Slot()
        slots = [_slot_of(section.model_fields[key]) for _, section in self.kinds if key in section.model_fields]
        return Slot(
            kinds=tuple(dict.fromkeys(pair for slot in slots for pair in slot.kinds)),
            discriminator=next((slot.discriminator for slot in slots if slot.discriminator), None),
            choices=tuple(dict.fromkeys(choice for slot in slots for choice in slot.choices)),
            entries=next((slot.entries for slot in slots if slot.entries), None),
        )


ROOT = Slot(kinds=((None, Recipe),))


def slot_at(path: Sequence[str | int]) -> Slot:
    """The slot at a path of keys."""
    slot = ROOT
    for part in path:
        slot = slot.child(part)
    return slot


def resolve(location: Sequence[str | int]) -> tuple[tuple[str | int, ...], Slot]:
    """The path of keys, and its slot, for a location as pydantic reports it, which names the chosen kinds too.

    Names in angle brackets are those of the forms that a value may have, such as number or section.
    """
    slot, path = ROOT, []
    for part in location:
        if str(part).startswith("<"):
            continue
        if slot.discriminator is not None:
            slot = slot.narrow(str(part))
        else:
            path.append(part)
            slot = slot.child(part)
    return tuple(path), slot


def paths(slot: Slot = ROOT, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key of the schema, outside lists."""
    for key in slot.keys:
        yield (*prefix, key)
        yield from paths(slot.child(key), (*prefix, key))


def _slot_of(field: FieldInfo) -> Slot:
    discriminator = field.discriminator if isinstance(field.discriminator, str) else None
    return _slot(field.annotation, discriminator)


def _slot(annotation: Any, discriminator: str | None = None) -> Slot:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _slot(arguments[0], discriminator)
    if origin is Literal:
        return Slot(choices=tuple(str(choice) for choice in arguments))
    if origin is tuple:
        return Slot(entries=_slot(arguments[0]))
    if origin in (Union, types.UnionType):
        members = [_slot(argument) for argument in arguments]
        return Slot(
            kinds=tuple(
                pair for member in members for _, section in member.kinds for pair in _kinds(section, discriminator)
            ),
            discriminator=discriminator,
            choices=tuple(choice for member in members for choice in member.choices),
        )
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return Slot(kinds=((None, annotation),))
    return Slot()


def _kinds(section: type[Section], discriminator: str | None) -> list[tuple[str | None, type[Section]]]:
    """The section by every word that means it."""
    if discriminator is None:
        return [(None, section)]
    return [(str(kind), section) for kind in get_args(section.model_fields[discriminator].annotation)]
