"""PointGPT: sizes, the sequence and its oddities, the generator, and files of every stage."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.backbones.checkpoint import infer_sizes, load_backbone, load_head, read_checkpoint
from geopeft_cli.backbones.gpt import CausalAttention, position_encoding
from geopeft_cli.backbones.layouts import POINT_GPT
from geopeft_cli.backbones.point_gpt import PointGPT
from geopeft_cli.contracts import official_state, select_sites
from geopeft_cli.errors import CheckpointError
from geopeft_cli.exporting.official import export_official
from geopeft_cli.geometry.grouping import group
from geopeft_cli.geometry.ordering import greedy_order
from geopeft_cli.methods.lora import LoRA
from geopeft_cli.methods.most import MoST
from geopeft_cli.objective import training_loss
from geopeft_cli.tasks.classification import Classification

POINTS = torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2])
SIZES: dict[str, dict[str, int]] = {
    "S": {"width": 384, "depth": 12, "heads": 6, "encoder_width": 128},
    "B": {"width": 768, "depth": 12, "heads": 12, "encoder_width": 256},
    "L": {"width": 1024, "depth": 24, "heads": 16, "encoder_width": 256},
}


def tiny(classes: int = 3, **settings: Any) -> PointGPT:
    """A small one, every tensor random, with a head unless there are no classes."""
    torch.manual_seed(0)
    model = PointGPT(**{"width": 32, "depth": 2, "heads": 2, "groups": 8, "group_size": 8} | settings)
    if classes:
        Classification([str(i) for i in range(classes)]).attach(model)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not name.endswith("running_var"):
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name))))
    return model.eval()


def official(model: PointGPT, stage: str) -> dict[str, Tensor]:
    """The tensors of an official file: ``pretrained``, or a ``classifier`` with its head."""
    tensors = official_state(model)
    if stage == "pretrained":
        tensors = {n: t for n, t in tensors.items() if n not in POINT_GPT.fresh and not n.startswith(POINT_GPT.head)}
    prefix = POINT_GPT.prefix if stage == "pretrained" else ""
    return {prefix + POINT_GPT.file_name(name): tensor for name, tensor in tensors.items()}


def loaded(path: Path, tensors: dict[str, Tensor], **settings: Any) -> tuple[PointGPT, tuple[str, ...]]:
    torch.save({"base_model": tensors}, path)
    checkpoint = read_checkpoint(str(path), "point_gpt", POINT_GPT)
    sizes = infer_sizes(checkpoint, {"heads": 2})
    torch.manual_seed(1)
    model = PointGPT(**sizes, groups=8, group_size=8, **settings)
    fresh = load_backbone(model, checkpoint)
    if checkpoint.head:
        Classification(["a", "b", "c"]).attach(model)
        load_head(model, checkpoint)
    return model.eval(), fresh


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("size", "classifier", "generator", "encoder"),
    [
        ("S", 29_232_335, 7_135_968, 494_464),
        ("B", 120_461_263, 28_427_616, 6_433_536),
        ("L", 360_457_679, 50_486_368, 6_958_080),
    ],
)
def test_size(size: str, classifier: int, generator: int, encoder: int) -> None:
    with torch.device("meta"):
        model = PointGPT(**SIZES[size])
        Classification([str(i) for i in range(15)]).attach(model)
        without = PointGPT(**SIZES[size], reconstruction=0)
    width = SIZES[size]["width"]
    never_read = {"norm": 2 * width, "blocks.increase_dim": 96 * (width + 1), "generator_blocks.sos": width}
    assert count(model) + sum(never_read.values()) == classifier
    assert count(model.generator_blocks) + never_read["generator_blocks.sos"] == generator
    assert count(model.encoder) == encoder
    assert count(model) - count(model.cls_head_finetune) - count(without) == count(model.generator_blocks)


@pytest.mark.parametrize(
    ("size", "expected"), [("S", 1_990_656), ("B", 7_962_624), ("L", 28_311_552)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("blocks", [8, 16, 32])
def test_parameters_of_most(size: str, expected: int, blocks: int) -> None:
    with torch.device("meta"):
        model = PointGPT(**SIZES[size], reconstruction=0)
        model.requires_grad_(False)
        MoST(blocks=blocks).attach(model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected * 8 // blocks


def test_attention_is_the_official_one_under_a_causal_mask() -> None:
    torch.manual_seed(0)
    own, theirs = CausalAttention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(
        {POINT_GPT.file_name(f".attn.{n}").removeprefix(".attn."): t for n, t in own.state_dict().items()}
    )
    x = torch.randn(2, 6, 32)
    mask = torch.ones(6, 6, dtype=torch.bool).triu(1)
    assert torch.allclose(own(x), theirs(x, x, x, attn_mask=mask, need_weights=False)[0], atol=1e-6)


def written_out(model: PointGPT, points: Tensor) -> Tensor:
    """The feature of the head by the definition, one cloud at a time."""
    features = []
    for cloud in points.split(1):
        neighborhoods, centers = group(cloud, model.groups, model.group_size)[:2]
        order = greedy_order(centers)[0]
        centers, patches = centers[0, order], model.encoder(neighborhoods)[0, order]
        n = model.width // 3 // 2 * 2
        waves = torch.zeros(model.groups, model.width)
        for axis in range(3):
            for i in range(n):
                wave = torch.sin if i % 2 == 0 else torch.cos
                waves[:, axis * n + i] = wave(2 * math.pi * centers[:, axis])
        h = torch.cat([model.blocks.sos[None], model.cls_token[0], patches])
        position = torch.cat([model.cls_pos[0], model.sos_pos[0], waves])
        mask = torch.ones(len(h), len(h)).triu(1) * -1e9
        for layer in model.blocks.layers:
            x = layer.ln_1(h + position)
            heads = [
                part.unflatten(-1, (model.heads, -1)).transpose(0, 1) for part in layer.attn.in_proj(x).chunk(3, -1)
            ]
            scores = heads[0] @ heads[1].transpose(1, 2) * (model.width // model.heads) ** -0.5 + mask
            x = x + layer.attn.out_proj((scores.softmax(-1) @ heads[2]).transpose(0, 1).flatten(1))
            h = x + layer.mlp(layer.ln_2(x))
        f = model.blocks.cls_norm(model.blocks.ln_f(h))
        features.append(torch.cat([f[1], f[2:].amax(dim=0)]))
    return torch.stack(features)


@torch.no_grad()
def test_the_forward_pass_is_the_definition() -> None:
    model = tiny()
    assert torch.allclose(model.pool(model.encode(POINTS)), written_out(model, POINTS), atol=1e-5)


def test_positions_have_one_frequency_and_are_filled_with_zeros() -> None:
    encoded = position_encoding(torch.tensor([[0.25, 0.0, 0.5]]), 1024)
    assert encoded.shape == (1, 1024)
    assert torch.allclose(encoded[0, :340], torch.tensor([1.0, 0.0]).repeat(170), atol=1e-6)
    assert torch.allclose(encoded[0, 340:680], torch.tensor([0.0, 1.0]).repeat(170), atol=1e-6)
    assert encoded[0, 1020:].tolist() == [0.0] * 4


@torch.no_grad()
def test_geometry_is_that_of_the_ordered_centers() -> None:
    model = tiny()
    tokens = model.encode(POINTS)
    assert tokens.slots.tolist() == [-1, -1, *range(8)]
    assert torch.equal(tokens.centers, model.patches(POINTS)[1])
    assert not torch.equal(tokens.centers, group(POINTS, 8, 8).centers)
    assert torch.equal(tokens.spatial(tokens.features), tokens.features[:, 2:])
    assert torch.equal(tokens.features[0, 1], tokens.features[1, 1])  # the class token sees no patch


@pytest.mark.parametrize("layer", ["attn.in_proj", "attn.out_proj", "mlp.0", "mlp.2"])
@torch.no_grad()
def test_what_wraps_a_layer_is_called(layer: str) -> None:
    model = tiny()
    before = model(POINTS)
    LoRA(targets=(layer,)).attach(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)  # a constant would vanish in the next norm
    assert float((model(POINTS) - before).abs().max()) > 1e-3


def test_methods_leave_the_generator_alone() -> None:
    names = [site.name for site in select_sites(tiny(), ["all"])]
    assert names == [
        f"blocks.layers.{i}.{n}" for i in range(2) for n in ("attn.in_proj", "attn.out_proj", "mlp.0", "mlp.2")
    ]


def test_reconstruction_is_part_of_training_alone() -> None:
    weighted, without = tiny(reconstruction=2.0), tiny(reconstruction=0)
    load = {name: tensor for name, tensor in weighted.state_dict().items() if not name.startswith("generator_blocks.")}
    without.load_state_dict(load)
    assert weighted.task is not None
    assert torch.equal(weighted(POINTS), without(POINTS))
    for model, extra in ((weighted, True), (without, False)):
        loss, logits = training_loss(model, weighted.task, POINTS, LABELS)
        assert torch.equal(loss, weighted.task.loss(logits, LABELS))
        torch.manual_seed(2)
        loss, logits = training_loss(model.train(), weighted.task, POINTS, LABELS)
        added = loss - weighted.task.loss(logits, LABELS)
        assert (float(added.detach()) > 0.1) == extra
    weighted.encoder.eval()
    neighborhoods, centers = weighted.patches(POINTS)
    loss, logits = training_loss(weighted, weighted.task, POINTS, LABELS)
    features = weighted.blocks.ln_f(weighted.encode(POINTS, [1]).layers[1])
    expected = 2 * weighted.reconstruction_loss(features, neighborhoods, centers)
    assert torch.allclose(loss - weighted.task.loss(logits, LABELS), expected, atol=1e-5)


def test_coincident_centers_leave_gradients_finite() -> None:
    model = tiny().train()
    assert model.task is not None
    loss, _ = training_loss(model, model.task, POINTS[:, :1].repeat(1, 64, 1), LABELS)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("wrapper", ["", "module.", "base_model."])
def test_a_pretrained_file_lacks_class_token_and_norm(tmp_path: Path, wrapper: str) -> None:
    source = tiny(classes=0)
    tensors = {wrapper + name: tensor for name, tensor in official(source, "pretrained").items()}
    assert f"{wrapper}GPT_Transformer.blocks.layers.0.attn.in_proj_weight" in tensors
    model, fresh = loaded(tmp_path / "pretrain.pth", tensors)
    assert fresh == POINT_GPT.fresh
    expected = official_state(source)
    assert all(torch.equal(t, expected[n]) for n, t in official_state(model).items() if n not in fresh)


@pytest.mark.parametrize("wrapper", ["", "module.", "base_model."])
@torch.no_grad()
def test_a_classifier_loads_with_its_head(tmp_path: Path, wrapper: str) -> None:
    source = tiny()
    tensors = {wrapper + name: tensor for name, tensor in official(source, "classifier").items()}
    assert f"{wrapper}blocks.cls_head_finetune.8.weight" in tensors
    model, fresh = loaded(tmp_path / "finetuned.pth", tensors)
    assert fresh == ()
    assert torch.equal(model(POINTS), source(POINTS))


def test_a_head_for_other_classes_is_taken_only_when_it_fits(tmp_path: Path) -> None:
    path = tmp_path / "post_pretrained.pth"
    torch.save({"base_model": official(tiny(classes=87), "classifier")}, path)
    checkpoint = read_checkpoint(str(path), "point_gpt", POINT_GPT)
    assert (checkpoint.identity.stage, checkpoint.identity.classes) == ("classifier", 87)
    model = tiny()
    assert load_backbone(tiny(classes=0), checkpoint) == ()
    with pytest.raises(CheckpointError, match="has a head for 87 classes that does not fit"):
        load_head(model, checkpoint)


@torch.no_grad()
def test_the_generator_may_stay_in_the_file(tmp_path: Path) -> None:
    source = tiny()
    model, _ = loaded(tmp_path / "finetuned.pth", official(source, "classifier"), reconstruction=0)
    assert not any(name.startswith("generator_blocks.") for name in official_state(model))
    assert torch.equal(model(POINTS), source(POINTS))


@pytest.mark.parametrize("name", ["blocks.layers.1.attn.in_proj_bias", "generator_blocks.ln_f.weight", "norm.weight"])
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    tensors = official(tiny(), "classifier")
    del tensors[name]
    with pytest.raises(CheckpointError, match=POINT_GPT.own_name(name).replace(".", r"\.")):
        loaded(tmp_path / "part.pth", tensors)


def test_sizes_are_read_and_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    source = tiny(classes=0, encoder_width=256, generator_channels=24)
    torch.save({"base_model": official(source, "pretrained")}, path)
    checkpoint = read_checkpoint(str(path), "point_gpt", POINT_GPT)
    sizes = infer_sizes(checkpoint, {"heads": 2})
    assert sizes == {"width": 32, "depth": 2, "heads": 2, "encoder_width": 256, "generator_channels": 24}
    for asked in ({"width": 1024}, {"depth": 24}):
        with pytest.raises(CheckpointError, match="the recipe asks for"):
            infer_sizes(checkpoint, {"heads": 2, **asked})


def test_settings_rebuild_the_backbone() -> None:
    model = tiny(classes=0, near_origin="keep", encoder_width=256, generator_channels=24, reconstruction=0.5)
    copy = PointGPT(**model.settings())
    assert copy.settings() == model.settings()
    assert {n: t.shape for n, t in copy.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}


@pytest.mark.parametrize("width", [32, 48])
@torch.no_grad()
def test_the_folded_large_patch_encoder_is_the_textbook_one(width: int) -> None:
    encoder = tiny(classes=0, width=width, encoder_width=256).requires_grad_(False).encoder
    points = torch.randn(6, 8, 3)
    assert torch.allclose(encoder.folded(points), encoder.textbook(points), atol=1e-4)


def test_an_exported_file_has_the_official_names(tmp_path: Path) -> None:
    model = tiny()
    manifest = Manifest(
        recipe={"data": {"points": 64, "normalize": "none"}},
        classes=["0", "1", "2"],
        backbone={},
        base_sha256="0" * 64,
        fresh=[],
        total_parameters=1,
        trainable_parameters=1,
    )
    export_official(model, tmp_path / "out.safetensors", POINTS, manifest)
    assert load_file(tmp_path / "out.safetensors").keys() == official(model, "classifier").keys()
    assert {"blocks.layers.1.attn.in_proj_weight", "blocks.cls_head_finetune.8.bias", "norm.weight"} <= set(
        load_file(tmp_path / "out.safetensors")
    )
