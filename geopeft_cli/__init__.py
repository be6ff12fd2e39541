"""geopeft: adapt pre-trained 3D point-cloud networks by training a few percent of their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geopeft_cli.verbs.trained import TrainedModel

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path: str | Path, overrides: Sequence[str] = ()) -> TrainedModel:
    """A run, an adapter or a merged file as a model that predicts, on the device that its recipe names.

    Args:
        path: a run folder, an adapter directory or a merged safetensors file.
        overrides: ``key.sub=value`` over the recipe in the adapter, such as ``backbone.checkpoint=PATH``.

    Raises:
        UsageError: nothing usable is there.
        AdapterError, CheckpointError: damaged, or made for another base.
    """
    from geopeft_cli.verbs.trained import TrainedModel

    return TrainedModel.load(path, overrides)
