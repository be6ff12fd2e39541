"""Measuring a model over a split."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import Backbone
from geopeft_cli.data.prefetch import prefetched
from geopeft_cli.errors import GeopeftError
from geopeft_cli.evaluation.loop import evaluate
from geopeft_cli.tasks.classification import Classification

CPU = torch.device("cpu")


@dataclass
class Clouds:
    points: Tensor
    labels: Tensor
    indices: Tensor


@pytest.fixture
def model() -> Backbone:
    torch.manual_seed(0)
    model = PointMAE(24, 2, 4, groups=8, group_size=4, drop_path=0.5)
    Classification(["a", "b", "c"]).attach(model)
    return model.train()


def batches(*sizes: int) -> list[Clouds]:
    points = torch.randn(sum(sizes), 30, 3, generator=torch.Generator().manual_seed(1))
    index = torch.arange(sum(sizes))
    parts = zip(points.split(sizes), (index % 3).split(sizes), index.split(sizes), strict=True)
    return [Clouds(*part) for part in parts]


def test_figures_are_over_the_whole_split(model: Backbone) -> None:
    found = evaluate(model, batches(4, 4, 1), CPU)
    assert (found.outcomes.shape, found.targets.tolist()) == ((9, 3), [0, 1, 2] * 3)
    hits = float((found.outcomes.argmax(dim=1) == found.targets).double().mean())
    assert found.metrics["accuracy"] == pytest.approx(100 * hits)


def test_batches_do_not_matter_and_nothing_is_random(model: Backbone) -> None:
    once, again = evaluate(model, batches(9), CPU), evaluate(model, batches(2, 6, 1), CPU)
    torch.testing.assert_close(once.outcomes, again.outcomes, rtol=1e-5, atol=1e-5)


def test_the_mode_before_comes_back_and_nothing_moves(model: Backbone) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, batches(4), CPU)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    evaluate(model.eval(), batches(4), CPU)
    assert not model.training


def test_outputs_that_are_not_finite_name_the_cloud(model: Backbone) -> None:
    head = model.get_submodule("cls_head_finetune")
    assert isinstance(head, nn.Sequential)
    head[8].register_forward_hook(lambda module, inputs, output: output.index_fill(0, torch.tensor([1]), torch.nan))
    with pytest.raises(GeopeftError, match="the output for cloud 1 is not finite"):
        evaluate(model, batches(4), CPU)
    assert model.training
    assert torch.is_grad_enabled()


def test_a_failure_ends_the_thread_of_the_batches_at_once(model: Backbone) -> None:
    """Not only when the exception is forgotten, whose traceback still holds the frames that hold the batches."""

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    model.register_forward_hook(fail)
    prepared = prefetched([lambda batch=batch: batch for batch in batches(2, 2, 2)])  # type: ignore[misc]
    with pytest.raises(KeyboardInterrupt) as caught:
        evaluate(model, prepared, CPU)
    assert caught.tb is not None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("geopeft")]


def test_an_empty_split(model: Backbone) -> None:
    with pytest.raises(GeopeftError, match="the split holds no clouds"):
        evaluate(model, [], CPU)


def test_runs_in_the_context_that_is_given(model: Backbone) -> None:
    entered = []

    @contextmanager
    def context() -> Iterator[None]:
        entered.append(True)
        with torch.autocast("cpu", torch.bfloat16):
            yield

    found = evaluate(model, batches(4, 4), CPU, context)
    assert len(entered) == 2
    assert found.outcomes.dtype == torch.float32
    exact = evaluate(model, batches(4, 4), CPU).outcomes
    assert 0 < (found.outcomes - exact).abs().max() < 0.1
