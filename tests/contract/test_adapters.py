"""The adapter directory: the same bits back, strict both ways, and any number of adapters on one base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from contract.subject import Subject, base_state, clouds, copied, logits, same_bits, write_checkpoint
from geopeft_cli.adapters.directory import adapter_state, load_adapter, read_adapter
from geopeft_cli.assemble import rebuild
from geopeft_cli.errors import AdapterError

POINTS = clouds(4, seed=2)
FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."


def test_the_same_bits_come_back(subject: Subject, tmp_path: Path) -> None:
    experiment = subject.perturbed()
    saved = subject.save(experiment, tmp_path / "adapter")
    loaded = rebuild(experiment.recipe, read_adapter(saved))
    assert same_bits(adapter_state(loaded.model, loaded.fresh), adapter_state(experiment.model, experiment.fresh))
    assert not loaded.model.training
    assert torch.equal(logits(loaded.model, POINTS), logits(experiment.model, POINTS))


def test_a_trained_adapter_comes_back(subject: Subject, tmp_path: Path) -> None:
    experiment, _ = subject.train(tmp_path)
    loaded = rebuild(experiment.recipe, read_adapter(subject.save(experiment, tmp_path / "adapter")))
    assert torch.equal(logits(loaded.model, POINTS), logits(experiment.model, POINTS))


@pytest.mark.parametrize("tokens", ["train", "freeze"])
def test_what_the_base_lacks_travels_with_the_adapter(subject: Subject, tmp_path: Path, tokens: str) -> None:
    subject.settings = {**subject.settings, "tokens": tokens}
    experiment = subject.build()
    assert set(experiment.fresh) == set(experiment.model.layout.fresh)
    stored = load_file(subject.save(experiment, tmp_path / "adapter") / FILE)
    assert {PREFIX + name for name in experiment.fresh} <= set(stored)


def lose_one(tensors: dict[str, Tensor], name: str) -> None:
    del tensors[name]


def gain_one(tensors: dict[str, Tensor], name: str) -> None:
    tensors[f"{name}_too"] = tensors[name].clone()


def reshape_one(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name] = torch.zeros(*tensors[name].shape, 1)


def poison_one(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name].flatten()[-1] = torch.nan


@pytest.mark.parametrize("spoil", [lose_one, gain_one, reshape_one, poison_one])
@pytest.mark.parametrize("place", [0, -1])
def test_a_spoiled_adapter_is_refused_by_name(
    subject: Subject, tmp_path: Path, spoil: Callable[[dict[str, Tensor], str], None], place: int
) -> None:
    experiment = subject.perturbed()
    file = subject.save(experiment, tmp_path / "adapter") / FILE
    tensors = load_file(file)
    name = [name for name in sorted(tensors) if tensors[name].is_floating_point()][place]
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    spoil(tensors, name)
    save_file(tensors, file, metadata)
    with pytest.raises(AdapterError) as caught:
        rebuild(experiment.recipe, read_adapter(file.parent))
    assert name.removeprefix(PREFIX) in caught.value.message


def test_another_base_is_refused(subject: Subject, tmp_path: Path) -> None:
    saved = subject.save(subject.perturbed(), tmp_path / "adapter")
    other = write_checkpoint(subject.backbone, tmp_path / "other.pth", seed=1)
    with pytest.raises(AdapterError, match="was made for a base with SHA-256"):
        rebuild(subject.recipe(other), read_adapter(saved))


def test_adapters_change_places_on_one_base(subject: Subject) -> None:
    first, second = subject.perturbed(seed=1), subject.perturbed(seed=2)
    tensors = [copied(adapter_state(e.model, e.fresh)) for e in (first, second)]
    expected = [logits(e.model, POINTS) for e in (first, second)]
    assert not torch.equal(*expected)
    host = subject.build()
    base = copied(base_state(host))
    for turn in (0, 1, 0):
        load_adapter(host.model, tensors[turn], host.fresh, "adapter")
        assert torch.equal(logits(host.model, POINTS), expected[turn])
    assert same_bits(base_state(host), base)
