"""Monarch and MoST on tokens that lie otherwise than in a plain transformer: the promises of every backbone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contract.layouts import LAYOUTS, Hierarchical, Packed, Serialized, StandIn
from geopeft_cli.adapters.merge import merge
from geopeft_cli.contracts import Geometry, Level, PackedLevel, current_level, published
from geopeft_cli.errors import GeometryError, UsageError
from geopeft_cli.methods import method_class, rectify
from geopeft_cli.methods.fold_fits import MatrixFit
from geopeft_cli.methods.monarch_update import MonarchUpdate
from geopeft_cli.tasks.classification import Classification

CLASSES = ("chair", "lamp", "table")
METHODS: dict[str, dict[str, Any]] = {
    "monarch": {"name": "monarch"},
    **{f"most {sides}": {"name": "most", "sides": sides, "eps": {"relative": 0.5}} for sides in (0, 1, 2)},
}
SMOOTHING = ("most 1", "most 2")
CLOUDS = torch.rand(5, 64, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.6, 1.4])
CLOUDS *= torch.tensor([1.0, 0.5, 1.2, 0.8, 0.3]).view(-1, 1, 1)  # packed scenes differ in their number of voxels

every_layout = pytest.mark.parametrize("kind", LAYOUTS, ids=lambda kind: kind.name)
every_method = pytest.mark.parametrize("method", METHODS)
smoothing_methods = pytest.mark.parametrize("method", SMOOTHING)


def build(kind: type[StandIn], method: str | None, moved: bool = True, fusion: int = 0) -> StandIn:
    torch.manual_seed(0)
    model = kind()
    Classification(CLASSES, head="linear", fusion={"layers": fusion, "affine": True}).attach(model)
    if method is not None:
        model.requires_grad_(False)
        settings = {"blocks": 4, "targets": ("all",), **METHODS[method]}
        method_class(settings.pop("name"))(**settings).attach(model)
    for layer in updates(model).values() if moved else ():
        nn.init.normal_(layer.most.blkdiag2, std=0.3)
    return model.eval()


def updates(model: nn.Module) -> dict[str, MonarchUpdate]:
    return {name: module for name, module in model.named_modules() if isinstance(module, MonarchUpdate)}


@torch.no_grad()
def logits(model: StandIn, clouds: Tensor = CLOUDS) -> Tensor:
    return model(clouds)  # type: ignore[no-any-return]


def layer_inputs(model: StandIn) -> dict[str, tuple[MonarchUpdate, Tensor, Level]]:
    """What reaches every adapted layer in a forward pass, and the level that it reads."""
    found: dict[str, tuple[MonarchUpdate, Tensor, Level]] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
            assert isinstance(module, MonarchUpdate)
            found[name] = module, inputs[0].clone(), current_level(module.level, name)

        return hook

    hooks = [layer.register_forward_pre_hook(record(name)) for name, layer in updates(model).items()]
    logits(model)
    for hook in hooks:
        hook.remove()
    assert len(found) == len(model.sites())
    return found


@torch.no_grad()
def apply(layer: MonarchUpdate, x: Tensor, level: Level) -> Tensor:
    with published(Geometry([level] * (layer.level + 1))):
        return layer(x)  # type: ignore[no-any-return]


@every_layout
@every_method
def test_a_fresh_adapter_changes_no_bit(kind: type[StandIn], method: str) -> None:
    assert torch.equal(logits(build(kind, method, moved=False)), logits(build(kind, None)))


@every_layout
@every_method
def test_a_moved_adapter_changes_the_output_and_smoothing_does(kind: type[StandIn], method: str) -> None:
    assert not torch.allclose(logits(build(kind, method)), logits(build(kind, None)), atol=1e-2)
    same = torch.allclose(logits(build(kind, method)), logits(build(kind, "monarch")), atol=1e-3)
    assert same == (method not in SMOOTHING)


@every_layout
@every_method
def test_every_factor_moves_within_two_steps(kind: type[StandIn], method: str) -> None:
    model = build(kind, method, moved=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(CLOUDS), torch.tensor([0, 1, 2, 0, 1])).backward()
        optimizer.step()
    after = dict(model.named_parameters())
    assert len(before) >= 2 * len(model.sites())
    assert [name for name, values in before.items() if torch.equal(values, after[name])] == []


@every_layout
@every_method
def test_a_cloud_alone_and_among_others(kind: type[StandIn], method: str) -> None:
    model = build(kind, method)
    together = logits(model)
    assert together.std(dim=0).min() > 1e-2
    alone = torch.cat([logits(model, cloud) for cloud in CLOUDS.split(1)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    order = torch.tensor([3, 0, 4])
    torch.testing.assert_close(logits(model, CLOUDS[order]), together[order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dense", [rectify.DENSE_TOKENS, 0], ids=["dense", "sparse"])
@every_layout
@smoothing_methods
def test_tokens_that_change_places_change_nothing_else(
    kind: type[StandIn], method: str, dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rectify, "DENSE_TOKENS", dense)
    model = build(kind, method)
    generator = torch.Generator().manual_seed(1)
    for layer, x, level in layer_inputs(model).values():

        def shuffled() -> Tensor:
            first, parts = 0, []
            for length in model.runs(level):  # noqa: B023
                parts.append(first + torch.randperm(length, generator=generator))
                first += length
            return torch.cat(parts)

        expected = apply(layer, x, level)
        if isinstance(level, PackedLevel):
            order = shuffled()
            moved: Level = PackedLevel(level.centers[order], level.offsets)
            x, expected = x[order], expected[order]
        else:
            orders = torch.stack([shuffled() for _ in x])
            moved = Level(level.centers, level.slots.expand(len(x), -1).gather(1, orders))
            x, expected = (one.take_along_dim(orders.unsqueeze(-1), 1) for one in (x, expected))
        torch.testing.assert_close(apply(layer, x, moved), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dense", [rectify.DENSE_TOKENS, 0], ids=["dense", "sparse"])
@every_layout
@smoothing_methods
def test_no_neighbor_is_in_another_cloud(
    kind: type[StandIn], method: str, dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All clouds lie in the same place, so that most of the nearest centers of a batch are those of other clouds."""
    monkeypatch.setattr(rectify, "DENSE_TOKENS", dense)
    for layer, x, level in layer_inputs(build(kind, method)).values():
        before = layer.rectify(x, level, "test")
        other = x.clone()
        size = level.sizes[1] if isinstance(level, PackedLevel) else 1
        first = level.sizes[0] if isinstance(level, PackedLevel) else 1
        other[first : first + size] += 1
        after = layer.rectify(other, level, "test")
        rest = torch.ones(len(x), dtype=torch.bool)
        rest[first : first + size] = False
        assert torch.equal(after[rest], before[rest])
        assert not torch.isclose(after[~rest], before[~rest]).any()


def test_copies_of_a_center_do_not_mix() -> None:
    for layer, x, level in layer_inputs(build(Serialized, "most 2")).values():
        assert level.slots.shape == (len(CLOUDS), 2 * Serialized.groups + 1)
        before = layer.rectify(x, level, "test")
        other = x.clone()
        other[:, : Serialized.groups] += 1
        after = layer.rectify(other, level, "test")
        assert torch.equal(after[:, Serialized.groups :], before[:, Serialized.groups :])
        assert not torch.isclose(after[:, : Serialized.groups], before[:, : Serialized.groups]).any()


def test_every_layer_reads_the_level_of_its_stage() -> None:
    model = build(Hierarchical, "most 2")
    levels = {site.name: site.level for site in model.sites()}
    for name, (_, x, level) in layer_inputs(model).items():
        stage = levels[name]
        assert stage == int(name.split(".")[1])
        assert x.shape[1] == level.centers.shape[1] == Hierarchical.groups[stage]


@pytest.mark.parametrize("mode", ["keep-k", "stacked"])
@every_layout
@smoothing_methods
def test_merging_that_keeps_k_is_exact(kind: type[StandIn], method: str, mode: str) -> None:
    model = build(kind, method)
    merged = merge(model, mode, [CLOUDS])
    assert merged.exact
    assert merged.layers == len(model.sites())
    torch.testing.assert_close(logits(merged.model), logits(model), atol=1e-5, rtol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["monarch", "most 0"])
@every_layout
def test_without_k_merging_is_exact(kind: type[StandIn], method: str) -> None:
    model = build(kind, method)
    merged = merge(model, "exact", [CLOUDS])
    assert not updates(merged.model)
    torch.testing.assert_close(logits(merged.model), logits(model), atol=1e-5, rtol=1e-5)  # type: ignore[arg-type]


@every_layout
def test_calibration_takes_every_token_as_a_row(kind: type[StandIn]) -> None:
    model = build(kind, "most 2")
    for layer, x, level in layer_inputs(model).values():
        record = layer.calibration("calibrated-matrix")
        with published(Geometry([level] * (layer.level + 1))):
            record.add(x)
        assert isinstance(record, MatrixFit)
        assert record.count == x[..., 0].numel()
    assert not updates(merge(model, "calibrated-matrix", [CLOUDS[:3], CLOUDS[3:]]).model)


@every_layout
@smoothing_methods
def test_another_number_of_tokens_names_the_layer(kind: type[StandIn], method: str) -> None:
    for name, (layer, x, level) in layer_inputs(build(kind, method)).items():
        for wrong in (x[..., :-1, :], x.flatten(0, 1) if x.ndim == 3 else x[None]):
            with pytest.raises(GeometryError, match=f"^{name} got tokens of shape .* the geometry describes"):
                apply(layer, wrong, level)


@every_method
@pytest.mark.parametrize(
    ("kind", "layers", "blocks"),
    [(Serialized, 2, (1, 3)), (Hierarchical, 3, (5, 6, 7)), (Hierarchical, 5, (3, 4, 5, 6, 7))],
)
def test_fusion_takes_blocks_of_the_last_stage(
    kind: type[StandIn], layers: int, blocks: tuple[int, ...], method: str
) -> None:
    model = build(kind, method, fusion=layers)
    tokens = model.encode(CLOUDS, blocks)
    total = torch.zeros(len(CLOUDS), model.width)
    slots = tokens.slots.expand(len(CLOUDS), -1)
    for weight, block in enumerate(blocks):
        for cloud, own in enumerate(tokens.layers[block]):
            spatial = own[slots[cloud] >= 0]
            total[cloud] += 2**weight * (spatial.amax(0) + spatial.mean(0))
    fusion = model.get_submodule("fusion")
    torch.testing.assert_close(fusion(tokens), nn.functional.layer_norm(total, (model.width,)), atol=1e-5, rtol=1e-5)
    head = model.get_submodule("cls_head_finetune")
    torch.testing.assert_close(logits(model), head(model.pool(tokens) + fusion(tokens)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "most"), [(Serialized, 4), (Hierarchical, 5), (Packed, 0)])
def test_more_layers_than_the_last_stage_has_are_refused(kind: type[StandIn], most: int) -> None:
    with pytest.raises(UsageError, match=f"{most + 1} is more than the {most} blocks"):
        build(kind, None, fusion=most + 1)


def test_places_are_those_of_the_slots() -> None:
    """What a backbone says beforehand of its tokens is what would be looked for."""
    for kind in (Serialized, Hierarchical):
        tokens = kind().encode(CLOUDS)
        declared = tokens.spatial(tokens.features), tokens.spatial_centers()
        assert tokens.places is not None
        tokens.places = None
        assert torch.equal(tokens.spatial(tokens.features), declared[0])
        assert torch.equal(tokens.spatial_centers(), declared[1])
    packed = Packed().encode(CLOUDS)
    assert packed.offsets is not None
    assert len(packed.offsets.diff().unique()) > 1
    assert torch.equal(packed.spatial_centers(), packed.centers)
