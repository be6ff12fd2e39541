"""Reading checkpoint files: every container of the field, numpy metrics, damage, and files that try to run code."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from backbones.official_files import Attack, pretrained, raw_pickle, renamed_in_pickle, rewritten
from geopeft_cli.backbones.files import ASIDE, read_aside, read_metadata, read_tensors
from geopeft_cli.errors import CheckpointError

SMALL = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(5)}
OTHER = {"wrong.weight": torch.zeros(1)}


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_is_kept_for_unmerging_is_read_apart(tmp_path: Path) -> None:
    save_file({**SMALL, **{f"{ASIDE}base.{name}": 2 * t for name, t in SMALL.items()}}, tmp_path / "a.safetensors")
    assert same(read_tensors(tmp_path / "a.safetensors"), SMALL)
    assert same(read_aside(tmp_path / "a.safetensors"), {f"base.{name}": 2 * t for name, t in SMALL.items()})


@pytest.mark.parametrize(
    "content",
    [
        SMALL,
        {"state_dict": SMALL},
        {"model_state_dict": SMALL, "optimizer_state_dict": OTHER, "epoch": 3},
        {"base_model": SMALL, "optimizer": {"state": {0: OTHER}}, "metrics": {"acc": 1.0}, "best_metrics": {}},
        {"base_model": OTHER, "model": SMALL},
        {"model": None, "base_model": SMALL},
        {**SMALL, "epoch": 3, "note": "text"},
    ],
    ids=["bare", "state_dict", "model_state_dict", "base_model", "model first", "empty model", "bare with values"],
)
@pytest.mark.parametrize("old_format", [False, True])
def test_containers(tmp_path: Path, content: dict[str, Any], old_format: bool) -> None:
    path = saved(tmp_path / "file.pth", content, _use_new_zipfile_serialization=not old_format)
    assert zipfile.is_zipfile(path) != old_format
    assert same(read_tensors(path), SMALL)
    assert read_metadata(path) == {}


@pytest.mark.parametrize("name", ["file.safetensors", "file.pth"])
def test_safetensors_by_content_too(tmp_path: Path, name: str) -> None:
    save_file(SMALL, tmp_path / name, {"key": "value"})
    assert same(read_tensors(tmp_path / name), SMALL)
    assert read_metadata(tmp_path / name) == {"key": "value"}
    save_file(SMALL, tmp_path / name)
    assert read_metadata(tmp_path / name) == {}


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.int32, np.bool_])
def test_numpy_scalars_of_both_generations(tmp_path: Path, module: str, kind: type[np.generic]) -> None:
    content = {"base_model": SMALL, "metrics": {"acc": kind(1)}}
    path = saved(tmp_path / "file.pth", content)
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    written = next(m for m in ("numpy._core.multiarray", "numpy.core.multiarray") if f"c{m}\n".encode() in pickled)
    old, new = (f"c{m}\nscalar\n".encode() for m in (written, module))
    assert old in pickled
    copy = rewritten(path, tmp_path / "copy.pth", lambda data: data.replace(old, new))
    assert same(read_tensors(copy), SMALL)


def test_tensors_of_a_gpu_come_to_the_cpu(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", {"base_model": SMALL, "metrics": {"acc": torch.tensor(0.5)}})
    tagged = rewritten(path, tmp_path / "gpu.pth", lambda data: renamed_in_pickle(data, "cpu", "cuda:3"))
    found = read_tensors(tagged)
    assert same(found, SMALL)
    assert {tensor.device.type for tensor in found.values()} == {"cpu"}


def test_parameters_are_read_as_plain_tensors(tmp_path: Path) -> None:
    found = read_tensors(saved(tmp_path / "file.pth", {"model": {"weight": nn.Parameter(torch.ones(2))}}))
    assert not found["weight"].requires_grad


@pytest.mark.parametrize("content", [{}, {"epoch": 1}, [torch.zeros(1)], torch.zeros(2), {"model": {}}, 7, "text"])
def test_a_file_without_a_state_dict(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CheckpointError, match="holds no tensors") as caught:
        read_tensors(saved(tmp_path / "file.pth", content))
    assert "model, base_model, model_state_dict, state_dict" in str(caught.value.hint)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("form", ["bare", "zip", "old", "nested"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, protocol: int, form: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "file.pth"
    attack = Attack(f"touch {marker}")
    if form == "bare":
        path.write_bytes(raw_pickle(attack, protocol))
    elif form == "nested":
        torch.save({"base_model": SMALL, "metrics": {"acc": attack}}, path, pickle_protocol=protocol)
    else:
        torch.save(attack, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path)
    assert not marker.exists()
    assert str(path) in caught.value.message
    if protocol == 2:
        assert "wants to run" in caught.value.message
        assert "system on loading; nothing of it was run" in caught.value.message


def test_the_attack_would_work_on_a_trusting_reader(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", Attack(f"touch {tmp_path / 'ran'}"))
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a",
        b"hello world\n",
        b'{"a": 1}',
        b"<html><body>404</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n",
        b"PK\x03\x04",
        b"PK\x05\x06" + bytes(18),
        b"\x80\x02}.",
        b"\x80\x04\x95",
        bytes(range(256)),
        bytes(100),
    ],
)
@pytest.mark.parametrize("name", ["file.pth", "file.safetensors"])
def test_files_of_something_else(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_tensors(tmp_path / name)
    assert str(tmp_path / name) in caught.value.message
    assert caught.value.hint


def as_bytes(form: str, tmp_path: Path) -> bytes:
    if form == "safetensors":
        save_file(SMALL, tmp_path / "whole.safetensors")
        return (tmp_path / "whole.safetensors").read_bytes()
    buffer = io.BytesIO()
    torch.save({"base_model": SMALL}, buffer, _use_new_zipfile_serialization=form == "zip")
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_cut_anywhere_it_is_named_as_damaged(tmp_path: Path, form: str) -> None:
    whole = as_bytes(form, tmp_path)
    path = tmp_path / ("cut.safetensors" if form == "safetensors" else "cut.pth")
    for length in range(0, len(whole), max(1, len(whole) // 200)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_tensors(path)


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_flipped_bytes_never_surprise(tmp_path: Path, form: str) -> None:
    whole, draw = as_bytes(form, tmp_path), random.Random(0)
    path = tmp_path / ("flipped.safetensors" if form == "safetensors" else "flipped.pth")
    refused = 0
    for _ in range(300):
        flipped = bytearray(whole)
        for _ in range(draw.choice((1, 4))):
            flipped[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(flipped)
        try:
            read_tensors(path)
        except CheckpointError:
            refused += 1
    assert refused > 20


def test_a_whole_pre_training_file(tmp_path: Path) -> None:
    tensors = pretrained("module.")
    path = saved(tmp_path / "pretrain.pth", {"base_model": tensors, "metrics": {"acc": np.float64(0.9)}, "epoch": 300})
    assert same(read_tensors(path), tensors)
