"""The adapter directory: the same bits back, strict both ways, and any number of adapters on one base."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from contract.subject import Subject, base_state, clouds, copied, logits, same_bits, saved, write_checkpoint
from geopeft_cli.adapters.directory import adapter_state, load_adapter, read_adapter
from geopeft_cli.assemble import rebuild
from geopeft_cli.contracts import official_state
from geopeft_cli.errors import AdapterError

POINTS = clouds(4, seed=2)
FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."


def test_the_same_bits_come_back(subject: Subject, tmp_path: Path) -> None:
    experiment = subject.moved()
    loaded = rebuild(experiment.recipe, read_adapter(saved(experiment, tmp_path / "adapter")))
    assert same_bits(adapter_state(loaded.model, loaded.fresh), adapter_state(experiment.model, experiment.fresh))
    assert not loaded.model.training
    assert torch.equal(logits(loaded.model, POINTS), logits(experiment.model, POINTS))


def test_a_trained_adapter_comes_back(subject: Subject, tmp_path: Path) -> None:
    experiment, _ = subject.trained()
    loaded = rebuild(experiment.recipe, read_adapter(saved(experiment, tmp_path / "adapter")))
    assert torch.equal(logits(loaded.model, POINTS), logits(experiment.model, POINTS))


def lose_one(tensors: dict[str, Tensor], name: str) -> None:
    del tensors[name]


def gain_one(tensors: dict[str, Tensor], name: str) -> None:
    tensors[f"{name}_too"] = tensors[name].clone()


def reshape_one(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name] = torch.zeros(*tensors[name].shape, 1)


def poison_one(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name].flatten()[-1] = torch.nan


def test_a_spoiled_adapter_is_refused_by_name(subject: Subject, tmp_path: Path) -> None:
    file = saved(subject.moved(), tmp_path / "adapter") / FILE
    whole, host = load_file(file), subject.build()
    before = copied(official_state(host.model))
    names = [name for name in sorted(whole) if whole[name].is_floating_point()]
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    for spoil, name in product((lose_one, gain_one, reshape_one, poison_one), (names[0], names[-1])):
        tensors = copied(whole)
        spoil(tensors, name)
        save_file(tensors, file, metadata)
        with pytest.raises(AdapterError) as caught:
            load_adapter(host.model, read_adapter(file.parent).tensors, host.fresh, "the adapter")
        assert name.removeprefix(PREFIX) in caught.value.message
    assert same_bits(official_state(host.model), before), "a refused adapter left something behind"


def test_another_base_is_refused(subject: Subject, tmp_path: Path) -> None:
    folder = saved(subject.moved(), tmp_path / "adapter")
    other = write_checkpoint(subject.backbone, tmp_path / "other.pth", seed=1)
    with pytest.raises(AdapterError, match="was made for a base with SHA-256"):
        rebuild(subject.recipe(other), read_adapter(folder))


def test_adapters_change_places_on_one_base(subject: Subject) -> None:
    first, second = subject.moved(), subject.perturbed(seed=2)
    tensors = [copied(adapter_state(e.model, e.fresh)) for e in (first, second)]
    expected = [logits(e.model, POINTS) for e in (first, second)]
    assert not torch.equal(*expected)
    host = subject.build()
    base = copied(base_state(host))
    for turn in (0, 1, 0):
        load_adapter(host.model, tensors[turn], host.fresh, "adapter")
        assert torch.equal(logits(host.model, POINTS), expected[turn])
    assert same_bits(base_state(host), base)
