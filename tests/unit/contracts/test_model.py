"""Sites by their targets, and BatchNorm that stays frozen."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from torch import nn

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import (
    BLOCK_ROLES,
    select_sites,
)
from geopeft_cli.errors import UsageError


def test_sites_name_the_modules_they_hold(backbone: PointMAE) -> None:
    sites = backbone.sites()
    assert len({site.name for site in sites}) == len(sites) == 6 + 5 * 2
    for site in sites:
        assert backbone.get_submodule(site.name) is site.module
        assert (site.block >= 0) == (site.role in ("attention", *BLOCK_ROLES)) == (site.level is not None)
        assert site.block == (int(site.name.split(".")[2]) if site.name.startswith("blocks") else -1)


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (("all",), 8),
        (("attention_in", "attention_in"), 2),
        (("attn.qkv", "qkv", "attention_in"), 2),
        (("blocks.blocks.1.mlp.fc1",), 1),
        (("1.mlp.fc1",), 1),
        (("position",), 2),
        (("all", "patch_embedding"), 12),
        (("mlp_out", "attention_in"), 4),
        ((), 0),
    ],
)
def test_targets(backbone: PointMAE, targets: tuple[str, ...], count: int) -> None:
    chosen = select_sites(backbone, targets)
    assert len(chosen) == count
    order = [site.name for site in backbone.sites()]
    assert [site.name for site in chosen] == sorted((site.name for site in chosen), key=order.index)


@pytest.mark.parametrize("target", ["kv", "attn", "blocks.blocks.1", "Attention_in", "tn.qkv", "head", ""])
def test_a_target_without_a_match_is_refused(backbone: PointMAE, target: str) -> None:
    with pytest.raises(UsageError, match="matches no layer of point_mae"):
        select_sites(backbone, ("qkv", target))


def test_batchnorm_whose_weight_is_frozen_stays_in_eval_mode(backbone: PointMAE) -> None:
    first, second = backbone.encoder.first_conv[1], backbone.encoder.second_conv[1]
    modes: Mapping[tuple[bool, bool], tuple[bool, bool]] = {
        (False, False): (False, False),
        (True, False): (True, False),
        (True, True): (True, True),
    }
    for trains, expected in modes.items():
        first.weight.requires_grad_(trains[0])
        second.weight.requires_grad_(trains[1])
        backbone.train()
        assert (first.training, second.training) == expected
        assert backbone.blocks.training
        assert backbone.eval() is backbone
        assert not any(module.training for module in backbone.modules())


def test_batchnorm_without_a_weight_counts_as_frozen(backbone: PointMAE) -> None:
    backbone.extra = nn.BatchNorm1d(4, affine=False)
    backbone.train()
    assert not backbone.extra.training
