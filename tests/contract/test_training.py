"""Frozen is frozen, what trains is what was declared, and the same seed gives the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from contract.subject import SEED, Batches, Subject, base_state, copied, same_bits, trainable
from geopeft_cli.adapters.directory import adapter_state
from geopeft_cli.contracts import Wrapper, official_name, official_state
from geopeft_cli.objective import training_loss


def test_training_moves_only_what_the_adapter_holds(subject: Subject) -> None:
    experiment, _ = subject.trained()
    from_file = experiment.checkpoint.backbone
    frozen = base_state(experiment)
    assert same_bits(frozen, {name: from_file[name] for name in frozen})
    held = adapter_state(experiment.model, experiment.fresh)
    assert set(official_state(experiment.model)) == set(frozen) | set(held)
    trained = trainable(experiment.model)
    unmoved = [name for name in trained if name in from_file and torch.equal(trained[name], from_file[name])]
    assert not unmoved
    if not frozen:
        assert set(trained) == {name for name, _ in experiment.model.named_parameters()}


def test_what_trains_gets_a_gradient_within_two_steps_and_nothing_else_does(subject: Subject) -> None:
    model = subject.build().model
    declared = set(trainable(model))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    reached: set[str] = set()
    torch.manual_seed(SEED)
    for batch in Batches().epoch(0):
        model.train()
        assert model.task is not None
        training_loss(model, model.task, batch.points, batch.labels)[0].backward()
        gradients = {official_name(n): p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert set(gradients) <= declared
        reached |= {name for name, gradient in gradients.items() if gradient.abs().max() > 0}
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert reached == declared


def test_modules_of_the_method_all_train(subject: Subject) -> None:
    experiment = subject.moved()
    added = [name for name in official_state(experiment.model) if name not in experiment.checkpoint.backbone]
    parameters = {official_name(name): p for name, p in experiment.model.named_parameters()}
    tokens = set(experiment.model.token_names)
    assert [n for n in added if n in parameters and n not in tokens and not parameters[n].requires_grad] == []


@pytest.mark.parametrize("tokens", ["train", "freeze"])
def test_tokens_follow_the_recipe_and_fresh_ones_belong_to_the_adapter(subject: Subject, tokens: str) -> None:
    subject.settings = {**subject.settings, "tokens": tokens}
    experiment = subject.build()
    model = experiment.model
    assert {model.get_parameter(name).requires_grad for name in model.token_names} <= {tokens == "train"}
    assert set(experiment.fresh) == set(model.layout.fresh) <= set(adapter_state(model, experiment.fresh))


def test_statistics_of_frozen_batchnorm_stay(subject: Subject) -> None:
    model = subject.build().model
    model.train()
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.training == module.weight.requires_grad, name
        elif name:
            assert module.training, name
    before = copied(official_state(model))
    model(next(Batches().epoch(0)).points)
    moved = {name for name, tensor in official_state(model).items() if not torch.equal(tensor, before[name])}
    allowed = {
        f"{name}.{buffer}"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight.requires_grad
        for buffer, _ in module.named_buffers()
    }
    assert moved == allowed
    model.eval()
    assert not any(module.training for module in model.modules())


def test_same_seed_same_bits_through_kill_and_resume(subject: Subject, tmp_path: Path) -> None:
    _, whole = subject.trained()
    with pytest.raises(KeyboardInterrupt):
        subject.train(tmp_path, stop_before=1)
    torch.rand(7)  # whatever else drew from the generator meanwhile
    experiment, resumed = subject.train(tmp_path)
    assert same_bits(whole.tensors, resumed.tensors)
    assert same_bits(base_state(experiment), {n: experiment.checkpoint.backbone[n] for n in base_state(experiment)})


def test_wrappers_keep_the_official_names(subject: Subject) -> None:
    experiment = subject.moved()
    assert set(experiment.checkpoint.backbone) <= set(official_state(experiment.model))
    for name, module in experiment.model.named_modules():
        if isinstance(module, Wrapper):
            sites = [*experiment.model.sites(), *experiment.model.block_sites()]
            assert official_name(name) in {site.name for site in sites}
