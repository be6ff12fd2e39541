"""What can be merged at all."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from geopeft_cli.adapters.merge import foldable_layers, merge
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import Backbone, DenseUpdate, Wrapper
from geopeft_cli.errors import MergeError
from geopeft_cli.methods.lora import LoRA, LowRankUpdate
from geopeft_cli.tasks.classification import Classification

CLOUDS = [torch.randn(3, 30, 3, generator=torch.Generator().manual_seed(1))]


class Doubled(Wrapper):
    """Something that no weight can express beside its base."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.base(x).relu()
        return result


@pytest.fixture
def model() -> Backbone:
    torch.manual_seed(0)
    model = PointMAE(24, 2, 4, groups=8, group_size=4)
    LoRA(rank=2).attach(model)
    Classification(["a", "b"]).attach(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_the_model_that_is_given_stays_as_it_is(model: Backbone) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = merge(model, "auto", CLOUDS)
    assert len(foldable_layers(model)) == result.layers == 8
    assert not foldable_layers(result.model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(result.model(CLOUDS[0]), model(CLOUDS[0]), rtol=1e-4, atol=1e-5)


def test_a_layer_that_has_no_merge_is_named(model: Backbone) -> None:
    site = model.sites()[5]
    site.replace(Doubled(site.module))
    with pytest.raises(MergeError, match=r"pos_embed\.2: a Doubled cannot be merged into the weights"):
        merge(model, "auto", CLOUDS)


def test_values_that_are_not_finite_are_named_wherever_they_are(model: Backbone) -> None:
    model.get_buffer("cls_head_finetune.1.running_mean")[2] = torch.inf
    with pytest.raises(MergeError, match=r"cls_head_finetune\.1\.running_mean holds values that are not finite"):
        merge(model, "auto", CLOUDS)


def test_a_fold_that_is_wrong_is_caught(model: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    update = LowRankUpdate.dense_update
    monkeypatch.setattr(LowRankUpdate, "dense_update", lambda *given: DenseUpdate(0.5 * update(*given).weight))
    with pytest.raises(MergeError, match="the merged model differs from the unmerged one by"):
        merge(model, "auto", CLOUDS)
