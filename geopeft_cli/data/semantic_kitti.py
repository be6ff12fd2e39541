"""SemanticKITTI (Behley et al., ICCV 2019) as given out: ``dataset/sequences/08/velodyne/000123.bin`` and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.clouds import IGNORED
from geopeft_cli.data.scene_classes import SEMANTIC_KITTI, SEMANTIC_KITTI_IGNORED
from geopeft_cli.data.scenes import Int64, Scene, SceneSplits, checked_scene
from geopeft_cli.errors import DataError, MissingDataError

TRAIN = ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10")
VALIDATION = ("08",)
"""What published figures are of."""

TEST = tuple(str(sequence) for sequence in range(11, 22))
"""Has no labels."""

OBTAIN_AGAIN = "The file is damaged or cut off; extract or obtain it again."

CLASSES = tuple(SEMANTIC_KITTI)


class KittiFrames:
    """LiDAR frames, read when asked for: coordinates, the strength of the returned light, and labels.

    Args:
        root: the folder with ``dataset/sequences``, or with ``sequences``.
        sequences: their names, ``00`` to ``21``.

    Raises:
        MissingDataError: a sequence is missing or holds no frames.
    """

    classes = CLASSES

    def __init__(self, root: str | Path, sequences: Sequence[str]) -> None:
        root = Path(root) / "dataset" if (Path(root) / "dataset").is_dir() else Path(root)
        self._paths: list[Path] = []
        for sequence in sequences:
            folder = root / "sequences" / sequence / "velodyne"
            found = sorted(folder.glob("*.bin"))
            if not found:
                raise MissingDataError(f"{folder}: holds no frames", "Set data.root to the folder with sequences/.")
            self._paths += found
        self.names = tuple(f"{path.parent.parent.name}_{path.stem}" for path in self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Scene:
        """The frame, checked; without a label file all its points are ignored.

        Raises:
            DataError: a file is damaged, or holds labels of another frame or set.
        """
        path = self._paths[index]
        return read_frame(path, path.parent.parent / "labels" / f"{path.stem}.label", self.names[index])


def kitti_splits(root: str | Path) -> SceneSplits:
    """The published splits: ten sequences to train on, and sequence 08 to test on.

    Raises:
        MissingDataError: a sequence is missing.
    """
    return SceneSplits(KittiFrames(root, TRAIN), None, KittiFrames(root, VALIDATION))


def read_frame(frame: Path, labels: Path | None, name: str) -> Scene:
    """One frame.

    Args:
        frame: float32 (n, 4): x, y, z and remission.
        labels: uint32 (n,), the class in the lower 16 bits; may be missing, or None.
        name: of the scene.

    Raises:
        DataError: the sizes do not fit, a label is unknown, or a value is not finite.
    """
    rows = _numbers(frame, np.dtype("<f4"))
    if rows.size % 4 or not rows.size:
        raise DataError(f"{frame}: {rows.size} numbers, not four a point", OBTAIN_AGAIN)
    rows = rows.reshape(-1, 4)
    found = np.full(len(rows), IGNORED, dtype=np.int64)
    if labels is not None and labels.is_file():
        raw = _numbers(labels, np.dtype("<u4"))
        if len(raw) != len(rows):
            raise DataError(f"{labels}: {len(raw)} labels for {len(rows)} points", OBTAIN_AGAIN)
        found = class_indices(raw, str(labels))
    scene = Scene(name, rows[:, :3].copy(), found, strength=rows[:, 3:].copy())
    return checked_scene(scene, len(CLASSES), str(frame))


def class_indices(raw: npt.NDArray[np.uint32], where: str) -> Int64:
    """Labels of files (n,), instances in their upper bits, as indices into ``CLASSES`` or ``IGNORED``.

    Raises:
        DataError: a label that SemanticKITTI does not have.
    """
    unknown = IGNORED - 1
    table = np.full(1 << 16, unknown, dtype=np.int64)
    table[list(SEMANTIC_KITTI_IGNORED)] = IGNORED
    for label, values in enumerate(SEMANTIC_KITTI.values()):
        table[list(values)] = label
    indices: Int64 = table[raw & 0xFFFF]
    wrong = np.flatnonzero(indices == unknown)
    if len(wrong):
        raise DataError(
            f"{where}: point {wrong[0]} has the label {raw[wrong[0]] & 0xFFFF}, which SemanticKITTI does not have",
            OBTAIN_AGAIN,
        )
    return indices


def _numbers(path: Path, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", OBTAIN_AGAIN) from error
    if len(content) % kind.itemsize:
        raise DataError(f"{path}: {len(content)} bytes are no whole number of values", OBTAIN_AGAIN)
    return np.frombuffer(content, kind)
