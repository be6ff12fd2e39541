"""Adapters whose updates are as large as after a long training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from geopeft_cli.adapters.header import read_header
from geopeft_cli.assets.pretrain_ptv3_tiny import save as save_scene_network
from geopeft_cli.backbones.ptv3 import PTv3
from geopeft_cli.verbs.finetune import finetune


def strengthened(adapter: Path, target: Path) -> Path:
    """A copy of an adapter with random factors in place of those that start at zero."""
    shutil.copytree(adapter, target)
    path = target / "adapter_model.safetensors"
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.endswith((".blkdiag2", ".lora_B.weight")):
            tensor.normal_(0, 0.3, generator=generator)
    save_file(tensors, path, read_header(path).metadata)
    return target


@pytest.fixture(scope="session")
def most_adapter(most_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MoST adapter with large updates; not to be changed."""
    return strengthened(most_run / "adapter", tmp_path_factory.mktemp("adapters") / "most")


@pytest.fixture(scope="session")
def lora_adapter(lora_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter with large updates; not to be changed."""
    return strengthened(lora_run / "adapter", tmp_path_factory.mktemp("adapters") / "lora")


PARTS_RECIPE = """
name: parts
data: {{format: packed, path: {path}, split: {{by: fraction, test: 0.25}}, points: 128}}
backbone: {{checkpoint: "embedded:point_mae_tiny", groups: 16, group_size: 8}}
method: {{name: lora, rank: 2}}
task: {{name: part_segmentation}}
training: {{epochs: 1, batch_size: 6, schedule: cosine, warmup_epochs: 0, device: cpu}}
"""


@pytest.fixture(scope="session")
def parts_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of part segmentation with the categories cube and plate, of two parts each; not to be changed."""
    folder = tmp_path_factory.mktemp("parts")
    points = np.random.default_rng(0).uniform(-1, 1, (8, 128, 3))
    label = np.arange(8) % 2
    names = {"classes": ["cube", "plate"], "part_names": ["lower", "upper", "left", "right"]}
    side = points[..., 0] > 0
    np.savez(folder / "parts.npz", points=points, label=label, point_labels=side + 2 * label[:, None], **names)
    (folder / "recipe.yaml").write_text(PARTS_RECIPE.format(path=folder / "parts.npz"), encoding="utf-8")
    return finetune(folder / "recipe.yaml", output=folder / "run").folder


SCENE_RECIPE = """
name: halls
data:
  format: scene_files
  root: {root}
  labels: {{classes: [floor, wall, table]}}
  split: {{by: folder}}
  features: [coordinates, colors, normals]
  absent: {{normals: zeros}}
  grid: 0.1
  augment: none
backbone: {{name: ptv3, checkpoint: {base}}}
method: {{name: gem, rank: 2, latents: 2}}
training: {{epochs: 1, batch_size: 2, device: cpu}}
"""


def hall(seed: int, points: int = 150) -> dict[str, np.ndarray]:
    """Fields of a scene of random points, a third of them twice in other colors; labels are by height."""
    random = np.random.default_rng(seed)
    coordinates = random.uniform(0, 1, (points, 3)).astype(np.float32)
    coordinates[-points // 3 :] = coordinates[: points // 3]
    colors = random.integers(0, 256, (points, 3)).astype(np.float32)
    return {"coordinates": coordinates, "colors": colors, "label": (3 * coordinates[:, 2] % 3).astype(np.int64)}


@pytest.fixture(scope="session")
def halls() -> Callable[[int], dict[str, np.ndarray]]:
    """Fields of the scene of a seed: those of 2 and 3 are in the test split of ``scene_run``."""
    return hall


@pytest.fixture(scope="session")
def scene_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny PTv3 with GEM on scenes of 150 points, two of them for testing; not to be changed."""
    folder = tmp_path_factory.mktemp("halls")
    for part, seeds in {"train": (0, 1), "test": (2, 3)}.items():
        (folder / "data" / part).mkdir(parents=True)
        for seed in seeds:
            np.savez(folder / "data" / part / f"hall_{seed}.npz", **hall(seed))
    base = folder / "ptv3.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        sizes = {"widths": (8, 8), "depths": (1, 1), "heads": (2, 2), "patch_size": 16}
        decoder = {"decoder_widths": (8,), "decoder_depths": (1,), "decoder_heads": (2,)}
        save_scene_network(PTv3(9, **sizes, **decoder), base)
    (folder / "recipe.yaml").write_text(SCENE_RECIPE.format(root=folder / "data", base=base), encoding="utf-8")
    return finetune(folder / "recipe.yaml", output=folder / "run").folder
