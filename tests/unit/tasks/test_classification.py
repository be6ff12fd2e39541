"""The classification task: heads, loss and metrics against closed forms and cases made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.tasks import TASKS, task_class
from geopeft_cli.tasks.classification import Classification
from geopeft_cli.tasks.heads import HEADS, linear, mlp2, mlp3

NAMES = ("chair", "lamp", "table")


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("features", "classes", "expected"),
    [(768, 15, 267_535), (768, 40, 273_960), (1536, 15, 464_143), (384, 40, 175_656), (384, 15, 169_231)],
)
def test_size_of_the_official_head(features: int, classes: int, expected: int) -> None:
    assert parameters(mlp3(features, classes)) == 256 * features + 67_072 + 257 * classes == expected


@pytest.mark.parametrize(("features", "classes", "expected"), [(768, 15, 11_535), (768, 40, 30_760)])
def test_size_of_the_linear_head(features: int, classes: int, expected: int) -> None:
    assert parameters(linear(features, classes)) == features * classes + classes == expected


@pytest.mark.parametrize(("features", "classes", "expected"), [(768, 15, 200_719), (768, 40, 207_144)])
def test_size_of_the_head_of_two_layers(features: int, classes: int, expected: int) -> None:
    head = mlp2(features, classes)
    assert parameters(head) == 256 * features + 256 + 257 * classes == expected
    assert [name for name, _ in head.named_parameters()] == ["0.weight", "0.bias", "3.weight", "3.bias"]


def test_official_head_is_the_formula_under_the_official_indices() -> None:
    torch.manual_seed(0)
    head = mlp3(8, 3)
    for buffer in ("1.running_mean", "1.running_var", "5.running_mean", "5.running_var"):
        head.get_buffer(buffer).uniform_(0.5, 1.5)
    state = head.state_dict()
    assert {name.partition(".")[0] for name in state} == {"0", "1", "4", "5", "8"}

    def norm(x: Tensor, index: int) -> Tensor:
        mean, variance = state[f"{index}.running_mean"], state[f"{index}.running_var"]
        return (x - mean) / torch.sqrt(variance + 1e-5) * state[f"{index}.weight"] + state[f"{index}.bias"]

    x = torch.randn(5, 8)
    hidden = norm(x @ state["0.weight"].T + state["0.bias"], 1).clamp(min=0)
    hidden = norm(hidden @ state["4.weight"].T + state["4.bias"], 5).clamp(min=0)
    torch.testing.assert_close(head.eval()(x), hidden @ state["8.weight"].T + state["8.bias"], atol=1e-5, rtol=1e-5)
    assert [m.p for m in head if isinstance(m, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize(("head", "layers"), [("mlp", ["0", "1", "4", "5", "8"]), ("linear", ["0"])])
def test_head_is_put_under_its_official_name(head: str, layers: list[str]) -> None:
    backbone = PointMAE(width=32, depth=1, heads=2, groups=4, group_size=4)
    task = Classification(NAMES, head=head)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="attach a task"):
        backbone(torch.zeros(1, 8, 3))
    task.attach(backbone)
    assert backbone.task is task
    found = {name for name in backbone.state_dict() if name.startswith(task.head_names)}
    assert {name.split(".")[1] for name in found} == set(layers)
    assert task.head_names == ("cls_head_finetune",)
    assert backbone.eval()(torch.rand(2, 16, 3)).shape == (2, 3)


def test_registries() -> None:
    assert task_class("classification") is Classification
    assert all(task_class(name).name == name for name in TASKS)
    assert PointMAE.head_layout in HEADS


def test_settings_rebuild_the_task() -> None:
    task = Classification(NAMES, "linear", 0.2, {"layers": 3, "affine": True})
    copy = Classification(**task.settings())
    assert copy.settings() == task.settings()
    assert (copy.classes, copy.head, copy.label_smoothing) == (NAMES, "linear", 0.2)
    assert copy.head_names == ("cls_head_finetune", "fusion")


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("classes", [2, 3, 15])
def test_label_smoothing_spreads_over_the_other_classes(eps: float, classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (6,), generator=generator)
    log_probability = logits - logits.exp().sum(dim=1, keepdim=True).log()
    weights = torch.full_like(logits, eps / (classes - 1))
    weights[torch.arange(6), labels] = 1 - eps
    expected = -(weights * log_probability).sum(dim=1).mean()
    loss = Classification([str(i) for i in range(classes)], label_smoothing=eps).loss(logits.float(), labels)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_loss_of_one_class_and_of_half_precision() -> None:
    assert float(Classification(["only"], label_smoothing=0.1).loss(torch.randn(2, 1), torch.tensor([0, 0]))) == 0.0
    logits = torch.tensor([[9.0, 0.0, 1.0]]).bfloat16()
    loss = Classification(NAMES).loss(logits, torch.tensor([1]))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(math.log(math.e**9 + 1 + math.e), rel=1e-6)


def one_hot(predictions: list[int], classes: int) -> Tensor:
    return torch.eye(classes)[predictions]


@pytest.mark.parametrize(
    ("predictions", "labels", "accuracy", "by_class"),
    [
        ([0, 1, 2], [0, 1, 2], 100.0, 100.0),
        ([0, 0, 0, 0], [0, 0, 0, 1], 75.0, 50.0),
        ([0, 0, 0, 0, 1], [0, 0, 0, 1, 1], 80.0, 75.0),
        ([0, 1, 0, 2], [0, 0, 0, 2], 75.0, 100 * (2 / 3 + 1) / 2),  # lamps are absent and do not count
        ([2, 2], [0, 1], 0.0, 0.0),
    ],
)
def test_metrics(predictions: list[int], labels: list[int], accuracy: float, by_class: float) -> None:
    metrics = Classification(NAMES).metrics(one_hot(predictions, 3), torch.tensor(labels))
    assert metrics == {"accuracy": pytest.approx(accuracy), "mean_class_accuracy": pytest.approx(by_class)}


def test_metrics_follow_the_order_of_the_logits_not_their_size() -> None:
    logits = torch.tensor([[-5.0, -1.0, -3.0], [1e6, -1e6, 0.0]])
    assert Classification(NAMES).metrics(logits, torch.tensor([1, 0]))["accuracy"] == 100.0
