"""ScanObjectNN (Uy et al., 2019): 15 classes of objects cut from indoor scans, in its published splits."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from geopeft_cli.data.checks import checked_clouds, tell_of_count
from geopeft_cli.data.clouds import MemoryClouds, Splits
from geopeft_cli.data.hdf5 import data_and_label
from geopeft_cli.data.splitting import hold_out, require_trained
from geopeft_cli.errors import MissingDataError, UsageError

CLASSES = (
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door"),
    *("shelf", "table", "bed", "pillow", "sink", "sofa", "toilet"),
)
"""In the order of the labels."""


class Variant(NamedTuple):
    """Where a variant is, and how many clouds the literature counts in it."""

    folder: str
    suffix: str
    train: int
    test: int


VARIANTS = {
    "obj_bg": Variant("main_split", "objectdataset.h5", 2309, 581),
    "obj_only": Variant("main_split_nobg", "objectdataset.h5", 2309, 581),
    "hardest": Variant("main_split", "objectdataset_augmentedrot_scale75.h5", 11416, 2882),
}
"""The variants by our names; ``hardest`` is PB-T50-RS. The first two differ by their folder alone."""

INNER = "h5_files"
"""The folder of the archive that some keep between the root and the splits."""


def scanobjectnn_splits(root: str | Path, variant: str, validation: float, seed: int) -> Splits:
    """The published training and test split, coordinates as in the files.

    Args:
        root: the folder with ``main_split`` and ``main_split_nobg``, or with ``h5_files`` around them.
        variant: ``obj_bg``, ``obj_only`` or ``hardest``.
        validation: share of every class of the training split; 0 for none.
        seed: of the draw of the validation split.

    Raises:
        UsageError: an unknown variant.
        MissingDataError: there is no such folder or file.
        DataError: a file is damaged, or not ``data`` (M, n, 3) with ``label`` (M,) in 0..14.
    """
    if variant not in VARIANTS:
        raise UsageError(f"data.variant: unknown {variant!r}", f"Use {', '.join(VARIANTS)}.")
    folder, suffix, *counts = VARIANTS[variant]
    parts = []
    for prefix, count in zip(("training", "test"), counts, strict=True):
        path = _find(Path(root), folder, f"{prefix}_{suffix}")
        parts.append(_read(path))
        tell_of_count(path, len(parts[-1]), count)
    train, test = parts
    require_trained(CLASSES, train.labels(), "test", test.labels())
    return Splits(*hold_out(train, validation, seed), test)


def _find(root: Path, folder: str, name: str) -> Path:
    places = [root / folder / name, root / INNER / folder / name]
    for place in places:
        if place.is_file():
            return place
    hint = (
        f"Expected is {places[0]} or {places[1]}. ScanObjectNN is given out after an agreement is filled in, "
        "see https://hkust-vgd.github.io/scanobjectnn/; then set data.root to the extracted folder."
    )
    if not root.is_dir():
        raise MissingDataError(f"{root}: no such folder", hint)
    raise MissingDataError(f"{root}: has no {folder}/{name}", hint)


def _read(path: Path) -> MemoryClouds:
    return checked_clouds(path, *data_and_label(path), CLASSES)
