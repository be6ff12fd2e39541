"""PointMamba: its size, its sequence along two curves, what samples share, and its files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.backbones.checkpoint import infer_sizes, load_backbone, load_head, read_checkpoint
from geopeft_cli.backbones.point_mamba import PointMamba
from geopeft_cli.contracts import Method, official_state
from geopeft_cli.errors import CheckpointError
from geopeft_cli.geometry.grouping import group
from geopeft_cli.geometry.ordering import hilbert_order
from geopeft_cli.methods.bitfit import BitFit
from geopeft_cli.methods.lora import LoRA
from geopeft_cli.methods.most import Monarch, MoST
from geopeft_cli.tasks.classification import Classification
from geopeft_cli.training.schedule import decays

# widths of 25, 100 and 400 cells: their curves need 5, 7 and 9 bits
POINTS = torch.rand(3, 64, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.5, 2.0, 8.0]).view(3, 1, 1)


def tiny(**settings: Any) -> PointMamba:
    torch.manual_seed(0)
    backbone = PointMamba(**{"width": 32, "depth": 2, "groups": 8, "group_size": 8} | settings)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return backbone.eval()


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_size_and_its_parts() -> None:
    backbone = PointMamba()
    Classification([str(i) for i in range(15)]).attach(backbone)
    parts = (backbone, backbone.encoder, backbone.pos_embed, backbone.blocks, backbone.cls_head_finetune)
    assert [size(part) for part in parts] == [12_291_343, 494_464, 50_048, 11_576_064, 169_231]
    mixer = backbone.blocks.layers[0].mixer
    assert (size(mixer.in_proj), size(mixer.out_proj), size(mixer.x_proj)) == (589_824, 294_912, 43_008)
    assert decays("blocks.layers.0.mixer.A_log", mixer.A_log)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (MoST(), 1_769_472),
        (MoST(blocks=16), 884_736),
        (MoST(blocks=32), 442_368),
        (Monarch(targets=("all",)), 1_769_472),
        (LoRA(), 294_912),
        (BitFit(), 25_856),
    ],
    ids=lambda value: f"{value.name}-{list(value.settings().values())}" if isinstance(value, Method) else str(value),
)
def test_parameters_of_methods(method: Method, expected: int) -> None:
    backbone = PointMamba().requires_grad_(False)
    method.attach(backbone)
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == expected


def first_input(backbone: PointMamba, points: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = backbone.blocks.layers[0].register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    backbone.encode(points)
    handle.remove()
    return found[0]


@torch.no_grad()
def test_the_sequence_is_every_patch_along_one_curve_and_along_the_other() -> None:
    backbone = tiny()
    neighborhoods, centers = group(POINTS, 8, 8)[:2]
    patches, position = backbone.encoder(neighborhoods), backbone.pos_embed(centers)
    slots = backbone.encode(POINTS).slots
    for cloud, sequence in enumerate(first_input(backbone, POINTS)):
        first, second = hilbert_order(centers[[cloud]], [(0, 1, 2), (1, 0, 2)])[0]
        expected = [
            patches[cloud, first] * backbone.OrderScale_gamma_1 + backbone.OrderScale_beta_1 + position[cloud, first],
            patches[cloud, second] * backbone.OrderScale_gamma_2 + backbone.OrderScale_beta_2 + position[cloud, second],
        ]
        torch.testing.assert_close(sequence, torch.cat(expected), atol=1e-6, rtol=1e-6)
        assert slots[cloud].tolist() == [*first.tolist(), *second.tolist()]
        assert first.tolist() != second.tolist()


@torch.no_grad()
def test_blocks_norm_and_mean_are_their_definition() -> None:
    backbone = tiny()
    x = first_input(backbone, POINTS)
    tokens = backbone.encode(POINTS, layers=(0, 1))
    for index, block in enumerate(backbone.blocks.layers):
        x = x + block.mixer(F.layer_norm(x, (32,), block.norm.weight, block.norm.bias))
        torch.testing.assert_close(tokens.layers[index], x)
    last = F.layer_norm(x, (32,), backbone.blocks.norm_f.weight, backbone.blocks.norm_f.bias)
    torch.testing.assert_close(tokens.features, last)
    torch.testing.assert_close(backbone.pool(tokens), last.mean(1))
    torch.testing.assert_close(backbone.pool(tokens, torch.ones(3, 32)), last.mean(1) + 1)


@torch.no_grad()
def test_a_wider_cloud_turns_the_curves_of_others_in_the_released_form_only() -> None:
    per_sample, released = tiny(), tiny(variant="released")
    features = {}
    for model in (per_sample, released):
        together = model.pool(model.encode(POINTS))
        alone = torch.cat([model.pool(model.encode(cloud)) for cloud in POINTS.split(1)])
        features[model.variant] = together, alone
    torch.testing.assert_close(*features["per_sample"], atol=1e-6, rtol=0)
    torch.testing.assert_close(features["released"][1], features["per_sample"][1], atol=1e-6, rtol=0)
    difference = (features["released"][0] - features["released"][1]).abs().amax(1)
    assert (difference > 1e-3).tolist() == [True, True, False]


def test_the_released_form_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="geopeft"):
        tiny().train().eval()
        assert not caplog.records
        tiny(variant="released").train().eval().train().eval()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["backbone.variant is released"]


def test_depth_and_dropout_of_the_stream_are_stochastic_in_training_alone() -> None:
    backbone = tiny(depth=3, drop_path=0.4, dropout=0.5)
    assert [block.drop_path.rate for block in backbone.blocks.layers] == pytest.approx([0, 0.2, 0.4])
    assert torch.equal(backbone.encode(POINTS).features, tiny(depth=3).encode(POINTS).features)
    kept = tiny(depth=3, drop_path=0.0, dropout=0.5).train().encode(POINTS, layers=(0, 1, 2)).layers
    for layer in kept.values():
        assert 0.45 < float((layer == 0).float().mean()) < 0.55


def test_every_dense_layer_is_called_at_its_site() -> None:
    backbone = tiny()
    called = []
    for site in backbone.sites():
        site.module.register_forward_hook(lambda *_, name=site.name: called.append(name))
    backbone.encoder.train()  # while it trains, its layers run one by one
    backbone.encode(POINTS)
    assert set(called) == {site.name for site in backbone.sites()}


def pretrained(backbone: PointMamba) -> dict[str, Tensor]:
    """What the pre-training run saves of, and beside, the encoder; the decoder, of another size, first."""
    others = ("mask_token", "decoder_pos_embed.0.weight", "MAE_decoder.blocks.norm_f.weight", "increase_dim.0.bias")
    tensors = {f"MAE_decoder.blocks.layers.{index}.norm.weight": torch.zeros(48) for index in range(4)}
    tensors |= {f"MAE_encoder.{name}": tensor for name, tensor in official_state(backbone).items()}
    return tensors | {name: torch.zeros(2) for name in others}


def saved(path: Path, tensors: dict[str, Tensor], prefix: str = "") -> str:
    torch.save({"base_model": {prefix + name: tensor for name, tensor in tensors.items()}}, path)
    return str(path)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_pre_training_files_load_whole(tmp_path: Path, prefix: str) -> None:
    original, other = tiny(), PointMamba(width=32, depth=2)
    path = saved(tmp_path / "a.pth", pretrained(original), prefix)
    checkpoint = read_checkpoint(path, PointMamba.name, PointMamba.layout)
    assert (checkpoint.identity.title, checkpoint.identity.stage) == ("PointMamba", "pretrained")
    assert infer_sizes(checkpoint, {}) == {"width": 32, "depth": 2}
    assert load_backbone(other, checkpoint) == ()
    own = official_state(other)
    assert all(torch.equal(own[name], tensor) for name, tensor in official_state(original).items())


def test_fine_tuned_files_load_with_their_head(tmp_path: Path) -> None:
    original, other = tiny(), tiny()
    Classification(["a", "b"]).attach(original)
    path = saved(tmp_path / "a.pth", official_state(original))
    checkpoint = read_checkpoint(path, PointMamba.name, PointMamba.layout)
    assert (checkpoint.identity.stage, checkpoint.identity.classes) == ("classifier", 2)
    assert load_backbone(other, checkpoint) == ()
    Classification(["c", "d"]).attach(other)
    load_head(other, checkpoint)
    assert torch.equal(original.eval()(POINTS), other.eval()(POINTS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MAE_encoder.OrderScale_beta_2": None}, "missing: OrderScale_beta_2"),
        ({"MAE_encoder.cls_token": torch.zeros(1, 1, 32)}, "unexpected: cls_token"),
        ({"MAE_encoder.blocks.layers.1.mixer.A_log": torch.zeros(64, 8)}, r"A_log \(64, 8\) instead of \(64, 16\)"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    backbone = tiny()
    tensors = {name: t for name, t in (pretrained(backbone) | change).items() if t is not None}
    checkpoint = read_checkpoint(saved(tmp_path / "a.pth", tensors), PointMamba.name, PointMamba.layout)
    with pytest.raises(CheckpointError, match=message):
        load_backbone(backbone, checkpoint)


def test_files_of_the_first_release_are_named(tmp_path: Path) -> None:
    tensors = {name: t for name, t in pretrained(tiny()).items() if "OrderScale" not in name}
    with pytest.raises(CheckpointError, match="it looks like the first release of PointMamba"):
        read_checkpoint(saved(tmp_path / "a.pth", tensors), PointMamba.name, PointMamba.layout)


@pytest.mark.parametrize("asked", [{"width": 48}, {"depth": 4}])
def test_another_size_than_asked_for_is_refused(tmp_path: Path, asked: dict[str, int]) -> None:
    checkpoint = read_checkpoint(saved(tmp_path / "a.pth", pretrained(tiny())), PointMamba.name, PointMamba.layout)
    with pytest.raises(CheckpointError, match="the recipe asks for"):
        infer_sizes(checkpoint, asked)
