"""Backbones by recipe name. Adding one: a file here, a line here, its layout in ``layouts.py``."""

from __future__ import annotations

from geopeft_cli.contracts import Backbone, registered

BACKBONES = {
    "i2p_mae": "geopeft_cli.backbones.point_m2ae:I2PMAE",
    "point_m2ae": "geopeft_cli.backbones.point_m2ae:PointM2AE",
    "point_mae": "geopeft_cli.backbones.point_mae:PointMAE",
}


def backbone_class(name: str) -> type[Backbone]:
    """The class behind a recipe name, imported now."""
    found: type[Backbone] = registered(BACKBONES[name])
    return found
