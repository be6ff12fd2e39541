"""Predict clouds and scenes without labels, or those of a split, and write what comes out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from geopeft_cli.data.clouds import Labels
from geopeft_cli.data.inputs import Input, find_inputs, require_distinct_stems, result_stems
from geopeft_cli.data.prefetch import prefetched
from geopeft_cli.data.scenes import SceneSet
from geopeft_cli.errors import DataError, UsageError
from geopeft_cli.evaluation.prediction import Float32, Prediction, Predictor, Prepared
from geopeft_cli.recipe.scene_data import SceneDataSettings
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.reports.cloud_picture import require_matplotlib
from geopeft_cli.storage import new_folder, refuse_existing
from geopeft_cli.training.precision import choose_device
from geopeft_cli.verbs.evaluate import Result, measure, measured_part
from geopeft_cli.verbs.opening import open_trained
from geopeft_cli.verbs.prediction_files import PredictionFiles, Skipped
from geopeft_cli.verbs.trained import TrainedModel

MOST_POINTS = 2**22
"""Of the clouds in a batch together, where every point gets a label."""


@dataclass(frozen=True)
class Predicted:
    """What was written.

    Attributes:
        folder: where.
        clouds: how many clouds or scenes were predicted.
        skipped: those that were not.
    """

    folder: Path
    clouds: int
    skipped: tuple[Skipped, ...] = ()


def predict_files(
    path: Path,
    inputs: Sequence[Path],
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    category: str | None = None,
    picture: bool = False,
    skip_bad: bool = False,
) -> Predicted:
    """Predict files by a run, an adapter or a merged file, into a new folder that appears when all is done.

    Args:
        path: what the user gives.
        inputs: files, and folders of them.
        folder: of the results.
        overrides: ``key.sub=value`` over the recipe in the adapter.
        category: for part segmentation, of all clouds; by default the name of the folder that each is in.
        picture: draw each cloud.
        skip_bad: go on after a file that cannot be used.

    Raises:
        UsageError: a mistake in the arguments.
        DataError: a file cannot be used, or with ``skip_bad`` none can.
        GeopeftError: anything else that is foreseeable.
    """
    _check_place(folder, inputs)
    if picture:
        require_matplotlib()
    model = TrainedModel.load(path, overrides)
    _check_model(model)
    predictor = model.predictor()
    found = find_inputs(inputs, predictor.suffixes, predictor.noun)
    if model.is_dense or picture:
        require_distinct_stems(found)
    labels = [_category(model, one, category) for one in found]
    skipped: list[Skipped] = []
    bar = tqdm(total=len(found), unit=predictor.noun, disable=not sys.stderr.isatty(), dynamic_ncols=True, leave=False)
    with bar, new_folder(folder) as partial_folder:
        files = PredictionFiles(partial_folder, model, picture)
        asked = _predicted(predictor, model.batch_size, found, labels, skipped if skip_bad else None, bar.update)
        for one, prediction in asked:
            files.add(one.name, one.stem, prediction)
        if not files.rows:
            raise DataError(f"none of the {len(found)} {predictor.noun}s can be used; the first: {skipped[0].reason}")
        files.write_tables(skipped)
    return Predicted(folder, len(files.rows), tuple(skipped))


def predict_split(
    path: Path, folder: Path, overrides: Sequence[str] = (), *, picture: bool = False
) -> tuple[Result, Predicted]:
    """Measure a model of scenes on ``evaluation.split``, and write what it says of them as :func:`predict_files` does.

    With ``evaluation.voting=fragments``, what is written is the vote.

    Raises:
        UsageError: the model is one of objects, or a mistake in the arguments.
        GeopeftError: anything else that is foreseeable.
    """
    refuse_existing(folder, "Choose another --predictions, or remove it.")
    if picture:
        require_matplotlib()
    opened = open_trained(path, overrides)
    scenes = measured_part(opened)
    if not isinstance(scenes, SceneSet):
        raise UsageError(
            "--input and --predictions go together: what is predicted, and where the results go",
            "Without --input, only scenes of the recipe's own data are predicted, by models of scenes.",
        )
    model = TrainedModel(opened, choose_device(opened.recipe.training.device, scenes=opened.recipe.of_scenes))
    unscaled = _unscaled(opened.recipe)
    originals = scenes if unscaled is None else measured_part(replace(opened, recipe=unscaled))
    stems = result_stems(scenes.names)
    assert isinstance(originals, SceneSet)
    with new_folder(folder) as partial_folder:
        files = PredictionFiles(partial_folder, model, picture)

        def keep(index: int, probabilities: Float32, rows: Labels | None) -> None:
            name, points = scenes.names[index], originals[index].coordinates
            files.add(name, stems[index], Prediction(Prepared(name, 0, points), probabilities, rows))

        result = measure(opened, scenes, keep)
        files.write_tables()
    return result, Predicted(folder, len(files.rows))


def _unscaled(recipe: Recipe) -> Recipe | None:
    """The same with scenes as they are in files; None where they are."""
    data = recipe.data
    if not isinstance(data, SceneDataSettings) or data.scale == 1:
        return None
    return recipe.model_copy(update={"data": data.model_copy(update={"scale": 1.0})})


def _predicted(
    predictor: Predictor[Any],
    batch_size: int,
    inputs: Sequence[Input],
    labels: Sequence[int],
    skipped: list[Skipped] | None,
    advance: Callable[[], object],
) -> Iterator[tuple[Input, Prediction]]:
    tasks = (partial(_prepared, predictor, *pair) for pair in zip(inputs, labels, strict=True))
    batch: list[tuple[Input, Prepared]] = []
    with closing(prefetched(tasks, ahead=min(batch_size, 4))) as clouds:
        for one, prepared in zip(inputs, clouds, strict=True):
            if isinstance(prepared, DataError):
                if skipped is None:
                    raise prepared
                skipped.append(Skipped(one.name, prepared.message))
            else:
                batch.append((one, prepared))
            if len(batch) == batch_size or sum(len(cloud.points) for _, cloud in batch) >= MOST_POINTS:
                yield from _asked(predictor, batch)
                batch = []
            advance()
    yield from _asked(predictor, batch)


def _asked(predictor: Predictor[Any], batch: Sequence[tuple[Input, Prepared]]) -> Iterator[tuple[Input, Prediction]]:
    if batch:
        inputs, clouds = zip(*batch, strict=True)
        yield from zip(inputs, predictor.predict(clouds), strict=True)


def _prepared(predictor: Predictor[Prepared], one: Input, category: int) -> Prepared | DataError:
    try:
        return predictor.from_file(one.path, one.name, category)
    except DataError as error:
        return error


def _category(model: TrainedModel, one: Input, category: str | None) -> int:
    if not model.categories or category is not None:
        return model.category(category)
    if one.folder not in model.categories:
        raise UsageError(
            f"--category: what is {one.name}? The model labels parts of objects whose category is given, and the "
            f"folder {one.folder!r} is not called after one",
            f"Give --category, or put the files into folders of these names: {', '.join(model.categories)}.",
        )
    return model.category(one.folder)


def _check_place(folder: Path, inputs: Sequence[Path]) -> None:
    refuse_existing(folder, "Choose another --predictions, or remove it.")
    for path in inputs:
        if path.is_dir() and folder.resolve().is_relative_to(path.resolve()):
            raise UsageError(
                f"--predictions {folder} is in --input {path}, where results would be taken for clouds",
                "Choose a folder beside it.",
            )


def _check_model(model: TrainedModel) -> None:
    if model.recipe.data.format == "s3dis_blocks":
        raise UsageError(
            f"--input: {model.source} was trained on blocks of rooms and says nothing of whole files",
            "Measure it on rooms with data.root, or cut the blocks and predict them from Python.",
        )
