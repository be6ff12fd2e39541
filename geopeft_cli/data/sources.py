"""From the name of a data format to its clouds."""

from __future__ import annotations

from typing import Any

from geopeft_cli.data.clouds import Splits
from geopeft_cli.errors import UsageError

POINTS_ON_MESHES = 4
"""Points drawn on a mesh for every point that the model sees, so that an epoch's draw differs from the last one's."""


def splits_for(format: str, **values: Any) -> Splits:
    """The parts of the data set that a recipe's data section describes.

    Args:
        format: ``shapes``, ``folder`` or ``packed``.
        values: the arguments of ``shapes_splits``, ``folder_splits`` or ``packed_splits``; for a folder ``points``,
            what the model sees, may stand for ``points_for_meshes``.

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
    raise UsageError(f"data.format: unknown {format!r}", "Use shapes, folder or packed.")
