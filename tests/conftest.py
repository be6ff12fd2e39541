"""Shared test setup: one thread per worker, no network, and where outside data is looked for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

os.environ.update(
    OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1", HF_HUB_OFFLINE="1"
)

import pytest
import torch

from geopeft_cli.assets.pretrain_point_mae_tiny import save
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.recipe.dump import dump_recipe
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.verbs.finetune import finetune

torch.set_num_threads(1)

PROJECT = Path(__file__).resolve().parents[1]
TINY_RECIPE = """\
name: tiny
data: {{format: shapes, points: 128, train_per_class: 3, validation_per_class: 1, test_per_class: 2}}
backbone: {{checkpoint: {base}, groups: 16, group_size: 8}}
method: {{name: most, blocks: 4}}
training: {{epochs: 2, batch_size: 16, lr: 1e-3, warmup_epochs: 0, schedule: cosine, device: cpu}}
"""


@pytest.fixture(scope="session")
def parity_root() -> Path:
    """The folder of golden sets, from ``GEOPEFT_PARITY``; the test is skipped where it is absent."""
    root = Path(os.environ.get("GEOPEFT_PARITY", PROJECT / "../shared/parity/golden")).resolve()
    if not root.is_dir():
        pytest.skip(f"no golden sets at {root}: set GEOPEFT_PARITY")
    return root


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans, from ``GEOPEFT_TEST_DATA``; the test is skipped where it is absent."""
    root = Path(os.environ.get("GEOPEFT_TEST_DATA", PROJECT / "../shared/data")).resolve()
    if not root.is_dir():
        pytest.skip(f"no real scans at {root}: set GEOPEFT_TEST_DATA")
    return root


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training checkpoint of a random Point-MAE with 2 blocks of width 24, in the official layout."""
    path = tmp_path_factory.mktemp("base") / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(7)
        save(PointMAE(24, 2, 4, groups=16, group_size=8), path)
    return path


@pytest.fixture(scope="session")
def tiny_recipe(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on that checkpoint whose run takes about a second; MoST, two epochs of two steps."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY_RECIPE.format(base=tiny_base))
    return path


@pytest.fixture(scope="session")
def most_run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny recipe; not to be changed."""
    return finetune(tiny_recipe, (), tmp_path_factory.mktemp("runs") / "most").folder


@pytest.fixture(scope="session")
def lora_run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny recipe with LoRA on every layer of the blocks; not to be changed."""
    overrides = ["method={name: lora, rank: 2}"]
    return finetune(tiny_recipe, overrides, tmp_path_factory.mktemp("runs") / "lora").folder


class StubRuns:
    """Runs that are done at once: 80 % plus the seed. ``troubles`` maps ``NAME/seed0`` to what happens instead."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.troubles: dict[str, Callable[[], str | None]] = {}

    def __call__(self, recipe: Recipe, folder: Path) -> str | None:
        place = f"{folder.parent.name}/{folder.name}"
        self.started.append(place)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(dump_recipe(recipe))
        if place in self.troubles:
            return self.troubles[place]()
        summary = {
            "finished": True,
            "test": {"accuracy": 80.0 + recipe.seed},
            "trainable_parameters": 1200,
            "total_parameters": 5000,
            "seconds_per_step": 0.0125,
            "peak_memory_bytes": 250_000_000,
            "adapter_bytes": 5_000_000,
        }
        (folder / "metrics.jsonl").write_text(json.dumps(summary) + "\n")
        (folder / "adapter").mkdir()
        return None


@pytest.fixture
def stub_runs(monkeypatch: pytest.MonkeyPatch) -> StubRuns:
    """In place of the processes of a comparison."""
    stub = StubRuns()
    monkeypatch.setattr("geopeft_cli.verbs.comparison.in_own_process", stub)
    return stub
