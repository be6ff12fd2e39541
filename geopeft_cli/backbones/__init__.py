"""Backbones by recipe name. Adding one: a file here, a line here, its layout in ``layouts.py``."""

from __future__ import annotations

from geopeft_cli.contracts import Backbone, registered

BACKBONES = {
    "mamba3d": "geopeft_cli.backbones.mamba3d:Mamba3D",
    "point_mae": "geopeft_cli.backbones.point_mae:PointMAE",
}


def backbone_class(name: str) -> type[Backbone]:
    """The class behind a recipe name, imported now."""
    found: type[Backbone] = registered(BACKBONES[name])
    return found
