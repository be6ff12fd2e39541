"""Every foreseeable failure: what is wrong, where, what to do, and the exit code that tells scripts whose fault it is.

Exit code 2: a mistake in the recipe or the arguments. Exit code 1: the run failed.
"""

from __future__ import annotations


class GeopeftError(Exception):
    """A failure that is explained in one message and needs no traceback.

    Args:
        message: what is wrong and where (file:line, tensor, cloud).
        hint: what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(GeopeftError):
    """A mistake in the recipe or in the arguments of a command."""

    exit_code = 2


class DataError(GeopeftError):
    """A cloud, mesh or label file that cannot be used; the message names the file."""


class MissingDataError(DataError):
    """The recipe names a data file or folder that is not there."""

    exit_code = 2


class CheckpointError(GeopeftError):
    """A checkpoint that is missing, damaged, unsafe, or of another architecture."""


class AdapterError(GeopeftError):
    """An adapter directory that is incomplete, damaged, or made for another base."""


class ShapeError(GeopeftError):
    """A tensor of the wrong shape; the message gives both shapes."""


class GeometryError(GeopeftError):
    """A layer needs the centers of its tokens and the current forward pass has none that fit."""


class MergeError(GeopeftError):
    """A merge that is undefined, not exact in the mode asked for, or not confirmed by its own check."""


class MergeModeError(MergeError):
    """A merge mode that an adapter does not have."""

    exit_code = 2


class ExportError(GeopeftError):
    """An export that the format cannot express, or whose file does not reproduce the model."""


class TrainingError(GeopeftError):
    """Training cannot go on, for example because the loss is not finite."""


class MissingDependencyError(GeopeftError):
    """An optional package or a system library is absent; the hint is the command that installs it."""
