"""Point-PEFT on tiny networks: which clouds, tokens and copies of the network have to do with each other."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.backbones import BACKBONES, backbone_class
from geopeft_cli.backbones.mamba3d import Mamba3D
from geopeft_cli.backbones.point_bert import PointBERT
from geopeft_cli.backbones.point_gpt import PointGPT
from geopeft_cli.backbones.point_m2ae import PointM2AE
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import Backbone, Geometry, Level, current_geometry, memories, official_parameters
from geopeft_cli.errors import UsageError
from geopeft_cli.methods.group_adapter import inverse_square_weights
from geopeft_cli.methods.point_peft import PointPEFT
from geopeft_cli.methods.point_peft_block import PointPEFTBlock
from geopeft_cli.methods.point_prior import Bank
from geopeft_cli.recipe.schema import WITHOUT_ATTENTION
from geopeft_cli.tasks.classification import Classification

CLOUDS = torch.rand(4, 96, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
FLAT = {"width": 24, "depth": 2, "heads": 2, "groups": 80, "group_size": 8}
STAGES = {"widths": (12, 18, 24), "depths": (1, 1, 2), "heads": 2, "groups": (40, 16, 8), "group_size": (20, 10, 4)}


def tiny(kind: type[Backbone]) -> Backbone:
    torch.manual_seed(0)
    model = kind(**(STAGES if kind is PointM2AE else FLAT))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return model.requires_grad_(False).eval()


def adapted(kind: type[Backbone] = PointMAE, **settings: Any) -> Backbone:
    model = tiny(kind)
    PointPEFT(**settings).attach(model)
    Classification(("a", "b", "c")).attach(model)
    for memory in memories(model).values():
        memory.fill(torch.randn(20, model.width, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3)
    return model.eval()


@torch.no_grad()
def logits(model: Backbone, clouds: Tensor = CLOUDS) -> Tensor:
    return model(clouds)  # type: ignore[no-any-return]


def bank_of(model: Backbone) -> Bank:
    bank = model.get_submodule("bank")
    assert isinstance(bank, Bank)
    return bank


@pytest.mark.parametrize("kind", [PointMAE, PointM2AE])
def test_the_released_indices_reach_into_other_clouds(kind: type[Backbone], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "geopeft"):
        model = adapted(kind, variant="released")
        model.eval()
    assert [record.message[:27] for record in caplog.records] == ["method.variant is released:"]
    together = logits(model)
    alone = torch.cat([logits(model, cloud) for cloud in CLOUDS.split(1)])
    torch.testing.assert_close(together[:1], alone[:1], atol=1e-5, rtol=0)
    assert (together[1:] - alone[1:]).abs().amax(dim=1).min() > 1e-3
    own = adapted(kind)
    own.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(logits(own), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [PointMAE, PointM2AE])
def test_variants_agree_without_prompts_and_differ_with_them(kind: type[Backbone]) -> None:
    assert torch.equal(logits(adapted(kind, prompt=False)), logits(adapted(kind, prompt=False, variant="aligned")))
    one, other = adapted(kind, bank=False), adapted(kind, bank=False, variant="aligned")
    other.load_state_dict(one.state_dict(), strict=False)
    assert (logits(one) - logits(other)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [PointMAE, PointBERT, PointM2AE, PointGPT])
def test_the_frozen_copy_takes_from_the_pass_what_it_would_compute(kind: type[Backbone]) -> None:
    model = adapted(kind)
    bank = bank_of(model)
    queries: list[tuple[Tensor, Tensor]] = []
    attended = bank.attended

    def asked(query: Tensor) -> Any:
        queries.append((query, bank.describe(CLOUDS)))
        return attended(query)

    bank.attended = asked  # type: ignore[method-assign]
    logits(model)
    ((shared, own),) = queries  # once a pass, for all blocks
    torch.testing.assert_close(shared, own, atol=1e-6, rtol=1e-6)
    assert own.std(dim=0).min() > 0


def test_the_frozen_copy_shares_what_is_frozen_and_keeps_what_moves() -> None:
    model = adapted()
    own, copied = official_parameters(model), dict(bank_of(model).network.named_parameters())
    shared = {name for name, parameter in copied.items() if parameter is own[name]}
    assert {name for name in copied if name not in shared} == {
        *(name for name, parameter in own.items() if parameter.requires_grad and name in copied),
        "cls_token",
        "cls_pos",
    }
    assert not [name for name in model.state_dict() if name.startswith("bank.") and name != "bank.columns"]
    before = bank_of(model).describe(CLOUDS)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model.train()
    F.cross_entropy(model(CLOUDS), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    assert torch.equal(bank_of(model).describe(CLOUDS), before)
    assert not any(module.training for module in bank_of(model).network.modules())


def test_the_bank_holds_directions_and_gives_the_nearest() -> None:
    bank = bank_of(adapted(prompts=5))
    torch.testing.assert_close(bank.columns.norm(dim=0), torch.ones(20))
    query = 7 * bank.columns[:, [4, 9]].t() + 0.01
    rows, similarity, index = bank.attended(query)
    assert rows.shape == (2, 5, 24)
    assert index[:, 0].tolist() == [4, 9]
    assert (similarity.diff(dim=1) <= 0).all()
    torch.testing.assert_close(rows[:, 0], query)
    torch.testing.assert_close(rows[:, 2:], bank.columns.t()[index])
    expected = (similarity.softmax(1).unsqueeze(2) * rows[:, 2:]).sum(1)
    torch.testing.assert_close(rows[:, 1], expected)


def test_the_order_of_the_columns_means_nothing() -> None:
    model = adapted()
    before = logits(model)
    bank_of(model).columns = bank_of(model).columns.flip(1)
    torch.testing.assert_close(logits(model), before, atol=1e-6, rtol=0)


def test_fewer_columns_of_a_class_and_in_half_precision() -> None:
    bank = bank_of(adapted(prompts=4, bank_per_class=2, bank_precision="fp16"))
    vectors = torch.randn(9, 24)
    bank.fill(vectors, torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2]))
    assert bank.columns.dtype == torch.float16
    kept = F.normalize(vectors[[0, 2, 5, 6, 8]]).t()
    torch.testing.assert_close(bank.columns.float(), kept, atol=5e-4, rtol=0)
    assert torch.equal(bank.columns, kept.half())


def test_a_bank_that_is_too_small_or_empty_is_refused() -> None:
    model = tiny(PointMAE)
    PointPEFT(prompts=5).attach(model)
    with pytest.raises(UsageError, match="look up 3 training clouds, the bank has 2"):
        bank_of(model).fill(torch.randn(2, 24), torch.zeros(2))
    with pytest.raises(UsageError, match="bank of Point-PEFT is empty"):
        model.encode(CLOUDS)


def test_networks_and_blocks_that_it_does_not_fit_are_named() -> None:
    with pytest.raises(UsageError, match="for transformer blocks over the patches of a cloud, and mamba3d has none"):
        PointPEFT().attach(Mamba3D(width=16, depth=1, groups=8, group_size=8))
    with pytest.raises(UsageError, match="none of the 2 blocks with prompts is as wide as its columns, 24"):
        PointPEFT(prompted_blocks=2).attach(tiny(PointM2AE))


def test_prompts_have_no_center_and_leave_with_their_block() -> None:
    model = adapted(bank=False, variant="aligned", prompted_blocks=1)
    seen: list[tuple[Level, int]] = []

    def record(name: str) -> Any:
        return lambda module, inputs: seen.append((current_geometry(0, name).levels[0], inputs[0].shape[1]))

    for name, module in model.named_modules():
        if isinstance(module, PointPEFTBlock):
            module.base.attn.register_forward_pre_hook(record(name))
    logits(model)
    (first, tokens), (second, fewer) = seen
    assert first.slots.tolist() == [-1] * 11 + list(range(80))
    assert second.slots.tolist() == [-1, *range(80)]
    assert (tokens, fewer) == (91, 81)


def test_recipes_know_which_networks_have_no_blocks_for_it() -> None:
    without = {name for name in BACKBONES if backbone_class(name).block_sites is Backbone.block_sites}
    assert without == set(WITHOUT_ATTENTION)


@pytest.mark.parametrize(
    ("kind", "norms"),
    [(PointMAE, ["norm"]), (PointGPT, ["norm"]), (PointM2AE, [f"h_encoder.encoder_norms.{i}" for i in range(3)])],
)
@torch.no_grad()
def test_heads_for_points_read_no_prompts_through_norms_that_train(kind: type[Backbone], norms: list[str]) -> None:
    model = kind(**(STAGES if kind is PointM2AE else FLAT), dense=True).requires_grad_(False).eval()
    lengths = [layer.shape[1] for layer in model.encode(CLOUDS, range(model.depth)).layers.values()]
    PointPEFT(bank=False).attach(model)
    tokens = model.encode(CLOUDS, range(model.depth))
    assert [layer.shape[1] for layer in tokens.layers.values()] == lengths
    assert tokens.spatial(tokens.features).shape == (4, tokens.centers.shape[1], 24)
    outside = {name for name, p in official_parameters(model).items() if p.requires_grad and "blocks." not in name}
    assert outside - {"prompt_chain.prompt_cor"} == {f"{norm}.{part}" for norm in norms for part in ("weight", "bias")}


def test_weights_of_groups() -> None:
    tokens = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [4, 0, 0]]])
    weights = inverse_square_weights(tokens, tokens[:, :2], before=1)
    assert torch.equal(weights[0, 0], torch.zeros(2))
    torch.testing.assert_close(weights[0, 1:], torch.tensor([[1.0, 0], [0, 1], [9 / 25, 16 / 25]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("clouds", [CLOUDS[:, :1].expand(4, 96, 3), CLOUDS.round()], ids=["a point", "a lattice"])
def test_coincident_centers_and_large_groups_stay_finite(clouds: Tensor) -> None:
    model = adapted(neighbors=100)
    logits = model(clouds)
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) > 40
    assert all(bool(x.isfinite().all()) for x in (logits, *gradients))


def test_centers_of_a_level_and_its_prompts() -> None:
    level = Level(torch.zeros(2, 3, 3), torch.tensor([-1, -1, 0, 1, 2]))
    assert level.leading == 2
    assert level.prompted(2).slots.tolist() == [-1, -1, -1, -1, 0, 1, 2]
    assert level.prompted(2) is level.prompted(2)
    other = Geometry([level], torch.zeros(2, 5, 3)).with_level(0, level.prompted(1))
    assert other.levels == [level.prompted(1)]
    assert other.points is not None
