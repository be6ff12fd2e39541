"""spconv and flash-attn in place of plain torch: asked for by name, with the same weights, or refused."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.scenes import network, of_voxels, scenes, together
from geopeft_cli.backbones import flash_attention as flash
from geopeft_cli.backbones.scene_transformer import SceneTransformer
from geopeft_cli.contracts import Scenes
from geopeft_cli.errors import UsageError
from geopeft_cli.geometry.sparse_convolution import neighbor_map, submanifold_convolution
from geopeft_cli.methods.gem import GEM


class StandInTensor:
    def __init__(
        self, features: Tensor, indices: Tensor, spatial_shape: list[int], batch_size: int, indice_dict: dict[str, Any]
    ) -> None:
        assert indices.dtype == torch.int32
        assert all(int(indices[:, axis + 1].max()) < extent for axis, extent in enumerate(spatial_shape))
        assert len(indices.unique(dim=0)) == len(indices) == len(features)
        assert int(indices[:, 0].max()) + 1 == batch_size
        self.features, self.indices, self.indice_dict = features, indices, dict(indice_dict)


class StandInLayer(nn.Module):
    """What spconv's layer computes, over voxels that may be in any order."""

    found = 0

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool, indice_key: str, algo: object) -> None:
        super().__init__()
        self.weight, self.key = nn.Parameter(torch.empty(outputs, kernel, kernel, kernel, inputs)), indice_key
        assert (bias, algo) == (False, "native")

    def forward(self, given: StandInTensor) -> StandInTensor:
        if self.key not in given.indice_dict:
            offsets = torch.cat([torch.zeros(1), given.indices[:, 0].bincount().cumsum(0)]).long()
            given.indice_dict[self.key] = neighbor_map(given.indices[:, 1:], offsets, self.weight.shape[1])
            StandInLayer.found += 1
        given.features = submanifold_convolution(given.features, self.weight, None, given.indice_dict[self.key])
        return given


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("spconv.pytorch")
    parts = {"SparseConvTensor": StandInTensor, "SubMConv3d": StandInLayer}
    vars(module).update(parts, ConvAlgo=SimpleNamespace(Native="native"))
    monkeypatch.setitem(sys.modules, "spconv.pytorch", module)
    monkeypatch.setattr(StandInLayer, "found", 0)


def adapted(kind: str, state: dict[str, Tensor] | None = None, **settings: Any) -> SceneTransformer:
    model = network(kind, **settings).requires_grad_(False)
    GEM(rank=4, latents=2).attach(model)
    for name, parameter in model.named_parameters():
        if name.endswith("up.weight"):
            nn.init.normal_(parameter, std=0.3)
    model.load_state_dict(state or model.state_dict())
    return model.eval()


def batch() -> Scenes:
    """Three scenes, and one whose voxels hold two points each."""
    return together(scenes(), of_voxels(scenes().voxels[:20].repeat(2, 1), [40]))


kinds = pytest.mark.parametrize("kind", ["sonata_decoder", "ptv3"])


@kinds
@torch.no_grad()
def test_convolutions_by_a_package_have_the_same_weights_and_outputs(kind: str, stand_in: None) -> None:
    plain = adapted(kind)
    model = adapted(kind, plain.state_dict(), convolution="spconv")
    torch.testing.assert_close(model(batch()), plain(batch()), rtol=1e-5, atol=1e-5)
    kernels = 3 + (kind == "ptv3")  # one at each of three stages, and the stem's
    assert StandInLayer.found == kernels
    assert model.settings() == {**plain.settings(), "convolution": "spconv"}


def test_the_real_spconv_agrees() -> None:
    pytest.importorskip("spconv.pytorch", reason="spconv is not installed")
    plain = adapted("ptv3")
    model = adapted("ptv3", plain.state_dict(), convolution="spconv")
    with torch.no_grad():
        torch.testing.assert_close(model(batch()), plain(batch()), rtol=1e-4, atol=1e-4)


def test_spconv_has_no_backward_pass_on_a_cpu(stand_in: None) -> None:
    with pytest.raises(UsageError, match="spconv has no backward pass on a CPU"):
        adapted("sonata", convolution="spconv").train()(scenes())


@pytest.mark.parametrize(
    ("setting", "package", "line"),
    [
        ({"convolution": "spconv"}, "spconv", "pip install spconv-cu126"),
        ({"attention": "flash"}, "flash_attn", "pip install flash-attn"),
    ],
)
def test_what_is_not_installed(
    setting: dict[str, str], package: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"{next(iter(setting))}: .* does not load") as caught:
        network(**setting)
    assert caught.value.hint
    assert line in caught.value.hint


def attended(qkv: Tensor, bounds: Tensor, longest: int) -> Tensor:
    """What flash-attn computes."""
    assert bounds.dtype == torch.int32
    assert int(bounds.diff().max()) == longest
    parts = [part.permute(1, 2, 0, 3) for part in qkv.split(bounds.diff().tolist())]
    return torch.cat([F.scaled_dot_product_attention(*part).transpose(0, 1) for part in parts])


@pytest.fixture
def flash_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("flash_attn")
    vars(module)["flash_attn_varlen_qkvpacked_func"] = attended
    monkeypatch.setitem(sys.modules, "flash_attn", module)


@kinds
@torch.no_grad()
def test_attention_by_a_package_has_the_same_weights_and_outputs(
    kind: str, flash_stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash, "require_half_precision_on_cuda", lambda x: None)
    plain = adapted(kind)
    model = adapted(kind, plain.state_dict(), attention="flash")
    torch.testing.assert_close(model(batch()), plain(batch()), rtol=1e-5, atol=1e-5)
    assert model.settings() == {**plain.settings(), "attention": "flash"}


def test_flash_attention_needs_cuda_and_half_precision(flash_stand_in: None) -> None:
    with pytest.raises(UsageError, match="flash needs a CUDA device, and this is cpu"):
        network(attention="flash")(scenes())
    single: Any = SimpleNamespace(is_cuda=True, dtype=torch.float32)
    with pytest.raises(UsageError, match="half precision, and this is") as caught:
        flash.require_half_precision_on_cuda(single)
    assert "training.precision" in str(caught.value)
    single.dtype = torch.bfloat16
    flash.require_half_precision_on_cuda(single)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_the_real_flash_attention_agrees() -> None:
    pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    sizes = {"widths": (16, 32, 48), "heads": (2, 2, 3)}
    plain = network(**sizes).cuda()
    model = network(**sizes, attention="flash").cuda()
    one = scenes()
    moved = Scenes(*(getattr(one, n).cuda() for n in ("coordinates", "voxels", "features", "offsets")))
    with torch.autocast("cuda", torch.bfloat16):
        torch.testing.assert_close(model(moved), plain(moved), rtol=0.05, atol=0.1)
