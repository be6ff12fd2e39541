"""Put one tree of values over another: a recipe over its base, arguments over a recipe."""

from __future__ import annotations

from collections.abc import Sequence

from geopeft_cli.recipe.document import Item
from geopeft_cli.recipe.outline import ROOT, Slot, slot_at


def merge(base: Item, child: Item, slot: Slot = ROOT) -> Item:
    """``child`` over ``base``, key by key; a section of another kind replaces the base's whole section."""
    if not isinstance(base.value, dict) or not isinstance(child.value, dict):
        return child
    kind = child.value.get(slot.discriminator) if slot.discriminator else None
    if kind is not None and slot.discriminator and not _agree(base.value.get(slot.discriminator), kind):
        return child
    merged = dict(base.value)
    for key, item in child.value.items():
        merged[key] = merge(merged[key], item, slot.child(key)) if key in merged else item
    return Item(merged, child.place)


def put(tree: Item, path: Sequence[str], item: Item) -> Item:
    """The tree with ``item`` at ``path``; sections on the way there are made where they are missing."""
    if not path:
        return item
    entries = tree.value if isinstance(tree.value, dict) else {}
    place = tree.place if isinstance(tree.value, dict) else item.place
    below = put(entries.get(path[0], Item({}, item.place)), path[1:], item)
    return Item({**entries, path[0]: below}, place)


def put_all(tree: Item, changes: Sequence[tuple[tuple[str, ...], Item]]) -> Item:
    """Apply changes in their order; one that turns a section into another kind first clears the section."""
    for path, item in sorted(changes, key=lambda change: len(change[0])):
        *section, key = path
        if slot_at(section).discriminator == key:
            present = tree.find(section)
            if present is not None and not _agree(present.find([key]), item):
                tree = put(tree, section, Item({key: item}, item.place))
    for path, item in changes:
        tree = put(tree, path, item)
    return tree


def _agree(left: Item | None, right: Item) -> bool:
    return left is not None and bool(left.plain() == right.plain())
