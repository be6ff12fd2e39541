"""MoST on PointGPT: branches in the generator, whose centers its tokens have there, and graphs of earlier tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geopeft_cli.backbones.point_gpt import PointGPT
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.contracts import Geometry, Level, PackedLevel, current_level, published
from geopeft_cli.errors import UsageError
from geopeft_cli.methods.most import MoST
from geopeft_cli.methods.most_released import PointMonarchAttention
from geopeft_cli.methods.rectify import Rectify
from geopeft_cli.objective import training_loss
from geopeft_cli.tasks.classification import Classification

POINTS = torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(0))
RELEASED = {"variant": "released", "blocks": 4}


def tiny(reconstruction: float = 3.0, **method: Any) -> PointGPT:
    """A small one whose method has been trained, as far as its outputs tell."""
    torch.manual_seed(0)
    model = PointGPT(width=32, depth=2, heads=2, groups=8, group_size=8, reconstruction=reconstruction)
    model.requires_grad_(False)
    MoST(**method).attach(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    Classification(["a", "b", "c"]).attach(model)
    return model.eval()


def branches(model: PointGPT) -> list[PointMonarchAttention]:
    return [module for module in model.modules() if isinstance(module, PointMonarchAttention)]


def test_parameters_on_the_large_network() -> None:
    with torch.device("meta"):
        model = PointGPT(1024, 24, 16, groups=128, encoder_width=256).requires_grad_(False)
        MoST(variant="released").attach(model)
        adapted = sum(p.numel() for p in model.parameters() if p.requires_grad)
        Classification([str(i) for i in range(15)], fusion={"layers": 3, "affine": True}).attach(model)
    for name in model.token_names:
        model.get_parameter(name).requires_grad_(True)
    assert len(branches(model)) == 24 + 4
    assert adapted == 28 * (2 * 1024**2 // 8 + 1024 + 2 * 1024) == 7_426_048
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 8_142_095 - 28 * 4 * 1024 == 8_027_407
    assert sum(p.numel() for p in model.parameters()) == 367_784_303


def test_the_generator_trains_with_its_branches_and_logits_do_not_depend_on_them() -> None:
    model = tiny(**RELEASED)
    task = model.task
    assert task is not None
    training_loss(model.train(), task, POINTS, torch.tensor([0, 2]))[0].backward()
    own = [(name, p) for name, p in model.generator_blocks.named_parameters() if p.requires_grad]
    assert len(own) == 4 * 5
    assert all(p.grad is not None and p.grad.any() for _, p in own)
    with torch.no_grad():
        before = model.eval()(POINTS)
        for _, parameter in own:
            parameter.zero_()
        assert torch.equal(model(POINTS), before)
    assert not [name for name, p in tiny(blocks=4).generator_blocks.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("shifted", [False, True])
def test_whose_centers_the_tokens_of_the_generator_have(shifted: bool) -> None:
    model = tiny(**RELEASED, generator_graph="released" if shifted else "aligned")
    branch = model.generator_blocks.layers[0].attn
    assert isinstance(branch, PointMonarchAttention)
    seen: list[Level] = []
    branch.register_forward_hook(lambda *_: seen.append(current_level(branch.level, branch.site)))
    _, centers = model.patches(POINTS)
    model.generator_blocks.generate(torch.randn(2, 10, 32), centers)
    [level] = seen
    own = level.centers[:, level.slots.clamp(min=0)]
    if shifted:  # place j predicts patch j
        assert torch.equal(own, centers)
    else:  # and holds patch j - 1, or the start
        assert torch.equal(own[:, 1:], centers[:, :-1])
        assert level.slots[0] == -1
    assert all(layer.level == 0 for layer in branches(model) if layer.site.startswith("blocks."))


@pytest.mark.parametrize("make", [lambda: PointMAE(32, 1, 2, groups=8, group_size=8), lambda: tiny(0.0, blocks=4)])
def test_a_shifted_graph_needs_a_generator(make: Any) -> None:
    with pytest.raises(UsageError, match=r"method\.generator_graph: point_(mae|gpt) has no generator here"):
        MoST(**RELEASED, generator_graph="released").attach(make())


@pytest.mark.parametrize("graph", ["full", "causal"])
@pytest.mark.parametrize("variant", [{"blocks": 4}, {**RELEASED, "adabias": "off"}], ids=["linear", "released"])
@torch.no_grad()
def test_in_a_causal_graph_no_token_sees_a_later_one(variant: dict[str, Any], graph: str) -> None:
    model = tiny(**variant, graph=graph)
    x, position, (_, centers) = torch.randn(2, 10, 32), torch.randn(2, 10, 32), model.patches(POINTS)
    slots = torch.arange(-2, 8).clamp(min=-1)

    def outputs(stream: Tensor) -> Tensor:
        with published(Geometry([Level(centers, slots)])):
            y: Tensor = model.blocks(stream, position)[0]
        return y

    changed = x.clone()
    changed[:, -1] = torch.randn(32)
    difference = (outputs(changed) - outputs(x)).abs().amax(dim=(0, 2))
    assert difference[-1] > 1e-2
    assert (float(difference[:-1].max()) < 1e-5) == (graph == "causal")


@pytest.mark.parametrize(
    "level",
    [
        Level(torch.rand(2, 3, 3), torch.tensor([-1, 0, 2, 1])),
        Level(torch.rand(2, 3, 3), torch.tensor([[0, 1, 2, -1], [0, -1, 1, 1]])),
    ],
    ids=["one order", "own orders"],
)
@pytest.mark.parametrize("variant", [{"blocks": 4}, RELEASED], ids=["linear", "released"])
def test_a_causal_graph_needs_the_order_of_the_centers(level: Level, variant: dict[str, Any]) -> None:
    layer = tiny(**variant, graph="causal").blocks.layers[0]
    wrapper = layer.attn if variant == RELEASED else layer.mlp[0]
    with published(Geometry([level])), pytest.raises(UsageError, match=r"method\.graph: causal needs tokens in the"):
        wrapper(torch.randn(2, 4, 32))


def test_packed_scenes_have_no_order() -> None:
    level = PackedLevel(torch.rand(4, 3), torch.tensor([0, 4]))
    with pytest.raises(UsageError, match=r"method\.graph: causal"):
        Rectify(2, 0.05, 0.5, 2, causal=True)(torch.randn(4, 32), level, "test")


def test_a_causal_graph_may_have_gaps() -> None:
    level = Level(torch.rand(2, 3, 3), torch.tensor([0, -1, 1, -1, 2]))
    x = torch.randn(2, 5, 4)
    y = Rectify(2, 0.05, 0.5, 2, causal=True)(x, level, "test")
    assert torch.equal(y[:, [0, 1, 3]], x[:, [0, 1, 3]])
