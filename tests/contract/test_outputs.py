"""A fresh adapter changes nothing, and a cloud's output never depends on its batch."""

from __future__ import annotations

import torch
from torch import Tensor

from contract.subject import Subject, clouds, logits, tiny_backbone
from geopeft_cli.contracts import Backbone, load_official_state, official_state
from geopeft_cli.tasks import task_class

POINTS = clouds(6, seed=1)


def frozen_classifier(subject: Subject, model: Backbone, checkpoint: dict[str, Tensor]) -> Backbone:
    """The backbone of the file without any method, with the head and the fresh tokens of ``model``."""
    assert model.task is not None
    plain = tiny_backbone(subject.backbone)
    task_class(model.task.name)(**model.task.settings()).attach(plain)
    state = official_state(model)
    load_official_state(plain, {name: state[name] for name in official_state(plain)})
    load_official_state(plain, checkpoint)
    return plain.requires_grad_(False)


def test_a_fresh_adapter_changes_no_bit_unless_its_definition_says_so(subject: Subject) -> None:
    experiment = subject.build()
    plain = frozen_classifier(subject, experiment.model, experiment.checkpoint.backbone)
    unchanged = torch.equal(logits(experiment.model, POINTS), logits(plain, POINTS))
    assert unchanged == experiment.method.is_identity_at_start


def test_a_moved_adapter_changes_the_output(subject: Subject) -> None:
    experiment = subject.moved()
    plain = frozen_classifier(subject, experiment.model, experiment.checkpoint.backbone)
    moved = set(official_state(experiment.model)) - set(official_state(plain))
    differs = not torch.equal(logits(experiment.model, POINTS), logits(plain, POINTS))
    assert differs or not moved


def test_a_cloud_alone_in_a_batch_and_in_another_order(subject: Subject) -> None:
    model = subject.moved().model
    together = logits(model, POINTS)
    assert together.std() > 0.01
    alone = torch.cat([logits(model, POINTS[[one]]) for one in range(6)])
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(model, POINTS[order]), together[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(model, POINTS[[2, 2, 2]]), together[[2, 2, 2]], atol=1e-5, rtol=0)


def test_evaluation_draws_nothing_and_inference_mode_gives_the_same_bits(subject: Subject) -> None:
    model = subject.moved().model
    before = torch.get_rng_state()
    expected = logits(model, POINTS)
    with torch.inference_mode():
        assert torch.equal(model(POINTS), expected)
    assert torch.equal(torch.get_rng_state(), before)
