"""The small PTv3 that ships, and the script that made it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from geopeft_cli.assets import pretrain_ptv3_tiny as script
from geopeft_cli.backbones.checkpoint import Checkpoint, load_backbone, read_checkpoint
from geopeft_cli.backbones.files import locate
from geopeft_cli.backbones.ptv3 import PTv3
from geopeft_cli.backbones.scene_checkpoint import scene_settings
from geopeft_cli.contracts import official_state
from geopeft_cli.data.rooms import Rooms
from geopeft_cli.data.scenes import MemoryScenes

LOCATION = "embedded:ptv3_tiny"
MOST_BYTES = 4_000_000


def read(location: str) -> tuple[Checkpoint, PTv3]:
    """A checkpoint and its network, loaded strictly and whole."""
    checkpoint = read_checkpoint(location, "ptv3", PTv3.layout)
    model = PTv3(**scene_settings(checkpoint))
    assert load_backbone(model, checkpoint) == ()
    return checkpoint, model


@pytest.fixture(scope="module")
def rooms() -> MemoryScenes:
    made = Rooms("clean", "train", 2, 0, 400)
    return MemoryScenes([made[index] for index in range(len(made))], made.classes)


def test_the_file_is_whole_and_small() -> None:
    checkpoint, model = read(LOCATION)
    assert model.settings() == script.network()[0].settings()
    assert not checkpoint.head
    assert locate(LOCATION).stat().st_size <= MOST_BYTES


def test_the_log_is_of_this_file() -> None:
    log = [json.loads(line) for line in locate(LOCATION).with_suffix(".jsonl").read_text("utf-8").splitlines()]
    epochs = [record for record in log if "epoch" in record]
    steps = read(LOCATION)[1].get_buffer("embedding.stem.norm.num_batches_tracked")
    assert int(steps) == len(epochs) * -(-script.ROOMS // script.BATCH_SIZE)
    assert [record["domain"] for record in log[len(epochs) :]] == ["clean", "scan"]


def test_batches_hang_on_the_epoch_alone(rooms: MemoryScenes) -> None:
    first, again, later = (list(script.batches(rooms, epoch)) for epoch in (0, 0, 1))
    assert sorted(batch.names for batch in first) == [(name,) for name in rooms.names]
    for one, other in zip(first, again, strict=True):
        assert one.names == other.names
        assert torch.equal(one.scenes.coordinates, other.scenes.coordinates)
        assert torch.equal(one.scenes.features, other.scenes.features)
        assert torch.equal(one.labels, other.labels)
    drawn, anew = (sorted(float(batch.scenes.coordinates.sum()) for batch in part) for part in (first, later))
    assert all(one != other for one, other in zip(drawn, anew, strict=True))


def test_two_runs_write_the_same_file(rooms: MemoryScenes, tmp_path: Path) -> None:
    for name in ("one", "other"):
        torch.manual_seed(0)
        model, task = script.network()
        before = {key: tensor.clone() for key, tensor in official_state(model).items()}
        records = list(script.train(model, task, rooms, epochs=1))
        script.save(model, tmp_path / f"{name}.safetensors")
    assert [record["epoch"] for record in records] == [0]
    assert not torch.equal(before["embedding.stem.conv.weight"], official_state(model)["embedding.stem.conv.weight"])
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()
    stored = official_state(read(str(tmp_path / "other.safetensors"))[1])
    model.half().float()
    assert all(torch.equal(tensor, official_state(model)[name]) for name, tensor in stored.items())


def test_measuring_leaves_the_network_as_it_is(rooms: MemoryScenes) -> None:
    torch.manual_seed(0)
    model, task = script.network()
    before = {key: tensor.clone() for key, tensor in official_state(model).items()}
    found = script.measured(model, task, rooms)
    assert found == script.measured(model, task, rooms)
    assert 0 <= found["miou"] <= found["miou_present"] <= 100
    assert all(torch.equal(tensor, before[name]) for name, tensor in official_state(model).items())
