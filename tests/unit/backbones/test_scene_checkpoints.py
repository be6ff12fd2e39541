"""Checkpoints of scene networks: every kind of file, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from backbones.scenes import CHANNELS, network, scenes
from geopeft_cli.backbones import scene_backbone_class
from geopeft_cli.backbones.checkpoint import Checkpoint, load_backbone, load_head, read_checkpoint
from geopeft_cli.backbones.scene_checkpoint import load_head_file, scene_settings
from geopeft_cli.backbones.scene_transformer import SceneTransformer
from geopeft_cli.contracts import official_state
from geopeft_cli.errors import CheckpointError
from geopeft_cli.tasks.voxel_segmentation import VoxelSegmentation
from geopeft_cli.verbs.inspect import inspect_file

State = dict[str, Tensor]
HEAD = ("seg_head.weight", "seg_head.bias")


def config_of(model: SceneTransformer) -> dict[str, Any]:
    """The official words for the settings of a network."""
    parts = {"channels": "widths", "depths": "depths", "num_head": "heads", "patch_size": "patch_size"}
    words = {f"enc_{word}": name for word, name in parts.items()}
    words |= {f"dec_{word}": f"decoder_{name}" for word, name in parts.items()}
    words |= {"stride": "stride", "order": "curves", "in_channels": "in_channels"}
    fixed = {"mlp_ratio": 4, "qkv_bias": True, "layer_scale": None, "pre_norm": True, "enable_rpe": False}
    return {**fixed, **{word: getattr(model, name) for word, name in words.items()}, "drop_path": 0.3}


def without_head(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name not in HEAD}


def trained(state: State, prefix: str = "") -> dict[str, Any]:
    """A file of Pointcept's trainer."""
    names = {name: name if name in HEAD else f"backbone.{name}" for name in state}
    content = {f"{prefix}{names[name]}": tensor for name, tensor in state.items()}
    return {"epoch": 3, "state_dict": content, "optimizer": {"state": {}}, "best_metric_value": 0.7}


def pretrained(state: State) -> dict[str, Any]:
    """A file of Sonata's pre-training, with a teacher whose weights are the student's negative."""
    content = {}
    for branch, sign in (("student", 1), ("teacher", -1)):
        own = {f"backbone.{name}": sign * tensor for name, tensor in without_head(state).items()}
        own |= {"mask_head.weight": torch.ones(2, 2), "unmask_head.weight": torch.ones(2, 2)}
        content |= {f"module.{branch}.{name}": tensor for name, tensor in own.items()}
    return {"epoch": 3, "state_dict": content, "optimizer": {}}


def written(folder: Path, content: Any) -> str:
    torch.save(content, folder / "model.pth")
    return str(folder / "model.pth")


def read(location: str, kind: str = "sonata") -> Checkpoint:
    return read_checkpoint(location, kind, scene_backbone_class(kind).layout)


def rebuilt(checkpoint: Checkpoint, **settings: Any) -> SceneTransformer:
    kind = scene_backbone_class(checkpoint.identity.backbone or "")
    model = kind(**{**scene_settings(checkpoint), **settings})
    assert isinstance(model, SceneTransformer)
    load_backbone(model, checkpoint)
    return model.eval()


def features(model: SceneTransformer) -> Tensor:
    with torch.no_grad():
        return model.encode(scenes()).features


FILES: dict[str, Callable[[SceneTransformer, State, Path], str]] = {
    "sonata.pth": lambda model, state, folder: written(
        folder, {"config": config_of(model), "state_dict": without_head(state)}
    ),
    "trainer": lambda model, state, folder: written(folder, {"config": config_of(model), **trained(state)}),
    "trainer on several devices": lambda model, state, folder: written(
        folder, {"config": config_of(model), **trained(state, "module.")}
    ),
    "pre-training": lambda model, state, folder: written(folder, {"config": config_of(model), **pretrained(state)}),
}


def hub(model: SceneTransformer, state: State, folder: Path) -> str:
    save_file(without_head(state), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config_of(model)))
    return str(folder / "model.safetensors")


@pytest.mark.parametrize("file", [*FILES, "hub"])
def test_every_kind_of_file_rebuilds_the_network(file: str, tmp_path: Path) -> None:
    model = network()
    checkpoint = read((FILES | {"hub": hub})[file](model, official_state(model), tmp_path))
    assert torch.equal(features(rebuilt(checkpoint)), features(model))
    assert checkpoint.identity.stage == ("voxel_classifier" if file.startswith("trainer") else "pretrained")
    assert checkpoint.unused == ()


@pytest.mark.parametrize("kind", ["sonata_decoder", "ptv3"])
def test_decoder_and_head(kind: str, tmp_path: Path) -> None:
    model = network(kind)
    checkpoint = read(
        written(tmp_path, {"config": config_of(model), **trained(official_state(model))}), kind.split("_")[0]
    )
    again = rebuilt(checkpoint)
    assert again.settings() == model.settings()
    VoxelSegmentation(["a", "b", "c"]).attach(again)
    load_head(again, checkpoint)
    with torch.no_grad():
        assert torch.equal(again.eval()(scenes()), model(scenes()))


def test_a_head_alone(tmp_path: Path) -> None:
    model, other = network(), network()
    head = {name: tensor + 1 for name, tensor in official_state(model).items() if name in HEAD}
    location = written(tmp_path, {"config": {"backbone_out_channels": 36, "num_classes": 3}, "state_dict": head})
    load_head_file(other, location)
    assert all(torch.equal(official_state(other)[name], tensor) for name, tensor in head.items())
    load_head_file(other, written(tmp_path, trained(official_state(model))))
    assert all(torch.equal(official_state(other)[name], official_state(model)[name]) for name in HEAD)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda head: head.pop("seg_head.bias"), r"a head of seg_head.weight \(3, 36\), the network one of"),
        (lambda head: head["seg_head.bias"].fill_(torch.nan), "not finite"),
        (lambda head: (head.clear(), head.update(weight=torch.ones(2))), "has no head"),
    ],
)
def test_heads_that_do_not_fit(change: Callable[[State], Any], reason: str, tmp_path: Path) -> None:
    head = {name: tensor.clone() for name, tensor in official_state(network()).items() if name in HEAD}
    change(head)
    with pytest.raises(CheckpointError, match=reason):
        load_head_file(network(), written(tmp_path, head))


def test_of_student_and_teacher_the_student_unless_asked(tmp_path: Path) -> None:
    model = network()
    location = written(tmp_path, pretrained(official_state(model)))
    kind = scene_backbone_class("sonata")
    student = read_checkpoint(location, "sonata", kind.layout)
    teacher = read_checkpoint(location, "sonata", replace(kind.layout, branch="teacher"))
    assert student.backbone.keys() == teacher.backbone.keys() == without_head(official_state(model)).keys()
    name = "embedding.stem.linear.weight"
    assert torch.equal(student.backbone[name], -teacher.backbone[name])
    assert torch.equal(student.backbone[name], official_state(model)[name])


@pytest.mark.parametrize("in_file", [True, False])
def test_the_mask_token_may_be_there_or_not(in_file: bool, tmp_path: Path) -> None:
    model = network(mask_token=in_file)
    checkpoint = read(written(tmp_path, without_head(official_state(model))))
    assert rebuilt(checkpoint, heads=model.heads, patch_size=16).settings()["mask_token"] == in_file
    other = type(model)(**{**model.settings(), "mask_token": not in_file})
    assert load_backbone(other, checkpoint) == (() if in_file else ("embedding.mask_token",))
    assert torch.equal(features(other.eval()), features(model))


def test_a_decoder_starts_fresh_where_the_file_has_none(tmp_path: Path) -> None:
    model = network()
    checkpoint = read(written(tmp_path, trained(official_state(model))))
    whole = type(model)(**network("sonata_decoder").settings())
    fresh = load_backbone(whole, checkpoint)
    assert fresh == tuple(name for name in official_state(whole) if name.startswith("dec."))
    assert len(fresh) > 20


def test_heads_are_of_16_channels_where_nothing_tells(tmp_path: Path) -> None:
    model = network(widths=(16, 32, 48), heads=(1, 2, 3))
    settings = scene_settings(read(written(tmp_path, without_head(official_state(model)))))
    assert settings == {"widths": (16, 32, 48), "depths": (3, 1, 1), "in_channels": CHANNELS, "mask_token": True}
    assert type(model)(**settings).heads == (1, 2, 3)


def edited(change: Callable[[State], Any]) -> State:
    state = without_head(official_state(network()))
    change(state)
    return state


BLOCK = "enc.enc1.block0"
KERNEL, BIAS = f"{BLOCK}.cpe.0.weight", f"{BLOCK}.attn.proj.bias"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop(f"{BLOCK}.mlp.0.fc1.bias"), f"missing: {BLOCK}.mlp.0.fc1.bias"),
        (lambda state: state.update(extra=torch.ones(1)), "unexpected: extra"),
        (lambda state: state.update({BIAS: torch.ones(3)}), r"of another shape: .*proj.bias \(3,\)"),
        (lambda state: state[f"{BLOCK}.norm2.0.weight"].fill_(torch.nan), f"not finite: {BLOCK}.norm2.0.weight"),
        (
            lambda state: state.update({KERNEL: state[KERNEL].permute(1, 2, 3, 4, 0)}),
            "layout of spconv before 2.2",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change: Callable[[State], Any], reason: str, tmp_path: Path) -> None:
    checkpoint = read(written(tmp_path, edited(change)))
    with pytest.raises(CheckpointError, match=reason):
        load_backbone(network().__class__(**network().settings()), checkpoint)


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["backbone.enc.enc0.block0.norm1.0.norm.0.weight", "embedding_table.weight"], "PTv3-PPT"),
        (["backbone.enc.base_model.model.enc0.block0.attn.qkv.lora_A.default.weight"], "a LoRA run of Pointcept"),
        (["seg_head.weight", "seg_head.bias"], "a segmentation head without its network"),
        (["backbone.enc.enc0.block0.norm1.0.weight", "backbone.embedding.stem.conv.weight"], "it looks like PTv3\n"),
    ],
)
def test_other_files_say_what_they_are(names: list[str], title: str, tmp_path: Path) -> None:
    location = written(tmp_path, {"state_dict": {name: torch.ones(2, 2) for name in names}})
    with pytest.raises(CheckpointError, match=title):
        read(location)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layer_scale": 0.1}, "layer_scale: 0.1, which is not supported"),
        ({"enable_rpe": True}, "enable_rpe: True, which is not supported"),
        ({"enc_channels": [8, 12, 32]}, "says enc_channels"),
        ({"in_channels": 9}, "says in_channels: 9, and its tensors have 5"),
    ],
)
def test_configurations_that_do_not_fit(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    model = network()
    content = {"config": {**config_of(model), **change}, "state_dict": without_head(official_state(model))}
    checkpoint = read(written(tmp_path, content))
    with pytest.raises(CheckpointError, match=reason):
        scene_settings(checkpoint)


def test_inspect_shows_what_loads_and_the_license(tmp_path: Path) -> None:
    model = network()
    content = {"config": config_of(model), "state_dict": official_state(model)}
    facts = inspect_file(Path(written(tmp_path, content))).facts
    assert facts["network"] == "Sonata"
    assert facts["loads"] == "yes, as sonata; has a head for 3 classes"
    assert facts["license"].startswith("CC-BY-NC-4.0")
