"""Mistakes in a recipe, each with the place where it stands, and the error that carries all of them at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from geopeft_cli.errors import UsageError


@dataclass(frozen=True)
class Place:
    """Where a value was written: ``source`` is a file, or the argument that set it."""

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.source, self.line, self.column) if part is not None)


@dataclass(frozen=True)
class Problem:
    """One mistake, printed as one line."""

    place: Place
    text: str
    suggestion: str | None = None

    def __str__(self) -> str:
        question = f". Did you mean '{self.suggestion}'?" if self.suggestion else ""
        return f"{self.place}: {self.text}{question}"


class RecipeError(UsageError):
    """A recipe that cannot be used; the message has one line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def closest(word: object, candidates: Iterable[str]) -> str | None:
    """The candidate that ``word`` is most likely a misspelling of."""
    matches = difflib.get_close_matches(str(word).lower(), list(candidates), n=1, cutoff=0.6)
    return matches[0] if matches else None
