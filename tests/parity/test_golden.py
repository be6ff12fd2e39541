"""Our code against the golden sets: the compact core that every clone has, and the full sets where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parity.check import check
from parity.golden_set import GoldenSet
from parity.make_core import CORES, TARGET, write_core
from parity.subjects import RUNNERS

WHOLE_NETWORKS = (
    "classifiers", "gem", "mamba3d", "most_point_gpt", "point_gpt", "point_m2ae", "point_mamba", "scenes",
    "segmentation",
)  # fmt: skip
WITHOUT_CORE = {"gem_sonata_base", "ptv3_base", "sonata_base"}  # of 46 to 110 million parameters, checked by hand


def _subject(name: str) -> str:
    return RUNNERS[name].partition(":")[0].rpartition(".")[2]


WHOLE_MODELS = ("point_peft_m2ae", "point_peft_mae")


def _is_slow(name: str) -> bool:
    return name in WHOLE_MODELS or _subject(name) in WHOLE_NETWORKS


BY_SPEED = [pytest.param(name, marks=[pytest.mark.slow] if _is_slow(name) else []) for name in sorted(CORES)]


def failures(folder: Path) -> list[str]:
    results = check(GoldenSet(folder))
    assert results
    return [f"{result.label}: {result.error} > {result.tolerance} {result.note}" for result in results if not result.ok]


def full_set(root: Path, name: str) -> Path:
    if not (root / name).is_dir():
        pytest.skip(f"no {name} in {root}")
    return root / name


def test_every_set_that_runs_has_a_core() -> None:
    assert {folder.name for folder in TARGET.iterdir()} == RUNNERS.keys() - WITHOUT_CORE == CORES.keys()


@pytest.mark.parametrize("name", BY_SPEED)
def test_the_core_is_reproduced(name: str) -> None:
    assert failures(TARGET / name) == []


@pytest.mark.parametrize("name", BY_SPEED)
def test_the_full_set_is_reproduced(name: str, parity_root: Path) -> None:
    assert failures(full_set(parity_root, name)) == []


@pytest.mark.parametrize("name", sorted(CORES))
def test_the_core_is_what_the_script_cuts(name: str, parity_root: Path, tmp_path: Path) -> None:
    write_core(full_set(parity_root, name), tmp_path / name)
    cut, kept = GoldenSet(tmp_path / name), GoldenSet(TARGET / name)
    assert cut.meta == kept.meta
    assert sorted(path.name for path in cut.folder.iterdir()) == sorted(path.name for path in kept.folder.iterdir())
    for file, tensors in cut.stored.items():
        assert tensors.keys() == kept.stored[file].keys()
        assert all(np.array_equal(tensors[key], kept.stored[file][key]) for key in tensors)
    for file in (path.name for path in cut.folder.iterdir() if not path.name.startswith("io")):
        assert cut.content(file) == kept.content(file)
