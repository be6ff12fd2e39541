"""Under which terms the sets of the literature are given out, for a user to check before using them."""

from __future__ import annotations

_MODELNET = (
    "ModelNet: for academic research; its CAD models belong to their authors. See https://modelnet.cs.princeton.edu/."
)

TERMS = {
    "shapes": "made by geopeft; no terms of others apply",
    "scanobjectnn": "ScanObjectNN: given out after an agreement. See https://hkust-vgd.github.io/scanobjectnn/.",
    "modelnet40": _MODELNET,
    "modelnet10": _MODELNET,
    "modelnet_fewshot": _MODELNET,
    "shapenetpart": "ShapeNet's terms: non-commercial research and education. See https://shapenet.org/terms.",
    "s3dis_blocks": "S3DIS: given out after an agreement. See http://buildingparser.stanford.edu/dataset.html.",
}
"""By format; a user's own files have none."""
