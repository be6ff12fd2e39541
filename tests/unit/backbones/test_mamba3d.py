"""Mamba3D: its size, its blocks by their definition, what samples share, and its files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.backbones.checkpoint import infer_sizes, load_backbone, load_head, read_checkpoint
from geopeft_cli.backbones.mamba import LocalNorm, LocalPooling
from geopeft_cli.backbones.mamba3d import Mamba3D
from geopeft_cli.contracts import Method, official_state
from geopeft_cli.errors import CheckpointError, UsageError
from geopeft_cli.geometry.neighbors import nearest_neighbors
from geopeft_cli.methods.lora import LoRA
from geopeft_cli.methods.most import Monarch, MoST
from geopeft_cli.tasks.classification import Classification
from geopeft_cli.training.schedule import decays

POINTS = torch.randn(3, 64, 3, generator=torch.Generator().manual_seed(0))


def tiny(**settings: Any) -> Mamba3D:
    torch.manual_seed(0)
    backbone = Mamba3D(**{"width": 32, "depth": 2, "groups": 8, "group_size": 8} | settings)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return backbone.eval()


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("classes", "expected"), [(15, 16_927_759), (40, 16_934_184)])
def test_size(classes: int, expected: int) -> None:
    backbone = Mamba3D()
    Classification([str(i) for i in range(classes)]).attach(backbone)
    assert size(backbone) == expected


def test_parts_have_the_published_sizes() -> None:
    block = Mamba3D(depth=1).blocks.blocks[0]
    assert size(block) == 1_342_848
    assert size(block.lfa.lga) == size(block.lfa.pre_norm_ft) == 1_536
    assert size(block.lfa.mlp) == 295_296
    mixer = block.mixer
    assert (size(mixer.in_proj), size(mixer.out_proj)) == (589_824, 294_912)
    assert (size(mixer.x_proj), size(mixer.dt_proj), size(mixer.conv1d_b)) == (43_008, 19_200, 3_840)
    assert (mixer.A_log.numel(), mixer.D_b.numel()) == (12_288, 768)
    assert decays("blocks.blocks.0.mixer.A_log", mixer.A_log)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (MoST(), 1_769_472),
        (MoST(blocks=16), 884_736),
        (MoST(blocks=32), 442_368),
        (MoST(targets=("in_proj", "out_proj")), 1_769_472),
        (Monarch(targets=("all",)), 1_769_472),
        (Monarch(targets=("all", "lfa.mlp.share_mlp")), 2_433_024),
        (LoRA(), 294_912),
    ],
    ids=lambda value: f"{value.name}-{list(value.settings().values())}" if isinstance(value, Method) else str(value),
)
def test_parameters_of_methods(method: Method, expected: int) -> None:
    backbone = Mamba3D().requires_grad_(False)
    method.attach(backbone)
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize("variant", ["per_sample", "released"])
@torch.no_grad()
def test_local_pooling_is_its_definition(variant: Any) -> None:
    layer: LocalPooling = tiny(variant=variant).blocks.blocks[0].lfa
    x = torch.randn(3, 9, 32)
    neighbors = nearest_neighbors(*[torch.randn(3, 8, 3)] * 2, 4).index
    f = x[:, 1:]
    near = torch.stack([f[cloud][neighbors[cloud]] for cloud in range(3)])
    difference = near - f[:, :, None]
    sigma = torch.stack([part.std() for part in difference])[:, None, None, None]
    sigma = difference.std() if variant == "released" else sigma
    joint = torch.cat([difference / (sigma + 1e-5), f[:, :, None].expand_as(difference)], dim=-1)
    y = layer.lga.affine_alpha_feat * joint + layer.lga.affine_beta_feat
    pooled = (y * y.exp()).sum(2) / y.exp().sum(2)
    dense = layer.mlp["share_mlp"]
    local = F.silu(layer.pre_norm_ft(pooled) @ dense.weight[:, :, 0].T + dense.bias)
    torch.testing.assert_close(layer(x, neighbors), torch.cat([x[:, :1], local], dim=1), atol=1e-5, rtol=1e-5)


def test_equal_tokens_have_finite_gradients() -> None:
    norm, f = LocalNorm(4, "per_sample"), torch.ones(2, 8, 4, requires_grad=True)
    difference, token = norm(f, torch.zeros(2, 8, 4, dtype=torch.int64))
    (difference.sum() + token.sum()).backward()
    assert f.grad is not None
    assert f.grad.isfinite().all()


def test_position_passes_silu_not_gelu() -> None:
    assert [type(layer) for layer in tiny().pos_embed] == [nn.Linear, nn.SiLU, nn.Linear]


@torch.no_grad()
def test_clouds_share_statistics_in_the_released_form_only() -> None:
    per_sample, released = tiny(), tiny(variant="released")
    state = official_state(per_sample)
    released.load_state_dict(state)
    features = {}
    for model in (per_sample, released):
        together = model.pool(model.encode(POINTS))
        alone = torch.cat([model.pool(model.encode(cloud)) for cloud in POINTS.split(1)])
        features[model.variant] = together, alone
    torch.testing.assert_close(*features["per_sample"], atol=1e-5, rtol=0)
    torch.testing.assert_close(features["released"][1], features["per_sample"][1], atol=1e-6, rtol=0)
    assert float((features["released"][0] - features["released"][1])[1:].abs().max()) > 1e-3


@torch.no_grad()
def test_the_head_reads_class_token_maximum_and_mean() -> None:
    for variant in ("per_sample", "released"):
        backbone = tiny(variant=variant)
        tokens = backbone.encode(POINTS)
        patches = tokens.features[:, 1:]
        mean = patches.mean(1)[:1] if variant == "released" else patches.mean(1)
        fused = torch.randn(3, 32)
        expected = torch.cat([tokens.features[:, 0], patches.amax(1) + mean + fused], dim=1)
        torch.testing.assert_close(backbone.pool(tokens, fused), expected)
        torch.testing.assert_close(backbone.pool(tokens), expected - F.pad(fused, (32, 0)), atol=1e-5, rtol=1e-5)


def test_the_released_form_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="geopeft"):
        tiny().train().eval()
        assert not caplog.records
        tiny(variant="released").train().eval()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["backbone.variant is released"]


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(UsageError, match=r"backbone\.groups: 3"):
        Mamba3D(groups=3)


def test_every_dense_layer_is_called_at_its_site() -> None:
    backbone = tiny()
    called = []
    for site in backbone.sites():
        site.module.register_forward_hook(lambda *_, name=site.name: called.append(name))
    backbone.encoder.train()  # while it trains, its layers run one by one
    backbone.encode(POINTS)
    assert set(called) == {site.name for site in backbone.sites()}


def pretrained(backbone: Mamba3D) -> dict[str, Tensor]:
    """What the pre-training run saves of, and beside, the encoder."""
    kept = {k: t for k, t in official_state(backbone).items() if k not in ("cls_token", "cls_pos")}
    rest = ["cls_token_pt", "cls_pos_pt"]
    tensors = {f"MAE_encoder.{name}": tensor for name, tensor in kept.items()}
    tensors |= {f"MAE_encoder.{name}": torch.zeros(1, 1, 32) for name in rest}
    others = ("mask_token", "decoder_pos_embed.0.weight", "MAE_decoder.blocks.3.mixer.A_log", "increase_dim.0.bias")
    return tensors | {name: torch.zeros(2) for name in others}


def saved(path: Path, tensors: dict[str, Tensor], prefix: str = "") -> str:
    torch.save({"base_model": {prefix + name: tensor for name, tensor in tensors.items()}}, path)
    return str(path)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_pre_training_files_load(tmp_path: Path, prefix: str) -> None:
    original = tiny()
    checkpoint = read_checkpoint(saved(tmp_path / "a.pth", pretrained(original), prefix), Mamba3D.name, Mamba3D.layout)
    assert (checkpoint.identity.title, checkpoint.identity.stage) == ("Mamba3D", "pretrained")
    assert infer_sizes(checkpoint, {}) == {"width": 32, "depth": 2}
    other = tiny(groups=16)
    nn.init.constant_(other.norm.weight, 7.0)
    assert load_backbone(other, checkpoint) == ("cls_token", "cls_pos")
    assert torch.equal(other.norm.weight, original.norm.weight)
    assert torch.equal(other.blocks.blocks[1].mixer.A_b_log, original.blocks.blocks[1].mixer.A_b_log)


def test_fine_tuned_files_load_with_their_head(tmp_path: Path) -> None:
    original, other = tiny(), tiny()
    Classification(["a", "b"]).attach(original)
    checkpoint = read_checkpoint(saved(tmp_path / "a.pth", official_state(original)), Mamba3D.name, Mamba3D.layout)
    assert checkpoint.identity.classes == 2
    assert load_backbone(other, checkpoint) == ()
    Classification(["c", "d"]).attach(other)
    load_head(other, checkpoint)
    assert torch.equal(original.eval()(POINTS), other.eval()(POINTS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MAE_encoder.blocks.blocks.0.mixer.D_b": None}, r"missing: blocks\.blocks\.0\.mixer\.D_b"),
        ({"MAE_encoder.blocks.blocks.0.mixer.E": torch.zeros(2)}, r"unexpected: blocks\.blocks\.0\.mixer\.E"),
        ({"MAE_encoder.blocks.blocks.1.mixer.A_log": torch.zeros(64, 8)}, r"A_log \(64, 8\) instead of \(64, 16\)"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    backbone = tiny()
    tensors = {name: t for name, t in (pretrained(backbone) | change).items() if t is not None}
    checkpoint = read_checkpoint(saved(tmp_path / "a.pth", tensors), Mamba3D.name, Mamba3D.layout)
    with pytest.raises(CheckpointError, match=message):
        load_backbone(backbone, checkpoint)


@pytest.mark.parametrize("asked", [{"width": 48}, {"depth": 3}])
def test_another_size_than_asked_for_is_refused(tmp_path: Path, asked: dict[str, int]) -> None:
    checkpoint = read_checkpoint(saved(tmp_path / "a.pth", pretrained(tiny())), Mamba3D.name, Mamba3D.layout)
    with pytest.raises(CheckpointError, match="the recipe asks for"):
        infer_sizes(checkpoint, asked)
