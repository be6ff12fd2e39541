"""A written program is run against the model, on clouds of several numbers and sizes, before it is put in place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from geopeft_cli import __version__
from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.contracts import Backbone
from geopeft_cli.errors import ExportError, UsageError
from geopeft_cli.geometry.checks import require_count, require_points

BATCHES = (1, 2, 5)
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Verification:
    """What a written file was shown to do.

    Attributes:
        cases: (batch, points) of every run that was compared with the model; empty if none could be.
        difference: the largest absolute difference of a logit.
        file_bytes: size of what was written.
    """

    cases: tuple[tuple[int, int], ...]
    difference: float
    file_bytes: int

    @property
    def verified(self) -> bool:
        """Whether the file was run at all."""
        return bool(self.cases)


def require_suffix(path: Path, *suffixes: str) -> None:
    """Raise :class:`UsageError` unless the file is named as the programs that read it expect."""
    if path.suffix not in suffixes:
        raise UsageError(f"{path}: the name must end in {' or '.join(suffixes)}")


def standalone(model: Backbone) -> Backbone:
    """A copy of the model on the CPU in evaluation mode, in which nothing trains."""
    alone = copy.deepcopy(model).cpu().eval()
    return alone.requires_grad_(False)


def arguments(model: Backbone, points: Tensor) -> dict[str, Tensor]:
    """What a program is called with, by name: clouds (B, N, 3) and, where the model is told them, their categories."""
    assert model.task is not None
    if not model.task.tells_categories:
        return {"points": points}
    count = len(model.task.settings()["classes"])
    return {"points": points, "categories": torch.arange(len(points)) % count}


def prepared(clouds: Tensor, model: Backbone) -> Tensor:
    """Clouds to verify with, checked against what the backbone needs: float32 (B, N, 3) on the CPU.

    Raises:
        ShapeError: not (B, N, 3), no cloud, or clouds too small for the backbone.
    """
    require_points(clouds, "clouds")
    require_count(1, clouds.shape[0], "clouds to verify with")
    require_count(model.fewest_points, clouds.shape[1], "points of a cloud")
    return clouds.detach().cpu().float()


def record(manifest: Manifest) -> dict[str, str]:
    """What a program says about itself: class names as JSON, the preparation of its input, the version that wrote it.

    Of segmentation, ``part_names`` are those of the logits, and ``parts`` says which of them each class has.
    ``points`` is the cloud size of the training, not a requirement: a program takes clouds of any size.
    """
    data = manifest.recipe["data"]
    return {
        "classes": json.dumps(manifest.classes),
        **({"part_names": json.dumps(manifest.part_names)} if manifest.part_names else {}),
        **({"parts": json.dumps(manifest.parts)} if manifest.part_names else {}),
        "points": str(data["points"]),
        "normalize": str(data["normalize"]),
        "geopeft_version": __version__,
    }


def point_counts(points: int, fewest: int) -> tuple[int, ...]:
    """Cloud sizes to test: the given one, almost twice that, and an odd one near the lower limit."""
    return tuple(dict.fromkeys((points, 2 * points - 1, fewest | 1)))


def resized(clouds: Tensor, batch: int, points: int) -> Tensor:
    """Real clouds in another number and size.

    Clouds are cut, or get points a second time: half of those exact copies, which distances that tie need, half
    displaced a little. A cloud that is there several times begins at another point each time.

    Args:
        clouds: (B, N, 3), any unit.
        batch: how many.
        points: how many in each.

    Returns:
        (batch, points, 3), the same at every call.
    """
    chosen = torch.stack([clouds[i % len(clouds)].roll(i, dims=0) for i in range(batch)])
    again = chosen[:, torch.arange(max(0, points - clouds.shape[1])) % clouds.shape[1]]
    noise = torch.randn(again.shape, generator=torch.Generator().manual_seed(0)) * 0.01 * clouds.std()
    noise[:, ::2] = 0
    return torch.cat([chosen, again + noise], dim=1)[:, :points].contiguous()


@torch.no_grad()
def verify(run: Callable[..., Tensor], model: Backbone, clouds: Tensor, path: Path) -> Verification:
    """Compare a written program with the model.

    Args:
        run: the program, read back from ``path``: what :func:`arguments` gives -> logits.
        model: the model in evaluation mode on the CPU.
        clouds: what :func:`prepared` returned.
        path: what was written.

    Raises:
        ExportError: a logit differs by more than 1e-4 times the larger of 1 and the root mean square of the logits.
    """
    cases, largest = [], 0.0
    for points in point_counts(clouds.shape[1], model.fewest_points):
        for batch in BATCHES:
            given = arguments(model, resized(clouds, batch, points)).values()
            expected, found = model(*given), run(*given)
            difference = disagreement(found, expected, f"{batch} clouds of {points} points")
            largest = max(largest, difference)
            cases.append((batch, points))
    return Verification(tuple(cases), largest, path.stat().st_size)


def disagreement(found: Tensor, expected: Tensor, case: str, tolerance: float = TOLERANCE) -> float:
    """The largest absolute difference of two sets of logits.

    Raises:
        ExportError: above ``tolerance`` times the larger of 1 and the root mean square of ``expected``, or not finite.
    """
    if found.shape != expected.shape:
        raise ExportError(
            f"the written file gives {tuple(found.shape)} for {case}, the model {tuple(expected.shape)}", _HINT
        )
    difference = float((found - expected).abs().max())
    bound = tolerance * max(1.0, float(expected.square().mean().sqrt()))
    if not difference <= bound:
        raise ExportError(
            f"the written file differs from the model by {difference:.3g} on {case}, allowed is {bound:.3g}", _HINT
        )
    return difference


_HINT = "Nothing was written. Please report it with the recipe and the versions of torch and onnxruntime."
