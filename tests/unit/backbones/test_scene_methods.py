"""Every method on scene networks: attached without a change, trained without touching the base, scenes kept apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from backbones.scenes import alone, network, scenes
from geopeft_cli.backbones.scene_transformer import SceneTransformer
from geopeft_cli.contracts import Foldable, official_parameters, official_state
from geopeft_cli.errors import UsageError
from geopeft_cli.methods import METHODS, method_class

EVERYWHERE = ("all", "position", "transition")
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in METHODS if name not in ("point_peft", "gem")},
    "lora_everywhere": ("lora", {"targets": EVERYWHERE}),
    "most_everywhere": ("most", {"targets": EVERYWHERE}),
}
LABELS = torch.arange(215) % 3


def attached(form: str, kind: str = "sonata_decoder") -> SceneTransformer:
    model = network(kind).requires_grad_(False)
    name, settings = FORMS[form]
    torch.manual_seed(1)
    method_class(name)(**settings).attach(model)
    for head in model.get_submodule("seg_head").parameters():
        head.requires_grad_(True)
    return model.eval()


@pytest.mark.parametrize("kind", ["sonata", "ptv3"])
@pytest.mark.parametrize("form", sorted(FORMS))
@torch.no_grad()
def test_a_fresh_method_changes_nothing_unless_its_definition_says_so(form: str, kind: str) -> None:
    name, settings = FORMS[form]
    difference = float((attached(form, kind)(scenes()) - network(kind)(scenes())).abs().max())
    assert (difference < 1e-5) == method_class(name)(**settings).is_identity_at_start


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_step_moves_what_trains_and_nothing_else(form: str) -> None:
    model = attached(form).train()
    before = {name: tensor.clone() for name, tensor in official_state(model).items()}
    trained = {name: p for name, p in official_parameters(model).items() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    for _ in range(2):  # factors that start at zero let gradients through from the second step on
        optimizer.zero_grad()
        model.task.loss(model(scenes()), LABELS).backward()  # type: ignore[union-attr]
        optimizer.step()
    moved = {name for name, tensor in official_state(model).items() if not torch.equal(tensor, before[name])}
    never_read = {"embedding.mask_token"}
    assert moved == trained.keys() - never_read
    model.eval()
    with torch.no_grad():
        parts = torch.cat([model(alone(scenes(), index)) for index in range(3)])
        torch.testing.assert_close(parts, model(scenes()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["lora_everywhere", "monarch", "most_everywhere"])
@torch.no_grad()
def test_updates_fold_into_the_weights_or_keep_their_geometry(form: str) -> None:
    model = attached(form)
    for name, parameter in model.named_parameters():
        if name.endswith(("lora_B.weight", "blkdiag2")):
            nn.init.normal_(parameter, std=0.05)
    expected, before = model(scenes()), network("sonata_decoder")(scenes())
    assert float((expected - before).abs().max()) > 0.01
    for site in model.sites():
        if isinstance(site.module, Foldable):
            site.replace(site.module.folded(site.module.exact_modes[0]))
    torch.testing.assert_close(model(scenes()), expected, rtol=1e-3, atol=1e-4)


def test_the_stem_of_sonata_is_a_layer_like_others() -> None:
    model = network().requires_grad_(False)
    method_class("lora")(targets=["patch_embedding"]).attach(model)
    assert {site.name for site in model.sites() if isinstance(site.module, Foldable)} == {"embedding.stem.linear"}


def test_point_peft_is_for_clouds() -> None:
    with pytest.raises(UsageError, match="and sonata has none"):
        method_class("point_peft")().attach(network())


def test_the_released_form_of_most_is_for_clouds() -> None:
    with pytest.raises(UsageError, match="sonata reads scenes of different sizes"):
        method_class("most")(variant="released").attach(network())
