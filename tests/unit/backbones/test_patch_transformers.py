"""Point-BERT, ACT and ReCon: their sizes, what sets them apart from Point-MAE, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.backbones.act import ACT
from geopeft_cli.backbones.checkpoint import Checkpoint, infer_sizes, load_backbone, load_head, read_checkpoint
from geopeft_cli.backbones.patch_transformer import PatchTransformer
from geopeft_cli.backbones.point_bert import PointBERT
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.backbones.recon import CrossAttention, ReCon, TwoStreamBlock
from geopeft_cli.contracts import official_state
from geopeft_cli.errors import CheckpointError
from geopeft_cli.geometry.grouping import group
from geopeft_cli.tasks.classification import Classification
from geopeft_cli.training.schedule import parameter_groups

POINTS = torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(0))
KINDS = [PointBERT, ACT, ReCon]


def tiny(kind: type[PatchTransformer], classes: int = 0, **settings: Any) -> PatchTransformer:
    """A small one whose every tensor is random; its head is that of ``classes``, if any."""
    torch.manual_seed(0)
    backbone = kind(**{"width": 32, "depth": 3, "heads": 2, "groups": 8, "group_size": 8} | settings)
    if classes:
        Classification([str(i) for i in range(classes)]).attach(backbone)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return backbone.eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("kind", "classes", "head", "total"),
    [
        (PointBERT, 15, 200_719, 22_059_535),
        (PointBERT, 40, 207_144, 22_065_960),
        (ACT, 15, 267_535, 22_093_327),
        (ACT, 40, 273_960, 22_099_752),
        (ReCon, 15, 464_143, 43_571_215),
        (ReCon, 40, 470_568, 43_577_640),
    ],
)
def test_size(kind: type[PatchTransformer], classes: int, head: int, total: int) -> None:
    backbone = kind()
    Classification([str(i) for i in range(classes)]).attach(backbone)
    assert count(backbone.cls_head_finetune) == head
    assert count(backbone) == total


def test_parts_have_the_published_sizes() -> None:
    assert count(PointBERT(depth=1).encoder) == 428_800
    assert count(TwoStreamBlock(384, 6, 0.0)) == 3_546_624
    assert count(ReCon()) == 43_107_072


def test_parameter_tensors_of_recon_and_their_decay() -> None:
    backbone = ReCon()
    without, with_decay = parameter_groups(backbone, 0.05)  # cls_token and cls_pos beside the released 182 and 116
    assert (len(without["params"]), len(with_decay["params"])) == (182 + 1, 116 + 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_settings_rebuild_the_backbone(kind: type[PatchTransformer]) -> None:
    backbone = tiny(kind, drop_path=0.3, near_origin="keep")
    copy = kind(**backbone.settings())
    assert copy.settings() == backbone.settings()
    assert {n: t.shape for n, t in copy.state_dict().items()} == {n: t.shape for n, t in backbone.state_dict().items()}


def test_act_is_the_network_of_point_mae() -> None:
    act, mae = tiny(ACT, 5), tiny(PointMAE, 5)
    mae.load_state_dict(act.state_dict())
    assert torch.equal(act(POINTS), mae(POINTS))


def test_point_bert_reduces_its_patches() -> None:
    backbone = tiny(PointBERT, encoder_width=24)
    neighborhoods = group(POINTS, 8, 8).neighborhoods
    patches = backbone.encoder(neighborhoods)
    assert patches.shape == (2, 8, 24)
    torch.testing.assert_close(backbone.patches(neighborhoods), backbone.reduce_dim(patches))
    with torch.no_grad():
        before = backbone.encode(POINTS).features
        backbone.reduce_dim.bias.add_(1.0)
    assert not torch.equal(backbone.encode(POINTS).features, before)


def recon_by_definition(backbone: PatchTransformer, points: Tensor) -> tuple[Tensor, Tensor]:
    """Features after the norm and the pooled feature, step by step as published."""
    groups = group(points, backbone.groups, backbone.group_size)
    names = ("cls", "img", "text")
    tokens, positions = ([backbone.get_parameter(f"{n}_{k}").repeat(2, 1, 1) for n in names] for k in ("token", "pos"))
    x = torch.cat([*tokens, backbone.encoder(groups.neighborhoods)], 1)
    position = torch.cat([*positions, backbone.pos_embed(groups.centers)], 1)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = zip(*(part.split(16, dim=-1) for part in (q, k, v)), strict=True)
        return torch.cat([(a @ b.mT / 4).softmax(-1) @ c for a, b, c in heads], dim=-1)

    for block in backbone.blocks.blocks:
        z = x + position
        q, v = block.norm1_contrast(z[:, :3]), block.norm1(z[:, 3:])
        contrast = block.attn_contrast
        q = q + contrast.proj(attention(contrast.q(q), *contrast.kv(v).chunk(2, dim=-1)))
        v = v + block.attn.proj(attention(*block.attn.qkv(v).chunk(3, dim=-1)))
        q, v = block.norm2_contrast(q), block.norm2(v)
        gelu = nn.functional.gelu
        q = q + block.mlp_contrast.fc2(gelu(block.mlp_contrast.fc1(q)))
        v = v + block.mlp.fc2(gelu(block.mlp.fc1(v)))
        x = torch.cat([q, v], 1)
    x = backbone.norm(x)
    return x, torch.cat([x[:, 0], x[:, 1], x[:, 2], x[:, 3:].max(dim=1).values], dim=1)


@torch.no_grad()
def test_recon_is_the_definition() -> None:
    backbone = tiny(ReCon)
    features, pooled = recon_by_definition(backbone, POINTS)
    tokens = backbone.encode(POINTS)
    torch.testing.assert_close(tokens.features, features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backbone.pool(tokens), pooled, atol=1e-5, rtol=1e-5)
    assert tokens.slots.tolist() == [-1, -1, -1, *range(8)]
    fused = torch.randn(2, 32)
    expected = pooled + torch.cat([torch.zeros(2, 96), fused], dim=1)
    torch.testing.assert_close(backbone.pool(tokens, fused), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_points_of_recon_never_read_its_queries() -> None:
    backbone = tiny(ReCon)
    before = backbone.encode(POINTS).features
    backbone.get_parameter("img_token").add_(torch.randn(1, 1, 32))
    after = backbone.encode(POINTS).features
    assert torch.equal(after[:, 3:], before[:, 3:])
    assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])
    assert not torch.equal(after[:, 1], before[:, 1])


def test_four_branches_of_a_recon_block_are_dropped_by_themselves() -> None:
    block, shapes = TwoStreamBlock(8, 2, drop_path=0.5), []
    block.drop_path.register_forward_hook(lambda _, inputs, __: shapes.append(tuple(inputs[0].shape)))
    block(torch.randn(1, 7, 8))
    assert sorted(shapes) == [(1, 3, 8), (1, 3, 8), (1, 4, 8), (1, 4, 8)]


def test_cross_attention_has_a_bias_in_the_output_alone() -> None:
    names = {name for name, _ in CrossAttention(12, 3).named_parameters()}
    assert names == {"q.weight", "kv.weight", "proj.weight", "proj.bias"}


UNUSED = {
    "point_bert": [
        "transformer_k.blocks.blocks.0.norm1.weight",
        "transformer_k.cls_head.0.weight",
        "dvae.codebook",
        "queue",
        "queue_ptr",
        "transformer_q.cls_head.0.weight",
        "transformer_q.lm_head.weight",
        "transformer_q.mask_token",
    ],
    "recon": [
        "MAE_decoder.blocks.0.norm1.weight",
        "decoder_pos_embed.0.weight",
        "increase_dim.0.weight",
        "mask_token",
        "img_encoder.cls_token",
        "text_encoder.transformer.resblocks.0.attn.in_proj_weight",
        "img_proj.weight",
        "text_proj.weight",
        "cls_proj.weight",
    ],
    "act": [
        "ACT_decoder.blocks.0.norm1.weight",
        "decoder_pos_embed.0.weight",
        "dvae_tokenizer.codebook",
        "proj_head.weight",
        "mask_token",
        "ACT_encoder.lm_head.weight",
        "ACT_encoder.cls_head.0.weight",
    ],
}


def pretrained(kind: type[PatchTransformer]) -> dict[str, Tensor]:
    """The tensors of a pre-training run of a tiny network."""
    own = {f"{kind.layout.prefix}{name}": tensor for name, tensor in tiny(kind).state_dict().items()}
    return own | {name: torch.ones(5, 5) for name in UNUSED[kind.name]}


def written(folder: Path, kind: type[PatchTransformer], tensors: dict[str, Tensor], prefix: str = "") -> Checkpoint:
    torch.save({"base_model": {prefix + name: t for name, t in tensors.items()}}, folder / "x.pth")
    return read_checkpoint(str(folder / "x.pth"), kind.name, kind.layout)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pretraining_file_gives_everything_but_the_head(
    tmp_path: Path, kind: type[PatchTransformer], prefix: str
) -> None:
    checkpoint = written(tmp_path, kind, pretrained(kind), prefix)
    assert checkpoint.identity.stage == "pretrained"
    backbone = kind(**infer_sizes(checkpoint, {"heads": 2}))
    assert load_backbone(backbone, checkpoint) == ()
    own = official_state(tiny(kind))
    assert all(torch.equal(tensor, own[name]) for name, tensor in official_state(backbone).items())


@pytest.mark.parametrize("kind", KINDS)
def test_pretraining_files_are_read_strictly(tmp_path: Path, kind: type[PatchTransformer]) -> None:
    tensors = pretrained(kind) | {"surprise.weight": torch.ones(1), f"{kind.layout.prefix}odd": torch.ones(1)}
    del tensors[f"{kind.layout.prefix}cls_pos"]
    checkpoint = written(tmp_path, kind, tensors)
    with pytest.raises(CheckpointError) as caught:
        load_backbone(kind(**infer_sizes(checkpoint, {"heads": 2})), checkpoint)
    assert "missing: cls_pos; unexpected: odd, surprise.weight" in caught.value.message


@pytest.mark.parametrize("prefix", ["", "module.", "base_model.", "module.base_model."])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fine_tuned_file_has_its_head(tmp_path: Path, kind: type[PatchTransformer], prefix: str) -> None:
    source = tiny(kind, classes=40)
    checkpoint = written(tmp_path, kind, source.state_dict(), prefix)
    assert (checkpoint.identity.backbone, checkpoint.identity.classes) == (kind.name, 40)
    backbone = kind(**infer_sizes(checkpoint, {"heads": 2}), groups=8, group_size=8).eval()
    assert load_backbone(backbone, checkpoint) == ()
    Classification([str(i) for i in range(40)]).attach(backbone)
    load_head(backbone, checkpoint)
    assert torch.equal(backbone.eval()(POINTS), source(POINTS))
    Classification([str(i) for i in range(15)]).attach(backbone)
    with pytest.raises(CheckpointError, match="a head for 40 classes"):
        load_head(backbone, checkpoint)


def test_the_width_of_patches_is_read_from_the_file(tmp_path: Path) -> None:
    tensors = {f"transformer_q.{n}": t for n, t in tiny(PointBERT, encoder_width=24).state_dict().items()}
    assert infer_sizes(written(tmp_path, PointBERT, tensors), {"heads": 2})["encoder_width"] == 24
    del tensors["transformer_q.reduce_dim.weight"]
    checkpoint = written(tmp_path, PointBERT, tensors)
    with pytest.raises(CheckpointError, match=r"missing: reduce_dim\.weight"):
        load_backbone(PointBERT(**infer_sizes(checkpoint, {"heads": 2})), checkpoint)


def test_fine_tuned_files_of_act_and_point_mae_look_alike(tmp_path: Path) -> None:
    for source in (ACT, PointMAE):
        for kind in (ACT, PointMAE):
            checkpoint = written(tmp_path, kind, tiny(source, classes=4).state_dict())
            assert (checkpoint.identity.backbone, checkpoint.identity.stage) == (kind.name, "classifier")


@pytest.mark.parametrize("kind", [*KINDS, PointMAE])
def test_pretraining_files_are_not_taken_for_each_other(tmp_path: Path, kind: type[PatchTransformer]) -> None:
    for other, title in ((PointBERT, "Point-BERT"), (ACT, "ACT"), (ReCon, "ReCon"), (PointMAE, "Point-MAE")):
        if other is kind:
            continue
        tensors = {f"{other.layout.prefix}{name}": t for name, t in tiny(other).state_dict().items()}
        with pytest.raises(CheckpointError, match=f"no key matches {kind.name}; it looks like {title}\n"):
            written(tmp_path, kind, tensors)
