"""Backbones by recipe name. Adding one: a file here, a line here, its layout in ``layouts.py``."""

from __future__ import annotations

from importlib import import_module

from geopeft_cli.contracts import Backbone

BACKBONES = {
    "point_mae": "geopeft_cli.backbones.point_mae:PointMAE",
}


def backbone_class(name: str) -> type[Backbone]:
    """The class behind a recipe name, imported now."""
    module, _, attribute = BACKBONES[name].partition(":")
    found: type[Backbone] = getattr(import_module(module), attribute)
    return found
