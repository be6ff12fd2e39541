"""Methods on ReCon, whose stream of queries has no centers, and counts on the other plain ViTs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from geopeft_cli.adapters.merge import foldable_layers, merge, mode_of, put_layer
from geopeft_cli.backbones.act import ACT
from geopeft_cli.backbones.patch_transformer import PatchTransformer
from geopeft_cli.backbones.point_bert import PointBERT
from geopeft_cli.backbones.recon import ReCon
from geopeft_cli.contracts import load_official_state, official_name, official_state, select_sites
from geopeft_cli.errors import MergeModeError
from geopeft_cli.methods.lora import LoRA
from geopeft_cli.methods.monarch_update import MonarchUpdate
from geopeft_cli.methods.most import MoST
from geopeft_cli.methods.rectify import Rectify
from geopeft_cli.tasks.classification import Classification

ALL_STREAMS = ("attention_in", "mlp_in", "query_attention_in", "query_mlp_in")
POINTS = torch.randn(4, 64, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("kind", "method", "layers", "expected"),
    [
        (PointBERT, MoST(), 24, 1_990_656),
        (ACT, MoST(), 24, 1_990_656),
        (ReCon, MoST(), 24, 1_990_656),
        (ReCon, MoST(blocks=32), 24, 497_664),
        (ReCon, MoST(targets=ALL_STREAMS), 60, 4_202_496),
        (ReCon, MoST(targets=ALL_STREAMS, blocks=16), 60, 2_101_248),
        (ReCon, MoST(targets=ALL_STREAMS, blocks=32), 60, 1_050_624),
    ],
)
def test_parameters_of_the_method(kind: type[PatchTransformer], method: MoST, layers: int, expected: int) -> None:
    backbone = kind()
    backbone.requires_grad_(False)
    method.attach(backbone)
    assert sum(isinstance(module, MonarchUpdate) for module in backbone.modules()) == layers
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == expected


def adapted(method: MoST) -> ReCon:
    """A tiny one of two blocks with a head, whose updates have moved."""
    torch.manual_seed(0)
    backbone = ReCon(32, 2, 2, groups=8, group_size=8)
    backbone.requires_grad_(False)
    method.attach(backbone)
    Classification(["a", "b"]).attach(backbone)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return backbone.eval()


def test_targets_of_both_streams() -> None:
    backbone = ReCon(32, 2, 2, groups=8, group_size=8)
    of_block = [site.name for site in select_sites(backbone, ALL_STREAMS) if site.block == 1]
    layers = ["attn_contrast.q", "attn_contrast.kv", "attn.qkv", "mlp_contrast.fc1", "mlp.fc1"]
    assert of_block == [f"blocks.blocks.1.{layer}" for layer in layers]
    assert len(select_sites(backbone, ["all"])) == 2 * 9
    assert len(select_sites(backbone, LoRA().settings()["targets"])) == 2 * 4


def test_the_smoothing_leaves_queries_alone() -> None:
    backbone = adapted(MoST(blocks=4, targets=ALL_STREAMS))
    modes = {official_name(n): m.exact_modes for n, m in backbone.named_modules() if isinstance(m, MonarchUpdate)}
    exact = {name for name, found in modes.items() if found == ("exact",)}
    assert exact == {f"blocks.blocks.{i}.{layer}" for i in (0, 1) for layer in ("attn_contrast.q", "mlp_contrast.fc1")}
    for asked, mode in (("auto", "keep-k"), ("keep-k", "keep-k"), ("stacked", "stacked")):
        result = merge(backbone, asked, [POINTS])
        assert (result.mode, result.exact) == (mode, True)
        torch.testing.assert_close(result.model(POINTS), backbone(POINTS), atol=1e-5, rtol=0)
    with pytest.raises(MergeModeError, match="no exact fold exists"):
        merge(backbone, "exact", [POINTS])


@pytest.mark.parametrize("mode", ["drop-k", "calibrated-scalar", "calibrated-matrix"])
def test_approximate_merges_leave_the_layers_of_queries_exact(mode: str) -> None:
    backbone = adapted(MoST(blocks=4, targets=ALL_STREAMS))
    result = merge(backbone, mode, [POINTS])
    assert (result.mode, result.exact, result.layers) == (mode, False, 10)
    assert set(result.errors) == {
        f"blocks.blocks.{i}.{layer}" for i in (0, 1) for layer in ("attn.qkv", "attn_contrast.kv", "mlp.fc1")
    }
    unmerged = backbone.get_submodule("blocks.blocks.0.attn_contrast.q")
    assert isinstance(unmerged, MonarchUpdate)
    expected = unmerged.base.weight.double() + unmerged.most.dense()
    assert torch.equal(result.model.get_parameter("blocks.blocks.0.attn_contrast.q.weight"), expected.float())


@pytest.mark.parametrize("mode", ["keep-k", "stacked", "drop-k"])
def test_a_merged_model_of_two_streams_is_loaded_into_its_form(mode: str) -> None:
    merged = merge(adapted(MoST(blocks=4, targets=ALL_STREAMS)), mode, [POINTS])
    form = adapted(MoST(blocks=4, targets=ALL_STREAMS))
    for name, layer in foldable_layers(form).items():
        put_layer(form, name, layer.folded(mode_of(layer, merged.mode)))
    load_official_state(form, official_state(merged.model))
    assert torch.equal(form(POINTS), merged.model(POINTS))


def test_layers_that_read_the_points_smooth_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    smoothed, original = [], Rectify._of_clouds

    def counted(self: Rectify, centers: Tensor, slots: Tensor) -> Callable[[Tensor], Tensor]:
        operator = original(self, centers, slots)
        return lambda x: smoothed.append(x.shape) or operator(x)

    monkeypatch.setattr(Rectify, "_of_clouds", counted)
    backbone = adapted(MoST(blocks=4, targets=("attn.qkv", "attn_contrast.kv")))
    with torch.no_grad():
        backbone(POINTS)
    assert smoothed == [(4, 8, 32)] * 2


def test_the_released_form_sits_on_the_attention_of_the_points() -> None:
    backbone = adapted(MoST(blocks=4, variant="released"))
    added = {official_name(n) for n, _ in backbone.named_modules() if n.endswith("point_monarch")}
    assert added == {f"blocks.blocks.{i}.attn.point_monarch" for i in (0, 1)}
