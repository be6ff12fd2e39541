"""Multi-layer feature fusion: which layers, their weights, what is pooled, and what trains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import Tokens
from geopeft_cli.errors import UsageError
from geopeft_cli.tasks.classification import Classification
from geopeft_cli.tasks.fusion import Fusion, fused_layers


@pytest.mark.parametrize(
    ("depth", "layers", "expected"),
    [
        (12, 3, (3, 7, 11)),
        (24, 3, (7, 15, 23)),
        (24, 4, (5, 11, 17, 23)),
        (5, 3, (2, 3, 4)),
        (24, 5, (7, 11, 15, 19, 23)),
        (4, 4, (0, 1, 2, 3)),
        (4, 1, (3,)),
        (4, 0, ()),
    ],
)
def test_layers_are_evenly_spaced_and_end_with_the_last(depth: int, layers: int, expected: tuple[int, ...]) -> None:
    assert fused_layers(range(depth), layers) == expected
    assert fused_layers(range(7, 7 + depth), layers) == tuple(7 + index for index in expected)


def test_more_layers_than_blocks_are_refused() -> None:
    with pytest.raises(UsageError, match=r"task\.fusion\.layers: 5 is more than the 4 blocks"):
        fused_layers(range(4), 5)
    with pytest.raises(UsageError, match="more than the 2 blocks"):
        Classification(["a", "b"], fusion={"layers": 3, "affine": False}).attach(PointMAE(width=32, depth=2, heads=2))


def tokens(layers: dict[int, Tensor], bypass: int) -> Tokens:
    some = next(iter(layers.values()))
    groups = some.shape[1] - bypass
    slots = torch.arange(-bypass, groups).clamp(min=-1)
    return Tokens(some, torch.zeros(some.shape[0], groups, 3), slots, layers)


@pytest.mark.parametrize("bypass", [0, 1, 2])
def test_formula(bypass: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = {index: torch.randn(2, 6, 8, generator=generator) for index in (3, 7, 11)}
    total = torch.zeros(2, 8, dtype=torch.float64)
    for weight, index in ((1, 3), (2, 7), (4, 11)):
        spatial = layers[index][:, bypass:].double()
        total += weight * (spatial.max(dim=1).values + spatial.mean(dim=1))
    centered = total - total.mean(dim=1, keepdim=True)
    expected = centered / torch.sqrt(centered.square().mean(dim=1, keepdim=True) + 1e-5)
    fused = Fusion(8, (3, 7, 11), affine=False)(tokens(layers, bypass))
    torch.testing.assert_close(fused.double(), expected, atol=1e-5, rtol=1e-5)


def test_tokens_without_a_center_are_not_pooled() -> None:
    fusion = Fusion(8, (1, 3), affine=False)
    layers = {index: torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(index)) for index in (1, 3)}
    expected = fusion(tokens(layers, 1))
    for layer in layers.values():
        layer[:, 0] = 1e4
    assert torch.equal(fusion(tokens(layers, 1)), expected)


@pytest.mark.parametrize(("affine", "extra"), [(False, 0), (True, 2 * 32)])
def test_affine_adds_two_vectors(affine: bool, extra: int) -> None:
    counts = []
    for layers in (0, 3):
        backbone = PointMAE(width=32, depth=4, heads=2)
        Classification(["a", "b"], fusion={"layers": layers, "affine": affine}).attach(backbone)
        counts.append(sum(parameter.numel() for parameter in backbone.parameters()))
    assert counts[1] - counts[0] == extra


def test_fused_features_join_the_maximum_not_the_class_token() -> None:
    torch.manual_seed(0)
    backbone = PointMAE(width=32, depth=4, heads=2, groups=8, group_size=8)
    Classification(["a", "b"], fusion={"layers": 2, "affine": False}).attach(backbone)
    backbone.eval()
    points = torch.randn(2, 64, 3)
    found = backbone.encode(points, (1, 3))
    fusion = backbone.get_submodule("fusion")
    assert isinstance(fusion, Fusion)
    assert fusion.layers == (1, 3)
    fused = fusion(found)
    feature = torch.cat([found.features[:, 0], found.features[:, 1:].amax(dim=1) + fused], dim=1)
    assert torch.equal(backbone(points), backbone.get_submodule("cls_head_finetune")(feature))
    assert fused.abs().max() > 0.1


def test_layers_are_raw_block_outputs() -> None:
    torch.manual_seed(0)
    backbone = PointMAE(width=32, depth=3, heads=2, groups=8, group_size=8).eval()
    seen: list[Tensor] = []
    for block in backbone.blocks.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append(output))
    found = backbone.encode(torch.randn(2, 64, 3), (0, 2))
    assert set(found.layers) == {0, 2}
    assert torch.equal(found.layers[0], seen[0])
    assert torch.equal(found.layers[2], seen[2])
    assert torch.equal(found.features, backbone.norm(seen[2]))
