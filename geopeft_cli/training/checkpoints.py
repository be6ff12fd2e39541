"""The state of a run at the end of an epoch, from which it continues bit for bit."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geopeft_cli.errors import CheckpointError, TrainingError
from geopeft_cli.storage import new_file

LAST = "last.pt"


@dataclass
class Progress:
    """Everything that changes during a run.

    Attributes:
        epoch: epochs that are finished.
        tensors: what trains and what moves, by official name.
        optimizer: its state dict.
        scaler: state of the fp16 loss scaler; empty otherwise.
        best: the kept tensors, where the run selects by a score.
        best_score: their score.
        best_epoch: their epoch.
        generators: states of the random number generators.
        recipe_digest: of the recipe that the run was started with.
    """

    epoch: int
    tensors: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Tensor] | None = None
    best_score: float | None = None
    best_epoch: int | None = None
    generators: dict[str, Any] = field(default_factory=dict)
    recipe_digest: str = ""


def generator_states() -> dict[str, Any]:
    """States of the generators of torch (CPU and, where used, CUDA)."""
    states: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_generators(states: dict[str, Any]) -> None:
    """Undo what happened since :func:`generator_states`."""
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


def seed_everything(seed: int) -> None:
    """Seed every generator that a library below might draw from; our own draws are keyed instead."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def save_progress(folder: Path, progress: Progress) -> None:
    """Write ``last.pt``, replacing the former one at once.

    Raises:
        GeopeftError: it cannot be written; the former one is still there.
    """
    path = folder / LAST
    with new_file(path) as partial:
        try:
            torch.save(asdict(progress), partial)
        except RuntimeError as error:  # what torch makes of a full disk
            raise TrainingError(
                f"{path} could not be written: {str(error).splitlines()[0]}",
                "Make space on the disk, then go on with --resume from the epoch that was saved before.",
            ) from error


def load_progress(folder: Path) -> Progress | None:
    """What :func:`save_progress` wrote last, or ``None``.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / LAST
    if not path.is_file():
        return None
    try:
        return Progress(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever a damaged zip archive or pickle makes torch raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read: {reason}", "Remove it to start the run again.") from error
