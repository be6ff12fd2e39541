"""Point-MAE: its size, the order of its sequence, positions, stochastic depth and what the head reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.backbones import BACKBONES, backbone_class
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.backbones.transformer import Attention, Block, DropPath, FeedForward, Trunk
from geopeft_cli.contracts import official_parameters
from geopeft_cli.geometry.grouping import group
from geopeft_cli.tasks.classification import Classification
from geopeft_cli.training.schedule import decays, parameter_groups

POINTS = torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(0))


def tiny(**settings: object) -> PointMAE:
    torch.manual_seed(0)
    return PointMAE(**{"width": 32, "depth": 3, "heads": 2, "groups": 8, "group_size": 8} | settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("classes", "expected"), [(15, 22_093_327), (40, 22_099_752)])
def test_size(classes: int, expected: int) -> None:
    backbone = PointMAE()
    trunk = sum(parameter.numel() for parameter in backbone.parameters())
    assert trunk == 21_825_792
    Classification([str(i) for i in range(classes)]).attach(backbone)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == expected


def test_parameter_tensors_and_their_decay() -> None:
    backbone = PointMAE()
    Classification([str(i) for i in range(15)]).attach(backbone)
    without, with_decay = parameter_groups(backbone, 0.05)
    assert (without["weight_decay"], with_decay["weight_decay"]) == (0.0, 0.05)
    assert len(list(backbone.parameters())) == 162
    assert (len(without["params"]), len(with_decay["params"])) == (104, 58)  # type: ignore[arg-type]
    rule = {name: decays(name, parameter) for name, parameter in official_parameters(backbone).items()}
    assert not rule["cls_token"]
    assert rule["cls_pos"]
    assert rule["encoder.first_conv.0.weight"]
    assert not rule["encoder.first_conv.1.weight"]


def test_parts_have_the_published_sizes() -> None:
    backbone = PointMAE()

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(backbone.encoder) == 494_464
    assert count(backbone.pos_embed) == 50_048
    assert count(backbone.norm) == 768
    assert count(backbone.blocks) == 12 * 1_773_312
    assert backbone.cls_token.numel() + backbone.cls_pos.numel() == 768
    assert count(PointMAE(width=96, depth=1, heads=2).encoder) == 346_720
    assert backbone.blocks.blocks[0].attn.qkv.bias is None


def test_fresh_tokens_are_drawn_with_deviation_002() -> None:
    torch.manual_seed(0)
    backbone = PointMAE(depth=1)
    for name in backbone.token_names:
        token = backbone.get_parameter(name).detach()
        assert 0.017 < float(token.std()) < 0.023
        assert float(token.abs().max()) < 0.1


def test_settings_rebuild_the_backbone() -> None:
    backbone = tiny(drop_path=0.3, near_origin="keep")
    copy = PointMAE(**backbone.settings())
    assert copy.settings() == backbone.settings()
    assert {n: t.shape for n, t in copy.state_dict().items()} == {n: t.shape for n, t in backbone.state_dict().items()}
    for name in BACKBONES:
        assert backbone_class(name).name == name


def by_definition(backbone: PointMAE, points: Tensor) -> tuple[Tensor, Tensor]:
    """Features after the norm and the pooled feature, step by step as published."""
    neighborhoods, centers = group(points, backbone.groups, backbone.group_size)[:2]
    flat = neighborhoods.flatten(0, 1)
    x = torch.cat(
        [backbone.cls_token.repeat(len(points), 1, 1), backbone.encoder.textbook(flat).unflatten(0, (-1, 8))], 1
    )
    position = torch.cat([backbone.cls_pos.repeat(len(points), 1, 1), backbone.pos_embed(centers)], 1)
    for block in backbone.blocks.blocks:
        x = x + position
        q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
        heads = []
        for part in range(backbone.heads):
            rows = slice(part * 16, part * 16 + 16)
            scores = q[..., rows] @ k[..., rows].mT / 16**0.5
            heads.append(scores.softmax(dim=-1) @ v[..., rows])
        x = x + block.attn.proj(torch.cat(heads, dim=-1))
        hidden = block.mlp.fc1(block.norm2(x))
        x = x + block.mlp.fc2(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)
    x = backbone.norm(x)
    return x, torch.cat([x[:, 0], x[:, 1:].max(dim=1).values], dim=1)


def test_forward_is_the_definition() -> None:
    backbone = tiny().eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        features, pooled = by_definition(backbone, POINTS)
        tokens = backbone.encode(POINTS)
    torch.testing.assert_close(tokens.features, features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backbone.pool(tokens), pooled, atol=1e-5, rtol=1e-5)
    assert backbone.feature_width == pooled.shape[1] == 64
    fused = torch.randn(2, 32)
    expected = pooled + torch.cat([torch.zeros(2, 32), fused], dim=1)
    torch.testing.assert_close(backbone.pool(tokens, fused), expected, atol=1e-5, rtol=1e-5)


def test_sequence_is_the_class_token_and_the_groups_in_sampling_order() -> None:
    tokens = tiny().eval().encode(POINTS)
    assert torch.equal(tokens.centers, group(POINTS, 8, 8).centers)
    assert tokens.slots.tolist() == [-1, 0, 1, 2, 3, 4, 5, 6, 7]
    assert tokens.features.shape == (2, 9, 32)
    assert tokens.layers == {}


def test_position_is_added_before_every_block() -> None:
    torch.manual_seed(0)
    trunk, received = Trunk(8, 4, 2, 0.0), []
    for block in trunk.blocks:
        block.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    x, position = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    _, kept = trunk(x, position, (0, 1, 2, 3))
    for index, before in enumerate([x, kept[0], kept[1], kept[2]]):
        assert torch.equal(received[index], before + position)


def test_near_origin_reaches_the_sampling() -> None:
    points = torch.cat([POINTS[:1], torch.zeros(1, 8, 3)], dim=1) * 0.02
    kept, skipped = (tiny(near_origin=mode).eval().encode(points).centers for mode in ("keep", "skip"))
    assert not torch.equal(kept, skipped)


def test_rates_of_stochastic_depth_grow_from_zero() -> None:
    rates = [block.drop_path.rate for block in PointMAE(width=32, heads=2, drop_path=0.11).blocks.blocks]
    assert rates == pytest.approx([0.01 * i for i in range(12)], abs=1e-7)
    assert rates[0] == 0.0
    assert tiny(depth=1).blocks.blocks[0].drop_path.rate == 0.0


def test_drop_path_draws_once_a_sample_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer, x = DropPath(0.25).train(), torch.ones(4000, 3, 5)
    y = layer(x)
    first = y[:, :1, :1]
    assert torch.equal(y, first.expand_as(y))
    assert set(first.flatten().tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    kept = float((first > 0).float().mean())
    assert abs(kept - 0.75) < 4 * (0.25 * 0.75 / 4000) ** 0.5
    assert abs(float(y.mean()) - 1) < 0.04


def test_drop_path_is_idle_outside_training() -> None:
    x = torch.randn(3, 4)
    assert DropPath(0.5).eval()(x) is x
    assert DropPath(0.0).train()(x) is x


def test_both_branches_of_a_block_are_dropped_by_themselves() -> None:
    torch.manual_seed(0)
    block, x = Block(8, 2, drop_path=0.5).train(), torch.randn(1, 4, 8)
    block.eval()
    with torch.no_grad():
        attention = block.attn(block.norm1(x)) * 2
        outcomes = []
        for first in (0, 1):
            middle = x + first * attention
            outcomes += [middle + second * 2 * block.mlp(block.norm2(middle)) for second in (0, 1)]
        block.train()
        seen = set()
        for _ in range(60):
            y = block(x)
            seen.add(min(range(4), key=lambda i: float((outcomes[i] - y).abs().max())))
            assert min(float((outcome - y).abs().max()) for outcome in outcomes) < 1e-5
    assert seen == {0, 1, 2, 3}


def test_layers_of_a_block() -> None:
    attention, feed_forward = Attention(12, 3), FeedForward(12, 48)
    assert {name for name, _ in attention.named_parameters()} == {"qkv.weight", "proj.weight", "proj.bias"}
    assert attention(torch.randn(2, 5, 12)).shape == feed_forward(torch.randn(2, 5, 12)).shape == (2, 5, 12)
