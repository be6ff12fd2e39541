"""All dimensions of a laser scan (.las, .laz) through laspy, which is optional."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopeft_cli.errors import DataError, MissingDependencyError


def read_las_fields(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """The dimensions by name, each (n,): ``x``, ``y`` and ``z`` in float64, others in the file's types.

    Colors of 16 bits are brought to 0 to 255.

    Raises:
        MissingDependencyError: laspy is not installed.
        DataError: the file is damaged or cut off.
    """
    try:
        import laspy
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{path}: reading .las files needs laspy", "pip install geopeft[las]") from error
    try:
        scan: Any = laspy.read(path)
        names = [name for name in scan.point_format.dimension_names if name not in ("X", "Y", "Z")]
        fields = {name: np.asarray(scan[name]) for name in names}
        places = {axis: np.asarray(scan[axis], dtype=np.float64) for axis in ("x", "y", "z")}
    except Exception as error:  # whatever laspy makes of a damaged file
        raise DataError(f"{path}: cannot be read: {error}", "The file is damaged; copy or export it again.") from error
    colors = [name for name in ("red", "green", "blue") if name in fields]
    if colors and max(int(fields[name].max(initial=0)) for name in colors) > 255:
        fields |= {name: fields[name] // 256 for name in colors}
    return places | fields
