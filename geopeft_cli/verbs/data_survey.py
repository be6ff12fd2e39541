"""What the data of a recipe is: how many clouds of which class, and how many points with which labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geopeft_cli.assemble import load_splits
from geopeft_cli.data.clouds import IGNORED, CloudSet, Labels
from geopeft_cli.data.scenes import SceneSet, SceneSplits
from geopeft_cli.data.terms import TERMS
from geopeft_cli.errors import DataError
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.reports.data_survey import DataSurvey, PartSurvey


def survey_data(source: str, overrides: Sequence[str] = (), clouds: int = 256) -> DataSurvey:
    """Find the data of a recipe and read some of it, without building a model.

    Args:
        source: a recipe file or the name of a shipped one.
        overrides: ``key.sub=value`` over the recipe.
        clouds: how many of each part are read, spread over it.

    Raises:
        RecipeError: the recipe is wrong.
        MissingDataError: something is not there; the message names it and says where it is to be had.
        DataError: a file is damaged.
    """
    recipe = load_recipe(source, overrides)
    splits = load_splits(recipe)
    names = list(splits.train.classes)
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return DataSurvey(
        recipe.data.format,
        [] if isinstance(splits, SceneSplits) else names,
        names if isinstance(splits, SceneSplits) else list(splits.train.part_names),
        {
            name: _scenes(name, part, clouds) if isinstance(part, SceneSet) else _part(name, part, clouds)
            for name, part in parts.items()
            if part is not None
        },
        TERMS.get(recipe.data.format),
    )


def _scenes(name: str, scenes: SceneSet, most: int) -> PartSurvey:
    """Of scenes, whose classes are those of points."""
    if not len(scenes):
        raise DataError(f"the {name} set has no scenes", "Check the split of the data.")
    chosen = _spread(len(scenes), most)
    sizes, counts = [], np.zeros(len(scenes.classes) + 1, dtype=np.int64)
    for index in chosen:
        labels = scenes[int(index)].labels
        sizes.append(len(labels))
        counts += np.bincount(labels % len(counts), minlength=len(counts))
    return _surveyed(len(scenes), {}, sizes, scenes.classes, counts)


def _spread(size: int, most: int) -> Labels:
    return np.unique(np.linspace(0, size - 1, min(most, size)).round().astype(np.int64))


def _part(name: str, clouds: CloudSet, most: int) -> PartSurvey:
    if not len(clouds):
        raise DataError(f"the {name} set has no clouds", "Check the split of the data.")
    chosen = _spread(len(clouds), most)
    sizes, counts = [], np.zeros(len(clouds.part_names) + 1, dtype=np.int64)
    for index in chosen:
        cloud = clouds[int(index)]
        sizes.append(len(cloud.points))
        if cloud.point_labels is not None:
            # ignored points are counted behind the last label
            counts += np.bincount(cloud.point_labels.astype(np.int64) % len(counts), minlength=len(counts))
    classes = np.bincount(clouds.labels(), minlength=len(clouds.classes))
    named = dict(zip(clouds.classes, classes.tolist(), strict=True))
    return _surveyed(len(clouds), named, sizes, clouds.part_names, counts)


def _surveyed(
    count: int, classes: dict[str, int], sizes: Sequence[int], labels: Sequence[str], counts: Labels
) -> PartSurvey:
    """The record of a part, from the sizes of what was read of it and the points of each label, ignored ones last."""
    return PartSurvey(
        count,
        classes,
        len(sizes),
        (int(min(sizes)), int(np.median(sizes)), int(max(sizes))),
        dict(zip(labels, counts[:-1].tolist(), strict=True)),
        int(counts[IGNORED]),
    )
