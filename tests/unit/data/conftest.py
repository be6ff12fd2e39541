"""Files that the tests of this room write, and the check for open3d."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from geopeft_cli.data.formats.open3d_bridge import load_open3d
from geopeft_cli.errors import MissingDependencyError

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def open3d_or_skip() -> None:
    """Skips where open3d, or a system library of it, is not installed."""
    try:
        load_open3d()
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(name, content)`` makes a file, with its folders, and returns its path."""

    def writer(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return writer


@pytest.fixture
def random_clouds() -> Callable[[list[int]], list[np.ndarray]]:
    """``random_clouds(sizes)``: normal clouds, float32, the same ones every time."""

    def make(sizes: list[int]) -> list[np.ndarray]:
        generator = np.random.default_rng(5)
        return [generator.normal(size=(size, 3)).astype(np.float32) for size in sizes]

    return make
