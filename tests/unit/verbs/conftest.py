"""Adapters whose updates are as large as after a long training."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from geopeft_cli.adapters.header import read_header
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
