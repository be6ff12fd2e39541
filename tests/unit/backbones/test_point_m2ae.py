"""Point-M2AE and I2P-MAE: sizes, the definition of every stage, what the head reads, sites, and their checkpoints."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from geopeft_cli.backbones import point_m2ae
from geopeft_cli.backbones.checkpoint import Checkpoint, infer_sizes, load_backbone, load_head, read_checkpoint
from geopeft_cli.backbones.point_m2ae import I2PMAE, LocalAttention, PointM2AE, near
from geopeft_cli.contracts import Geometry, Level, Method, official_parameters, published
from geopeft_cli.errors import CheckpointError, UsageError
from geopeft_cli.geometry.grouping import Groups, group
from geopeft_cli.methods.bitfit import BitFit
from geopeft_cli.methods.lora import LoRA
from geopeft_cli.methods.most import MoST
from geopeft_cli.methods.most_released import PointMonarchAttention
from geopeft_cli.recipe.backbones import STAGES, ObjectBackboneSection
from geopeft_cli.tasks.classification import Classification
from geopeft_cli.tasks.fusion import fused_layers
from geopeft_cli.training.schedule import decays

POINTS = torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(0))
TINY: dict[str, Any] = {
    "widths": (8, 12, 16),
    "depths": (1, 2, 2),
    "heads": 2,
    "groups": (16, 8, 5),
    "group_size": (6, 4, 3),
    "radius": (0.8, 1.3, 1.6),
}
KINDS = (PointM2AE, I2PMAE)


def tiny(kind: type[PointM2AE] = PointM2AE, **settings: Any) -> PointM2AE:
    """Every tensor is random, norms included."""
    torch.manual_seed(0)
    backbone = kind(**TINY | settings)
    with torch.no_grad():
        for name, tensor in backbone.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn_like(tensor))
    return backbone.eval()


def with_head(backbone: PointM2AE, classes: int) -> PointM2AE:
    Classification([str(i) for i in range(classes)]).attach(backbone)
    return backbone


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_sizes(kind: type[PointM2AE]) -> None:
    backbone = kind()
    encoder = backbone.h_encoder
    assert [count(part) for part in encoder.token_embed] == [346_720, 93_312, 370_944]
    assert [count(part) for part in encoder.encoder_pos_embeds] == [9_696, 37_824, 149_376]
    assert [count(part) for part in encoder.encoder_blocks] == [557_760, 2_221_440, 8_866_560]
    assert count(encoder) == 12_653_632
    assert count(with_head(backbone, 15)) == 12_921_935
    assert count(with_head(kind(pooling="sum"), 40)) == 12_830_056


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (MoST(), 1_088_640),
        (MoST(blocks=16), 544_320),
        (MoST(blocks=32), 272_160),
        (LoRA(), 430_080),
        (BitFit(), 32_832),
        (MoST(variant="released"), sum(5 * (2 * c * c // 8 + 3 * c) for c in (96, 192, 384))),
    ],
    ids=["most 8", "most 16", "most 32", "lora", "bitfit", "released"],
)
def test_trainable_parameters(method: Method, expected: int) -> None:
    backbone = PointM2AE().requires_grad_(False)
    method.attach(backbone)
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == expected


def test_the_released_form_has_the_width_of_every_stage() -> None:
    backbone = tiny().requires_grad_(False)
    MoST(blocks=4, variant="released").attach(backbone)
    branches = [module for module in backbone.modules() if isinstance(module, PointMonarchAttention)]
    assert [branch.point_monarch.monarch_linear.inputs for branch in branches] == [8, 12, 12, 16, 16]
    assert [branch.level for branch in branches] == [0, 1, 1, 2, 2]
    assert backbone.encode(POINTS).features.shape == (2, 5, 16)


@pytest.mark.parametrize("variant", ["linear", "released"])
def test_blocks_must_fit_the_narrowest_stage(variant: Any) -> None:
    with pytest.raises(UsageError, match="9 blocks do not fit a layer of 8 -> "):
        MoST(blocks=9, variant=variant).attach(tiny())


def test_settings_rebuild_the_backbone() -> None:
    backbone = tiny(I2PMAE, pooling="sum", drop_path=0.3, near_origin="keep")
    copy = I2PMAE(**json.loads(json.dumps(backbone.settings())))
    assert copy.settings() == backbone.settings()
    assert {n: t.shape for n, t in copy.state_dict().items()} == {n: t.shape for n, t in backbone.state_dict().items()}


def by_definition(backbone: PointM2AE, points: Tensor) -> Tensor:
    """Features after the norm, step by step as published, with the penalty of the released code as a sum."""
    below, x = points, points
    encoder = backbone.h_encoder
    for s in range(3):
        groups = group(below, backbone.groups[s], backbone.group_size[s])
        inputs = groups.neighborhoods
        if s > 0:
            inputs = torch.stack([x[cloud][groups.neighbor_index[cloud]] for cloud in range(len(points))])
        x = encoder.token_embed[s].textbook(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])  # type: ignore[operator]
        below = groups.centers
        position = encoder.encoder_pos_embeds[s](below)
        penalty = -100000.0 * (torch.cdist(below, below) >= backbone.radius[s])
        for block in encoder.encoder_blocks[s].blocks:  # type: ignore[union-attr]
            x = x + position
            heads, size = [], x.shape[2] // backbone.heads
            for part in block.attn.qkv(block.norm1(x)).unflatten(-1, (3, backbone.heads, size)).unbind(3):
                q, k, v = part.unbind(2)
                heads.append((q @ k.mT / size**0.5 + penalty).softmax(dim=-1) @ v)
            x = x + block.attn.proj(torch.cat(heads, dim=-1))
            hidden = block.mlp.fc1(block.norm2(x))
            x = x + block.mlp.fc2(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)
    return backbone.norm(x)


@torch.no_grad()
def test_forward_is_the_definition() -> None:
    backbone = tiny()
    torch.testing.assert_close(backbone.encode(POINTS).features, by_definition(backbone, POINTS), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_the_mask_and_its_radius_change() -> None:
    features = [
        tiny(radius=r).encode(POINTS).features for r in ((0.8, 1.3, 1.6), (0.8, 1.3, 9.0), (0, 0, 0), (9, 9, 9))
    ]
    assert not torch.allclose(features[0], features[1], atol=1e-3)
    assert not torch.allclose(features[0], features[2], atol=1e-3)
    torch.testing.assert_close(features[2], features[3], atol=1e-5, rtol=1e-5)


def test_near_is_below_the_radius_and_holds_for_a_token_itself() -> None:
    centers = torch.tensor([[[0.0, 0, 0], [0.5, 0, 0], [2.0, 0, 0]]])
    assert near(centers, 0.5).tolist() == [[[True, False, False], [False, True, False], [False, False, True]]]
    assert near(centers, 0.51)[0, 0].tolist() == [True, True, False]


def test_blocks_of_a_stage_share_the_mask() -> None:
    first, second, other = LocalAttention(8, 2, 0, 0.5), LocalAttention(8, 2, 0, 0.5), LocalAttention(8, 2, 0, 0.7)
    with published(Geometry([Level(POINTS, torch.arange(64))])):
        assert first.mask() is second.mask()
        assert first.mask() is not other.mask()
        assert LocalAttention(8, 2, 0, 0).mask() is None


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_head_reads(kind: type[PointM2AE]) -> None:
    tokens = tiny(kind).encode(POINTS)
    tokens.features[:, 0] = 100 + torch.rand(2, 16)  # the first token has the maximum
    mean, maximum, rest = (
        tokens.features.mean(1),
        tokens.features.max(1).values,
        tokens.features[:, 1:].max(1).values,
    )
    expected = {
        "sum": mean + maximum,
        "concat": torch.cat([mean, maximum], 1),
        "concat_rest": torch.cat([mean, rest], 1),
    }
    fused = torch.randn(2, 16)
    for pooling, feature in expected.items():
        backbone = tiny(kind, pooling=pooling)
        assert torch.equal(backbone.pool(tokens), feature)
        assert backbone.feature_width == feature.shape[1]
        added = fused if pooling == "sum" else torch.cat([torch.zeros(2, 16), fused], 1)
        torch.testing.assert_close(backbone.pool(tokens, fused), feature + added)
    assert tiny(kind).pooling == {"point_m2ae": "concat_rest", "i2p_mae": "concat"}[kind.name]


def test_sites_and_fusion() -> None:
    backbone = PointM2AE()
    sites = backbone.sites()
    attention = [site for site in sites if site.role == "attention"]
    assert [site.block for site in attention] == list(range(15))
    assert [site.level for site in attention] == [0] * 5 + [1] * 5 + [2] * 5
    assert attention[7].name == "h_encoder.encoder_blocks.1.blocks.2.attn"
    assert len(sites) == 15 * 5 + 3 * 6
    assert all(site.module is backbone.get_submodule(site.name) for site in sites)
    assert [site.level for site in sites if site.role in ("position", "patch_embedding")] == [None] * 18
    assert fused_layers(backbone.fusion_blocks, 3) == (12, 13, 14)


@torch.no_grad()
def test_raw_outputs_of_blocks_of_all_stages() -> None:
    layers = tiny().encode(POINTS, range(5)).layers
    assert [tuple(layers[i].shape[1:]) for i in range(5)] == [(16, 8), (8, 12), (8, 12), (5, 16), (5, 16)]
    torch.testing.assert_close(tiny().norm(layers[4]), tiny().encode(POINTS).features)


def test_rates_of_stochastic_depth_grow_through_the_stages() -> None:
    blocks = [block for stage in PointM2AE(drop_path=0.14).h_encoder.encoder_blocks for block in stage.blocks]  # type: ignore[union-attr]
    assert [block.drop_path.rate for block in blocks] == pytest.approx([0.01 * i for i in range(15)], abs=1e-7)


@pytest.mark.parametrize("mode", ["keep", "skip"])
def test_near_origin_reaches_the_sampling_of_every_stage(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def recorded(points: Tensor, *settings: Any) -> Groups:
        calls.append((points.shape[1], *settings))
        return group(points, *settings)

    monkeypatch.setattr(point_m2ae, "group", recorded)
    tiny(near_origin=mode).grouped(POINTS)
    assert calls == [(64, 16, 6, mode), (16, 8, 4, mode), (8, 5, 3, mode)]


def test_names_with_token_do_not_decay() -> None:
    rule = {name: decays(name, parameter) for name, parameter in official_parameters(PointM2AE()).items()}
    assert not any(decay for name, decay in rule.items() if name.startswith("h_encoder.token_embed."))
    assert rule["h_encoder.encoder_pos_embeds.0.0.weight"]


def test_settings_for_another_number_of_stages() -> None:
    with pytest.raises(UsageError, match=r"backbone\.radius: 2 values for the 3 stages of i2p_mae"):
        I2PMAE(radius=(1, 2))


# Checkpoints.

OTHER_NAMES = {
    "point_m2ae": ("rec_head.weight", "h_encoder.encoder_norms.2.weight", "token_prop.0.fuse.net.0.weight"),
    "i2p_mae": ("rec_head_2d.weight", "rec_head_3d.weight", "clip_model.visual.x", "h_encoder.encoder_norms.0.bias"),
}
COMMON = ("mask_token", "h_decoder.0.blocks.0.norm1.weight", "decoder_pos_embeds.0.0.weight", "decoder_norm.bias")


def pretrained(name: str) -> dict[str, Tensor]:
    own = {key: tensor for key, tensor in tiny().state_dict().items() if key.startswith("h_encoder.")}
    return own | {key: torch.zeros(3) for key in (*COMMON, *OTHER_NAMES[name])}


def read(folder: Path, tensors: dict[str, Tensor], kind: type[PointM2AE]) -> Checkpoint:
    torch.save({"base_model": tensors}, folder / "file.pth")
    return read_checkpoint(str(folder / "file.pth"), kind.name, kind.layout)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pre_training_file(tmp_path: Path, kind: type[PointM2AE], prefix: str) -> None:
    checkpoint = read(tmp_path, {prefix + key: t for key, t in pretrained(kind.name).items()}, kind)
    assert (checkpoint.identity.stage, checkpoint.identity.width, checkpoint.identity.depth) == ("pretrained", 16, 5)
    sizes = infer_sizes(checkpoint, {"heads": 2, "width": 16, "depth": 5})
    assert sizes == {"widths": (8, 12, 16), "depths": (1, 2, 2), "heads": 2}
    backbone = kind(**TINY)
    assert load_backbone(backbone, checkpoint) == ("norm.weight", "norm.bias")
    assert all(torch.equal(t, tiny().h_encoder.state_dict()[n]) for n, t in backbone.h_encoder.state_dict().items())
    assert torch.equal(backbone.norm.weight, torch.ones(16))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fine_tuned_file_is_of_the_network_that_is_asked_for(tmp_path: Path, kind: type[PointM2AE]) -> None:
    checkpoint = read(tmp_path, with_head(tiny(), 4).state_dict(), kind)
    assert (checkpoint.identity.backbone, checkpoint.identity.classes) == (kind.name, 4)
    backbone = kind(**TINY)
    assert load_backbone(backbone, checkpoint) == ()
    load_head(with_head(backbone, 4), checkpoint)
    with pytest.raises(CheckpointError, match="a head for 4 classes that does not fit"):
        load_head(with_head(kind(**TINY, pooling="sum"), 4), checkpoint)


@pytest.mark.parametrize(("kind", "other"), [(PointM2AE, "i2p_mae"), (I2PMAE, "point_m2ae")])
def test_the_pre_training_file_of_the_other_network(tmp_path: Path, kind: type[PointM2AE], other: str) -> None:
    with pytest.raises(CheckpointError, match=f"no key matches {kind.name}; it looks like "):
        read(tmp_path, pretrained(other), kind)


def test_an_early_upload_and_part_segmentation(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="it looks like an early upload of Point-M2AE"):
        read(tmp_path, {"MAE_encoder.encoders.0.blocks.0.norm1.weight": torch.ones(8)}, PointM2AE)
    tensors = tiny(dense=True).state_dict()
    tensors |= {"label_conv.0.weight": torch.zeros(2), "propagations.0.x": torch.zeros(2)}
    with pytest.raises(
        CheckpointError, match=r"part segmentation\) does not fit .* unexpected: h_encoder.encoder_norms"
    ):
        load_backbone(tiny(), read(tmp_path, tensors, PointM2AE))


def test_strict_both_ways_and_sizes(tmp_path: Path) -> None:
    tensors = pretrained("point_m2ae") | {"h_encoder.extra": torch.zeros(1)}
    del tensors["h_encoder.token_embed.1.second_conv.3.bias"]
    checkpoint = read(tmp_path, tensors, PointM2AE)
    with pytest.raises(
        CheckpointError, match=r"missing: h_encoder\.token_embed\.1\.second.*unexpected: h_encoder\.extra"
    ):
        load_backbone(tiny(), checkpoint)
    for asked, message in (({"width": 384}, "has width 16, the recipe asks for 384"), ({"depth": 12}, "has depth 5")):
        with pytest.raises(CheckpointError, match=message):
            infer_sizes(checkpoint, asked)
    with pytest.raises(UsageError, match="4 does not divide the width 6"):
        infer_sizes(read(tmp_path, PointM2AE(**TINY | {"widths": (6, 12, 16)}).state_dict(), PointM2AE), {"heads": 4})
    tensors = {key: t for key, t in pretrained("point_m2ae").items() if "encoder_blocks.1." not in key}
    with pytest.raises(CheckpointError, match="holds no transformer blocks"):
        infer_sizes(read(tmp_path, tensors, PointM2AE), {"heads": 2})


# Recipes.


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_of_recipes_are_those_of_the_network(kind: type[PointM2AE]) -> None:
    section = ObjectBackboneSection(name=kind.name, checkpoint="a.pth")  # type: ignore[arg-type]
    parameters = inspect.signature(kind).parameters
    for name in (*STAGES, "pooling", "drop_path", "near_origin"):
        assert getattr(section, name) == parameters[name].default


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": 64}, "must be a list of 3 values, one for each stage of point_m2ae"),
        ({"radius": [1, 2]}, "must be a list of 3 values"),
        ({"groups": [64, 128, 32]}, "takes 128 of the 64 tokens before stage 1"),
        ({"groups": [64, 32, 16], "group_size": [8, 8, 40]}, "takes 40 of the 32 tokens before stage 2"),
        ({"radius": [1, 2, -1]}, "greater than or equal to 0"),
        ({"name": "point_mae", "groups": [64, 32, 16]}, "is a list, which is for networks with stages"),
        ({"name": "point_mae", "pooling": "sum"}, "is for point_m2ae and i2p_mae, not for point_mae"),
    ],
)
def test_what_recipes_may_not_say(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectBackboneSection(**{"name": "point_m2ae", "checkpoint": "a.pth"} | settings)
