"""Adapters whose updates are as large as after a long training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from geopeft_cli.adapters.header import read_header


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
