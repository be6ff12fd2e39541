"""The folder of predictions: tables of all, and for each what labels and pictures there are."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geopeft_cli.data.formats.written import colors_of, write_npz, write_ply
from geopeft_cli.evaluation.prediction import Prediction
from geopeft_cli.recipe.scene_data import SceneDataSettings
from geopeft_cli.reports.cloud_picture import draw_cloud
from geopeft_cli.verbs.trained import TrainedModel


@dataclass(frozen=True)
class Skipped:
    """A file without a prediction, and why."""

    file: str
    reason: str


class PredictionFiles:
    """Writes predictions of a model into a folder.

    Args:
        folder: exists.
        model: whose predictions they are.
        picture: draw each.

    Attributes:
        rows: of the tables so far.
    """

    def __init__(self, folder: Path, model: TrainedModel, picture: bool) -> None:
        self.rows: list[dict[str, Any]] = []
        self._folder, self._model, self._picture = folder, model, picture

    def add(self, name: str, stem: str, prediction: Prediction) -> None:
        """Write what belongs to one: ``name`` stands in the tables, ``stem`` is the path of its files."""
        self.rows.append(_row(self._model, name, prediction))
        if self._model.is_dense:
            points, labels = prediction.cloud.points, prediction.labels
            write_ply(self._place(stem, ".ply"), points, labels)
            write_npz(self._place(stem, ".npz"), points, labels, prediction.confidences, self._model.classes)
        if self._picture:
            _draw(self._place(stem, ".png"), name, prediction, self._model)

    def write_tables(self, skipped: Sequence[Skipped] = ()) -> None:
        """Write ``predictions.json`` and ``predictions.csv``, of one row at least."""
        model, rows = self._model, self.rows
        record = {
            "model": str(model.source),
            "task": model.recipe.task.name,
            "classes": list(model.classes),
            **model.predictor().record(),
            "predictions": rows,
            "skipped": [asdict(one) for one in skipped],
        }
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        (self._folder / "predictions.json").write_text(text, encoding="utf-8")
        with (self._folder / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            heads = [key for key, value in rows[0].items() if not isinstance(value, dict)]
            last = "points_by_label" if model.is_dense else "probabilities"
            writer.writerow([*heads, *model.classes])
            for row in rows:
                writer.writerow([*(row[head] for head in heads), *row[last].values()])

    def _place(self, stem: str, suffix: str) -> Path:
        path = self._folder / f"{stem}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _row(model: TrainedModel, name: str, prediction: Prediction) -> dict[str, Any]:
    row: dict[str, Any] = {"file": name}
    if model.is_dense:
        if model.categories:
            row["category"] = model.categories[prediction.cloud.category]
        counts = np.bincount(prediction.labels, minlength=len(model.classes))
        row["points"] = int(counts.sum())
        if prediction.cloud.filled:
            row["filled"] = dict(prediction.cloud.filled)
        return {**row, "points_by_label": dict(zip(model.classes, counts.tolist(), strict=True))}
    probabilities = [round(float(value), 6) for value in prediction.probabilities]
    label = model.classes[int(prediction.labels)]
    return {**row, "predicted": label, "probabilities": dict(zip(model.classes, probabilities, strict=True))}


def _draw(place: Path, name: str, prediction: Prediction, model: TrainedModel) -> None:
    data, shown = model.recipe.data, prediction.cloud.shown
    up = "z" if isinstance(data, SceneDataSettings) or "rotate_z" in data.augment else "y"
    if model.is_dense:
        present = np.unique(prediction.labels)
        legend = {model.classes[label]: colors_of(label) for label in present}
        draw_cloud(place, shown, name, colors_of(prediction.labels), legend, up)
    else:
        label, sure = model.classes[int(prediction.labels)], float(prediction.confidences)
        draw_cloud(place, shown, f"{name}: {label} ({100 * sure:.1f} %)", up=up)
