"""From the name of a data format to its clouds."""

from __future__ import annotations

from typing import Any

from geopeft_cli.data.clouds import Splits
from geopeft_cli.errors import UsageError

FORMATS = (
    *("shapes", "folder", "packed", "scanobjectnn", "modelnet40", "modelnet10", "modelnet_fewshot"),
    *("shapenetpart", "s3dis_blocks"),
)

POINTS_ON_MESHES = 4
"""Points drawn on a mesh for every point that the model sees, so that an epoch's draw differs from the last one's."""


def splits_for(format: str, **values: Any) -> Splits:
    """The parts of the data set that a recipe's data section describes.

    Args:
        format: one of ``FORMATS``.
        values: the arguments of that format's function, such as ``packed_splits``; for a folder ``points``, what the
            model sees, may stand for ``points_for_meshes``.

    Raises:
        UsageError: an unknown format, or a mistake in the values.
        DataError: files that cannot be used.
    """
    if format == "shapes":
        from geopeft_cli.data.shapes import shapes_splits

        return shapes_splits(**values)
    if format == "folder":
        from geopeft_cli.data.folder import folder_splits

        if "points" in values:
            values["points_for_meshes"] = POINTS_ON_MESHES * values.pop("points")
        return folder_splits(**values)
    if format == "packed":
        from geopeft_cli.data.packed import packed_splits

        return packed_splits(**values)
    if format == "scanobjectnn":
        from geopeft_cli.data.scanobjectnn import scanobjectnn_splits

        return scanobjectnn_splits(**values)
    if format in ("modelnet40", "modelnet10"):
        from geopeft_cli.data.modelnet import modelnet_splits

        return modelnet_splits(classes=40 if format == "modelnet40" else 10, **values)
    if format == "modelnet_fewshot":
        from geopeft_cli.data.modelnet_fewshot import modelnet_fewshot_splits

        values.pop("seed", None)  # nothing of a published fold is drawn
        return modelnet_fewshot_splits(**values)
    if format == "shapenetpart":
        from geopeft_cli.data.shapenetpart import shapenetpart_splits

        values.pop("seed", None)  # nothing of the published lists is drawn
        return shapenetpart_splits(**values)
    if format == "s3dis_blocks":
        from geopeft_cli.data.s3dis_blocks import s3dis_block_splits

        return s3dis_block_splits(**values)
    raise UsageError(f"data.format: unknown {format!r}", f"Use {', '.join(FORMATS)}.")
