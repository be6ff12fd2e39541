"""Labels of points: sizes and formulas of the official heads, losses, and what the metrics count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.backbones import backbone_class
from geopeft_cli.backbones.act import ACT
from geopeft_cli.backbones.point_gpt import PointGPT
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import Backbone
from geopeft_cli.errors import DataError, UsageError
from geopeft_cli.geometry.interpolation import interpolate, inverse_distance_weights
from geopeft_cli.tasks.point_heads import POINT_HEADS, TokensHead, read_layers
from geopeft_cli.tasks.propagation import FeaturePropagation, GraphPropagation
from geopeft_cli.tasks.segmentation import PartSegmentation, SceneSegmentation

PARTS = {"chair": (0, 1), "lamp": (2, 3, 4)}
NAMES = ("leg", "seat", "foot", "pole", "shade")
STAGES = {"groups": (512, 256, 64), "group_size": (16, 8, 8)}
FIFTY = tuple(str(part) for part in range(50))
SIXTEEN = tuple(str(category) for category in range(16))


def task(kind: type[PartSegmentation] | type[SceneSegmentation] = PartSegmentation) -> Any:
    return kind(tuple(PARTS), NAMES, PARTS)


def tiny(kind: type[Backbone] = PointMAE, **settings: Any) -> Backbone:
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 3, "heads": 2, "groups": 8, "group_size": 8, "dense": True}
    return kind(**sizes | settings)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("point_mae", 27_063_730),
        ("point_bert", 27_085_874),
        ("recon", 48_542_386),
        ("point_gpt", 34_202_738 - 7_135_968),  # less the generator
        ("point_m2ae", 25_474_354),
    ],
)
def test_sizes_of_part_segmentation(name: str, expected: int) -> None:
    with torch.device("meta"):
        model = backbone_class(name)(dense=True, **(STAGES if name == "point_m2ae" else {}))
        PartSegmentation(SIXTEEN, FIFTY, {one: range(50) for one in SIXTEEN}).attach(model)
    unused = sum(buffer.numel() for name, buffer in model.named_buffers() if "increase_dim" in name)
    assert sum(parameter.numel() for parameter in model.parameters()) + unused == expected


def test_size_of_scene_segmentation() -> None:
    with torch.device("meta"):
        model = ACT(dense=True)
        SceneSegmentation(("room",), FIFTY[:13], {"room": range(13)}).attach(model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 27_020_301
    names = {name.partition(".")[0] for name, _ in model.named_parameters()}
    assert {"propagation_0_cls", "convs3_cls", "bns2_cls"} <= names
    assert not names & {"cls_token", "cls_pos", "label_conv"}


@pytest.mark.parametrize(("depth", "expected"), [(3, (0, 1, 2)), (4, (1, 2, 3)), (12, (3, 7, 11)), (24, (3, 7, 11))])
def test_the_layers_that_are_read(depth: int, expected: tuple[int, ...]) -> None:
    assert read_layers(SimpleNamespace(depth=depth)) == expected  # type: ignore[arg-type]


def test_too_few_layers_are_refused() -> None:
    with pytest.raises(UsageError, match="reads three layers, and point_mae has 2"):
        task().attach(tiny(depth=2))


def test_a_layer_on_the_sources_is_one_on_the_targets() -> None:
    torch.manual_seed(0)
    propagation = FeaturePropagation(7 + 3, 8, 6).eval()
    targets, sources, features = torch.rand(2, 20, 3), torch.rand(2, 5, 3), torch.randn(2, 5, 7)
    carried = interpolate(features, *inverse_distance_weights(targets, sources))
    x = torch.cat([targets, carried], dim=-1).transpose(1, 2)
    for conv, norm in zip(propagation.mlp_convs, propagation.mlp_bns, strict=True):
        x = norm(conv(x)).relu()
    torch.testing.assert_close(propagation(targets, sources, features, targets), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cloud_first", [False, True])
def test_a_shared_feature_is_one_of_every_point(cloud_first: bool) -> None:
    model = tiny()
    model.add_module("convs1", nn.Conv1d(9, 4, 1))
    head = TokensHead(model, 5, 2)
    points, cloud = torch.randn(2, 6, 11), torch.randn(2, 3)
    shared = head.run_joined("convs1", points, cloud, cloud_first)
    model.add_module("convs1", nn.Sequential(model.get_submodule("convs1")))
    torch.testing.assert_close(shared, head.run_joined("convs1", points, cloud, cloud_first), atol=1e-5, rtol=1e-5)


def test_an_edge_convolution_reads_the_neighbors_of_the_point() -> None:
    torch.manual_seed(0)
    layer = GraphPropagation(8).eval()
    sources, targets = torch.rand(1, 9, 3), torch.rand(1, 4, 3)
    features, own = torch.randn(1, 9, 8), torch.randn(1, 4, 8)
    before = layer(sources, features, targets, own)
    nearest = torch.cdist(targets, sources).topk(4, largest=False).indices
    unused = [one for one in range(9) if one not in set(nearest.flatten().tolist())]
    assert unused, "another seed is needed"
    features[:, unused] += 1
    assert torch.equal(layer(sources, features, targets, own), before)
    features[:, nearest[0, 0, 0]] += 1
    assert not torch.equal(layer(sources, features, targets, own), before)


def test_every_backbone_with_a_head_names_one() -> None:
    assert {kind.point_head for kind in (PointMAE, ACT, PointGPT)} <= POINT_HEADS.keys()
    with pytest.raises(UsageError, match="no segmentation head for i2p_mae"):
        task().attach(backbone_class("i2p_mae")(widths=(8, 8, 8), depths=(1, 1, 1), heads=2))


def test_stochastic_depth_of_point_gpt_is_that_of_segmentation() -> None:
    def rates(model: Backbone) -> list[float]:
        return [module.rate for name, module in model.named_modules() if name.endswith("drop_path")]

    assert rates(tiny(PointGPT, drop_path=0.4)) == pytest.approx([0.0, 0.2, 0.4])
    assert set(rates(tiny(PointGPT, drop_path=0.4, dense=False))) == {0.0}


def test_act_starts_its_weights_in_its_own_way() -> None:
    model = tiny(ACT)
    task().attach(model)
    conv = model.get_submodule("convs1_cls")
    assert isinstance(conv, nn.Conv1d)
    assert conv.bias is not None
    assert not conv.bias.any()
    assert float(conv.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_the_loss_is_the_mean_over_points_that_count() -> None:
    logits, targets = torch.randn(2, 6, 5), torch.randint(5, (2, 6))
    log_probs = logits.log_softmax(dim=-1)
    targets[0, :3] = -1
    each = -log_probs.gather(2, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(task().loss(logits, targets), each[targets >= 0].mean())
    scene = task(SceneSegmentation)
    torch.testing.assert_close(scene.loss(logits, targets), each[targets >= 0].mean())
    scene.weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.5])
    weight = scene.weights[targets.clamp(min=0)] * (targets >= 0)
    torch.testing.assert_close(scene.loss(logits, targets), (each * weight).sum() / weight.sum())


def test_only_parts_of_the_category_are_predicted_and_counted() -> None:
    logits = torch.zeros(2, 4, 5)
    logits[:, :, 2] = 9.0  # a part of lamps
    logits[:, :, 1] = 1.0
    categories = torch.tensor([0, 1])
    found = task().outcome(logits, categories)
    assert found.tolist() == [[1] * 4, [2] * 4]
    assert task().outcome(logits).tolist() == [[2] * 4] * 2
    targets = torch.tensor([[1, 1, 0, 0], [2, 2, 2, 2]])
    figures = task().metrics(found, targets, categories)
    chair, lamp = (0 / 2 + 2 / 4) / 2, 1.0  # parts that are in neither truth nor prediction count as 1
    assert figures["instance_miou"] == pytest.approx(100 * (chair + lamp) / 2)
    assert figures["class_miou"] == pytest.approx(100 * (chair + lamp) / 2)
    assert figures["accuracy"] == 75.0
    assert task().confusion(found, targets).counts[:2, :2].tolist() == [[0, 2], [0, 2]]


def test_scenes_are_counted_as_a_whole() -> None:
    scene = task(SceneSegmentation)
    decided, targets = torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 0], [1, -1]])
    figures = scene.metrics(decided, targets)
    assert figures["accuracy"] == pytest.approx(200 / 3)
    assert figures["miou"] == pytest.approx(100 * (1 / 2 + 1 / 2) / 5)
    assert figures["mean_class_accuracy"] == pytest.approx(100 * (1 / 2 + 1) / 5)


@pytest.mark.parametrize("kind", [PartSegmentation, SceneSegmentation])
def test_a_split_without_labels_that_count_is_refused(kind: Any) -> None:
    nothing = torch.full((2, 3), -1)
    with pytest.raises(DataError, match="no point of the split has a label that counts"):
        task(kind).metrics(nothing.clamp(min=0), nothing, torch.tensor([0, 1]))


def test_batches_and_data_without_labels_of_points_are_refused() -> None:
    with pytest.raises(DataError, match="the points of this data have no labels"):
        task().targets(SimpleNamespace(points=None, labels=None, point_labels=None))
    with pytest.raises(UsageError, match="part_segmentation needs a label for every point"):
        PartSegmentation(("chair",), (), {})


def test_what_the_model_is_told() -> None:
    labels = torch.tensor([0, 1])
    batch = SimpleNamespace(points=None, labels=labels, point_labels=None)
    assert [t is labels for t in task().conditions(batch)] == [True]
    assert task(SceneSegmentation).conditions(batch) == ()


@pytest.mark.parametrize("kind", [PartSegmentation, SceneSegmentation])
def test_settings_rebuild_the_task(kind: Any) -> None:
    first = task(kind)
    assert kind(**first.settings()).settings() == first.settings()


def test_unknown_categories_are_none_of_the_known() -> None:
    model = tiny()
    task().attach(model)
    points = torch.rand(2, 32, 3) - 0.5

    @torch.no_grad()
    def logits(categories: Tensor | None) -> Tensor:
        return model.eval()(points, categories)  # type: ignore[no-any-return]

    unknown = logits(None)
    assert not any(torch.equal(unknown, logits(torch.full((2,), each))) for each in (0, 1))
    assert model.task is not None
    assert model.task.outcome(unknown).shape == (2, 32)
