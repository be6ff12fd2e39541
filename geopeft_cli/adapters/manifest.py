"""What an adapter says about itself: enough to rebuild the model it belongs to, and to refuse another. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from geopeft_cli.errors import AdapterError

FORMAT = 1
SECTIONS = ("data", "backbone", "method", "task", "training")  # of a recipe
HEADER_KEY = "geopeft"  # in the header of the safetensors file, where Hugging Face peft does not look


@dataclass(frozen=True)
class Manifest:
    """The record in the header of every tensor file that geopeft writes.

    Attributes:
        recipe: the resolved recipe, as plain values.
        classes: class names, in the order of the labels.
        part_names: names of the labels of points, for segmentation.
        parts: for every class, the labels that its points may have.
        backbone: arguments of the backbone's constructor.
        base_sha256: digest of the tensors that the base checkpoint gave the backbone.
        fresh: parameters that the base checkpoint did not hold and that therefore travel with the adapter.
        total_parameters: of backbone, method and head together.
        trainable_parameters: how many of them the run trained.
        metrics: figures at the end of training, such as ``{"test": {"accuracy": 91.2}}``.
        selection: which epoch was kept and how it was chosen.
        versions: of geopeft, torch, numpy and Python.
        merged: the merge mode and its errors, for merged checkpoints.
        origin: what an adapter that was not trained was made from, and how.
        memory: what is remembered of training clouds, where the method does that, and of which clouds.
        format: version of this record.
    """

    recipe: dict[str, Any]
    classes: list[str]
    backbone: dict[str, Any]
    base_sha256: str
    fresh: list[str]
    total_parameters: int
    trainable_parameters: int
    part_names: list[str] = field(default_factory=list)
    parts: dict[str, list[int]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    selection: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    merged: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    format: int = FORMAT

    def to_text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str, source: str) -> Manifest:
        """Read the record of the file ``source``.

        Raises:
            AdapterError: not this record, or one of a later format.
        """
        try:
            values = json.loads(text)
            found = int(values["format"])
        except (ValueError, KeyError, TypeError):
            raise AdapterError(f"{source} has a damaged record", "Copy or make the adapter again.") from None
        if found != FORMAT:
            raise AdapterError(f"{source} is of format {found}, this geopeft reads {FORMAT}", "Update geopeft.")
        try:
            manifest = cls(**values)
            odd = [name for name in SECTIONS if not isinstance(manifest.recipe.get(name), dict)]
        except (TypeError, AttributeError) as error:
            raise AdapterError(f"{source} has a damaged record: {error}", "Copy or make the adapter again.") from None
        if odd:
            raise AdapterError(f"{source} has a damaged record: no {', '.join(odd)} in its recipe")
        return manifest


def label_names(task: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of the labels, from the settings of its task."""
    return {key: task[key] for key in ("classes", "part_names", "parts") if key in task}
