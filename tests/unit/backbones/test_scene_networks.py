"""PTv3 and Sonata: scenes kept apart, determinism, curves, awkward scenes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from backbones.scenes import AWKWARD, CHANNELS, KINDS, SIZES, alone, network, of_voxels, scenes, together
from geopeft_cli.backbones.ptv3 import PTv3
from geopeft_cli.backbones.scene_transformer import SceneTransformer
from geopeft_cli.backbones.sonata import DECODER, SMALL, Sonata
from geopeft_cli.contracts import Backbone, Geometry, Scenes, published
from geopeft_cli.errors import DataError, GeopeftError, ShapeError, UsageError
from geopeft_cli.geometry.voxels import scene_index
from geopeft_cli.methods.bitfit import BitFit
from geopeft_cli.tasks.voxel_segmentation import VoxelSegmentation

pytestmark = pytest.mark.filterwarnings("ignore:.*predictions for a scene depend on its batch")
kinds = pytest.mark.parametrize("kind", sorted(KINDS))


def difference_when_alone(model: SceneTransformer, batch: Scenes) -> float:
    with torch.no_grad():
        parts = torch.cat([model(alone(batch, index)) for index in range(len(batch.offsets) - 1)])
        whole = model(batch)
    return float((parts - whole).abs().max() / whole.std())


@kinds
def test_a_scene_does_not_depend_on_its_batch(kind: str) -> None:
    assert difference_when_alone(network(kind), scenes()) < 1e-5


@kinds
@pytest.mark.parametrize(("setting", "value"), [("serialization_depth", "batch"), ("attention_patches", "legacy_min")])
def test_the_released_couplings_must_be_asked_for(kind: str, setting: str, value: str) -> None:
    with pytest.warns(UserWarning, match=f"{setting}: {value}: predictions for a scene depend on its batch"):
        model = network(kind, **{setting: value})
    assert difference_when_alone(model, scenes()) > 1e-3
    assert difference_when_alone(model, alone(scenes(), 1)) == 0


@kinds
@torch.no_grad()
def test_evaluation_repeats_to_the_bit_and_training_shuffles_the_curves(kind: str) -> None:
    batch, model = scenes(), network(kind, drop_path=0.0)
    model.requires_grad_(False)  # so that no BatchNorm tells training from evaluation
    assert torch.equal(model(batch), model(batch))
    model.train()
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(model(batch))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    fixed = network(kind, drop_path=0.0, shuffle_orders="never").requires_grad_(False)
    assert torch.equal(fixed.train()(batch), fixed.eval()(batch))
    always = network(kind, shuffle_orders="always")
    assert not torch.equal(always(batch), always(batch))


@kinds
def test_rows_in_another_order_give_the_same_rows(kind: str) -> None:
    batch, model = scenes(), network(kind)
    order = torch.cat([torch.randperm(n) + s for n, s in zip(SIZES, batch.offsets.tolist(), strict=False)])
    moved = Scenes(batch.coordinates[order], batch.voxels[order], batch.features[order], batch.offsets)
    with torch.no_grad():
        torch.testing.assert_close(model(moved), model(batch)[order], rtol=1e-4, atol=1e-5)


@kinds
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_scenes(kind: str, name: str) -> None:
    batch, model = of_voxels(AWKWARD[name], [len(AWKWARD[name])]), network(kind)
    with torch.no_grad():
        logits = model(batch)
        assert torch.equal(logits, model(batch))
    assert logits.shape == (len(batch.voxels), 3)
    assert logits.isfinite().all()
    assert difference_when_alone(model, together(scenes(), batch)) < 1e-5


def test_coordinates_far_from_the_origin_stay_what_they_are() -> None:
    batch, model = scenes(), network()
    far = replace(batch, coordinates=batch.coordinates.double() + 500_000.0)
    with torch.no_grad():
        assert torch.equal(model(far), model(batch))
    for near, distant in zip(model.levels(batch), model.levels(far), strict=True):
        torch.testing.assert_close(distant.centers - 500_000.0, near.centers.double(), rtol=0, atol=1e-6)


def nan_in(name: str) -> Callable[[Scenes], Scenes]:
    def damage(batch: Scenes) -> Scenes:
        values: Tensor = getattr(batch, name).clone()
        values[25, 1] = torch.nan
        return replace(batch, **{name: values})

    return damage


@pytest.mark.parametrize(
    ("damage", "kind", "reason"),
    [
        (nan_in("features"), DataError, "scene 1 of the batch: features of 1 of 150 points are not finite"),
        (nan_in("coordinates"), DataError, "scene 1 of the batch: coordinates of 1 of 150 points are not finite"),
        (lambda b: replace(b, offsets=torch.tensor([0, 20, 20, 215])), DataError, "scene 1 of the batch has no points"),
        (lambda b: replace(b, offsets=torch.tensor([0, 215, 20])), ShapeError, "do not rise from 0"),
        (lambda b: replace(b, features=b.features[:, :2]), ShapeError, r"features of shape \(215, 2\), expected"),
        (lambda b: replace(b, voxels=b.voxels - 1), DataError, "lowest voxel number is -1"),
        (lambda b: replace(b, voxels=b.voxels * 10**6), DataError, "reaches voxel number"),
        (lambda b: replace(b, voxels=b.coordinates), ShapeError, "whole numbers"),
        (lambda b: Scenes(*(x[:0] for x in (b.coordinates, b.voxels, b.features, b.offsets))), ShapeError, "offsets"),
    ],
)  # fmt: skip
def test_unreadable_scenes(damage: Callable[[Scenes], Scenes], kind: type[GeopeftError], reason: str) -> None:
    with pytest.raises(kind, match=reason):
        network()(damage(scenes()))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"depths": (1, 1)}, "backbone.depths: 2 values, expected 3"),
        ({"heads": (2, 2, 3)}, "3 heads do not divide 16"),
        ({"decoder_widths": (8,)}, "backbone.decoder_widths: 1 values, expected 2"),
        ({"curves": ("z", "peano")}, "backbone.curves"),
        ({"upcast": 3}, "backbone.upcast: 3, expected 0 to 2"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        network(**settings)


def test_pooling_along_a_curve_needs_powers_of_two() -> None:
    with pytest.raises(UsageError, match="3 is no power of 2"):
        network("ptv3", stride=3)


@kinds
def test_settings_rebuild_the_network(kind: str) -> None:
    model = network(kind)
    settings = json.loads(json.dumps(model.settings()))
    again = type(model)(**settings)
    VoxelSegmentation(["floor", "wall", "table"]).attach(again)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(scenes()), model(scenes()))
    assert again.settings() == model.settings()


def on_paper(kind: type[Backbone], **settings: object) -> Backbone:
    with torch.device("meta"):
        return kind(**settings)


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameter_counts() -> None:
    assert parameters(on_paper(Sonata)) == 108_461_376
    assert parameters(on_paper(Sonata, mask_token=False, **DECODER)) == 124_792_848
    assert parameters(on_paper(PTv3)) == 46_166_272
    assert on_paper(Sonata).feature_width == 1232
    assert on_paper(Sonata, upcast=2).feature_width == 1088
    assert on_paper(Sonata, **SMALL).feature_width == 992


@pytest.mark.parametrize(("scope", "count"), [("all", 102_592), ("blocks", 14 * 7_152)])
def test_bitfit_trains_the_biases(scope: str, count: int) -> None:
    model = on_paper(Sonata).requires_grad_(False)
    BitFit(scope).attach(model)  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@kinds
def test_sites_name_the_modules_of_the_forward_pass(kind: str) -> None:
    model = network(kind)
    sites = model.sites()
    assert len({site.name for site in sites}) == len(sites)
    assert all(site.module is model.get_submodule(site.name) for site in sites)
    entered: list[torch.nn.Module] = []
    rows: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def enter(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            entered.append(module)
            rows[name] = len(inputs[0])

        return enter

    for site in sites:
        site.module.register_forward_pre_hook(note(site.name))
    with torch.no_grad():
        model(scenes())
    order = {id(module): place for place, module in reversed(list(enumerate(entered)))}
    places = [order[id(site.module)] for site in sites if site.role != "transition"]
    assert places == sorted(places)
    sizes = [len(level.voxels) for level in model.levels(scenes())]
    assert all(site.level is not None and rows[site.name] == sizes[site.level] for site in sites)
    assert {site.block for site in sites if site.role == "block"} == set(range(model.depth))


def test_layers_say_what_geometry_they_need() -> None:
    model = network()
    with pytest.raises(GeopeftError, match="no geometry of level 0 is published"):
        model.get_submodule("enc.enc0.block0")(torch.zeros(4, 8))
    level = model.levels(scenes())[0]
    with published(Geometry([level])), pytest.raises(GeopeftError, match="the geometry describes 215 in 3 scenes"):
        model.get_submodule("enc.enc0.block0.attn")(torch.zeros(4, 8))


@pytest.mark.parametrize(("kind", "is_stale"), [("ptv3", True), ("sonata_decoder", False)])
@torch.no_grad()
def test_the_first_position_encoding_of_a_decoder_stage(kind: str, is_stale: bool) -> None:
    """Of the released PTv3 it reads the encoder's share alone, and its outcome is added to the sum."""
    model, seen = network(kind), {}
    stage = model.get_submodule("dec.dec0")
    for name in ("up", "up.proj_skip", "block0", "block0.cpe"):
        stage.get_submodule(name).register_forward_hook(lambda _, x, y, name=name: seen.update({name: (x[0], y)}))
    model(scenes())
    (total, share), (block_input, _) = seen["up"][1], seen["block0"]
    assert torch.equal(share, seen["up.proj_skip"][1])
    assert not torch.equal(share, total)
    assert torch.equal(block_input, total)
    assert torch.equal(seen["block0.cpe"][0], share if is_stale else total)


def test_the_order_of_pooled_voxels() -> None:
    """PTv3's follow the first curve of the stage before, Sonata's x, y and z."""
    for level in network("ptv3", curves=("hilbert", "z")).levels(scenes())[1:]:
        assert (level.codes("hilbert").diff() > 0).all()
    for level in network("sonata").levels(scenes())[1:]:
        rows = torch.cat([scene_index(level.offsets)[:, None], level.voxels], dim=1).tolist()
        assert rows == sorted(rows)


def test_the_norms_and_the_stem_of_ptv3() -> None:
    model = network("ptv3")
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm1d)}
    assert {(norm.eps, norm.momentum) for norm in norms.values()} == {(1e-3, 0.01)}
    assert {"embedding.stem.norm", "enc.enc1.down.norm.0", "dec.dec0.up.proj.1", "dec.dec0.up.proj_skip.1"} <= set(
        norms
    )
    assert model.get_parameter("embedding.stem.conv.weight").shape == (8, 5, 5, 5, CHANNELS)


def test_statistics_of_frozen_norms_do_not_move() -> None:
    model = network("ptv3").requires_grad_(False).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(scenes())
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_a_single_voxel_trains_no_batch_norm() -> None:
    batch = of_voxels(AWKWARD["one voxel"], [50])
    with pytest.raises(DataError, match="a single voxel is left at stage 1"):
        network("ptv3").train()(batch)
    assert network("sonata").train()(batch).isfinite().all()


def test_outputs_of_blocks_can_be_asked_for() -> None:
    model = network("sonata_decoder")
    tokens = model.encode(scenes(), layers=[0, 4, model.depth - 1])
    sizes = [len(level.voxels) for level in model.levels(scenes())]
    assert {index: tuple(x.shape) for index, x in tokens.layers.items()} == {
        0: (sizes[0], 8), 4: (sizes[2], 16), 6: (sizes[0], 8)
    }  # fmt: skip
    assert tokens.features is tokens.layers[6]
    assert tokens.offsets is not None
    assert model.in_channels == CHANNELS
