"""Backbones by recipe name. Adding one: a file here, a line here, its layout in ``layouts.py``."""

from __future__ import annotations

from geopeft_cli.contracts import Backbone, SceneBackbone, registered

BACKBONES = {
    "act": "geopeft_cli.backbones.act:ACT",
    "i2p_mae": "geopeft_cli.backbones.point_m2ae:I2PMAE",
    "mamba3d": "geopeft_cli.backbones.mamba3d:Mamba3D",
    "point_bert": "geopeft_cli.backbones.point_bert:PointBERT",
    "point_gpt": "geopeft_cli.backbones.point_gpt:PointGPT",
    "point_m2ae": "geopeft_cli.backbones.point_m2ae:PointM2AE",
    "point_mamba": "geopeft_cli.backbones.point_mamba:PointMamba",
    "point_mae": "geopeft_cli.backbones.point_mae:PointMAE",
    "recon": "geopeft_cli.backbones.recon:ReCon",
}

# Networks that read packed scenes.
SCENE_BACKBONES = {
    "ptv3": "geopeft_cli.backbones.ptv3:PTv3",
    "sonata": "geopeft_cli.backbones.sonata:Sonata",
}


def backbone_class(name: str) -> type[Backbone]:
    """The class behind a recipe name, imported now."""
    found: type[Backbone] = registered({**BACKBONES, **SCENE_BACKBONES}[name])
    return found


def scene_backbone_class(name: str) -> type[SceneBackbone]:
    """The class behind the name of a network that reads scenes, imported now."""
    found: type[SceneBackbone] = registered(SCENE_BACKBONES[name])
    return found
