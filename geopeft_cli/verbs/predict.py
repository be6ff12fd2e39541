"""Predict clouds without labels and write what comes out."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from geopeft_cli.data.formats.written import colors_of, write_npz, write_ply
from geopeft_cli.data.inputs import Input, find_inputs, require_distinct_stems
from geopeft_cli.data.prefetch import prefetched
from geopeft_cli.errors import DataError, UsageError
from geopeft_cli.evaluation.prediction import Prediction, Predictor, Prepared
from geopeft_cli.reports.cloud_picture import draw_cloud, require_matplotlib
from geopeft_cli.storage import new_folder, refuse_existing
from geopeft_cli.verbs.trained import TrainedModel

MOST_POINTS = 2**22
"""Of the clouds in a batch together, where every point gets a label."""


@dataclass(frozen=True)
class Skipped:
    """A file without a prediction, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Predicted:
    """What was written.

    Attributes:
        folder: where.
        clouds: how many were predicted.
        skipped: those that were not.
    """

    folder: Path
    clouds: int
    skipped: tuple[Skipped, ...]


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
    found = find_inputs(inputs)
    _check_place(folder, inputs)
    if picture:
        require_matplotlib()
    model = TrainedModel.load(path, overrides)
    _check_model(model)
    if model.is_dense or picture:
        require_distinct_stems(found)
    labels = [_category(model, one, category) for one in found]
    skipped: list[Skipped] = []
    rows: list[dict[str, Any]] = []
    bar = tqdm(total=len(found), unit="cloud", disable=not sys.stderr.isatty(), dynamic_ncols=True, leave=False)
    with bar, new_folder(folder) as partial_folder:
        for one, prediction in _predicted(model, found, labels, skipped if skip_bad else None, bar.update):
            rows.append(_row(model, one, prediction))
            if model.is_dense:
                _write_points(partial_folder, one, prediction, model.classes)
            if picture:
                _draw(partial_folder, one, prediction, model)
        if not rows:
            raise DataError(f"none of the {len(found)} clouds can be used; the first: {skipped[0].reason}")
        _write_tables(partial_folder, model, rows, skipped)
    return Predicted(folder, len(rows), tuple(skipped))


def _predicted(
    model: TrainedModel,
    inputs: Sequence[Input],
    labels: Sequence[int],
    skipped: list[Skipped] | None,
    advance: Callable[[], object],
) -> Iterator[tuple[Input, Prediction]]:
    predictor = model.predictor()
    tasks = (partial(_prepared, model, predictor, *pair) for pair in zip(inputs, labels, strict=True))
    batch: list[tuple[Input, Prepared]] = []
    with closing(prefetched(tasks, ahead=4)) as clouds:
        for one, prepared in zip(inputs, clouds, strict=True):
            if isinstance(prepared, DataError):
                if skipped is None:
                    raise prepared
                skipped.append(Skipped(one.name, prepared.message))
            else:
                batch.append((one, prepared))
            if len(batch) == model.batch_size or sum(len(cloud.whole) for _, cloud in batch) >= MOST_POINTS:
                yield from _asked(predictor, batch)
                batch = []
            advance()
    yield from _asked(predictor, batch)


def _asked(predictor: Predictor, batch: Sequence[tuple[Input, Prepared]]) -> Iterator[tuple[Input, Prediction]]:
    if batch:
        inputs, clouds = zip(*batch, strict=True)
        yield from zip(inputs, predictor.predict(clouds), strict=True)


def _prepared(model: TrainedModel, predictor: Predictor, one: Input, category: int) -> Prepared | DataError:
    try:
        return predictor.prepare(model.read(one.path, category, one.name))
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


def _row(model: TrainedModel, one: Input, prediction: Prediction) -> dict[str, Any]:
    row: dict[str, Any] = {"file": one.name}
    if model.is_dense:
        if model.categories:
            row["category"] = model.categories[prediction.cloud.category]
        counts = np.bincount(prediction.labels, minlength=len(model.classes))
        return {
            **row,
            "points": int(counts.sum()),
            "points_by_label": dict(zip(model.classes, counts.tolist(), strict=True)),
        }
    probabilities = [round(float(value), 6) for value in prediction.probabilities]
    label = model.classes[int(prediction.labels)]
    return {**row, "predicted": label, "probabilities": dict(zip(model.classes, probabilities, strict=True))}


def _write_points(folder: Path, one: Input, prediction: Prediction, classes: Sequence[str]) -> None:
    points, labels = prediction.cloud.points, prediction.labels
    write_ply(_place(folder, one, ".ply"), points, labels)
    write_npz(_place(folder, one, ".npz"), points, labels, prediction.confidences, classes)


def _draw(folder: Path, one: Input, prediction: Prediction, model: TrainedModel) -> None:
    up = "z" if "rotate_z" in model.recipe.objects.augment else "y"
    place, cloud = _place(folder, one, ".png"), prediction.cloud
    if model.is_dense:
        present = np.unique(prediction.labels)
        legend = {model.classes[label]: colors_of(label) for label in present}
        draw_cloud(place, cloud.whole, one.name, colors_of(prediction.labels), legend, up)
    else:
        label, sure = model.classes[int(prediction.labels)], float(prediction.confidences)
        draw_cloud(place, cloud.drawn, f"{one.name}: {label} ({100 * sure:.1f} %)", up=up)


def _place(folder: Path, one: Input, suffix: str) -> Path:
    path = folder / f"{one.stem}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_tables(folder: Path, model: TrainedModel, rows: Sequence[dict[str, Any]], skipped: list[Skipped]) -> None:
    data = model.recipe.objects
    record = {
        "model": str(model.source),
        "task": model.recipe.task.name,
        "classes": list(model.classes),
        "prepared": {"points": data.points, "normalize": data.normalize, "sampling": data.sampling},
        "voting": "none",
        "predictions": list(rows),
        "skipped": [asdict(one) for one in skipped],
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (folder / "predictions.json").write_text(text, encoding="utf-8")
    with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        heads = [key for key in rows[0] if key not in ("probabilities", "points_by_label")]
        last = "points_by_label" if model.is_dense else "probabilities"
        writer.writerow([*heads, *model.classes])
        for row in rows:
            writer.writerow([*(row[head] for head in heads), *row[last].values()])
