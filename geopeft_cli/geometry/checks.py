"""Shapes, checked once at the door of every public function here."""

from __future__ import annotations

from torch import Tensor

from geopeft_cli.errors import ShapeError


def require_points(points: Tensor, name: str = "points") -> None:
    """Raise :class:`ShapeError` unless ``points`` is a batch of clouds, (B, N, 3)."""
    if points.ndim != 3 or points.shape[-1] != 3:
        raise ShapeError(
            f"{name} has shape {tuple(points.shape)}, expected (B, N, 3)",
            "Pass a batch of clouds, coordinates last; a single cloud needs a leading axis of 1.",
        )


def require_count(count: int, available: int, what: str) -> None:
    """Raise :class:`ShapeError` unless 1 <= ``count`` <= ``available``."""
    if count < 1:
        raise ShapeError(f"{what}: {count} asked for, at least 1 expected")
    if count > available:
        raise ShapeError(
            f"{what}: {count} asked for, only {available} available", "Use larger clouds, or ask for fewer."
        )


def require_slots(slots: Tensor, centers: Tensor) -> None:
    """Raise :class:`ShapeError` unless ``slots`` is (T,), or (B, T) for ``centers`` (B, G, 3)."""
    if slots.ndim not in (1, 2) or (slots.ndim == 2 and slots.shape[0] != centers.shape[0]):
        raise ShapeError(f"slots has shape {tuple(slots.shape)}, expected (T,) or ({centers.shape[0]}, T)")
