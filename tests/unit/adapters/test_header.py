"""The header reader against safetensors' own, and on files that lie."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from geopeft_cli.adapters.header import read_header
from geopeft_cli.errors import AdapterError

TENSORS = {"a": torch.zeros(3, 4), "b.c": torch.zeros(2, 1, 5, dtype=torch.float16), "scalar": torch.tensor(7)}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, {"format": "pt", "note": "ä"})
    return path


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: list[Any], start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def test_agrees_with_safetensors(stored: Path) -> None:
    header = read_header(stored)
    with safe_open(stored, framework="pt") as file:
        assert header.metadata == file.metadata() == {"format": "pt", "note": "ä"}
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert header.shapes == shapes == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    assert header.size == stored.stat().st_size
    assert [header.count(name) for name in ("a", "b.c", "scalar")] == [12, 10, 1]


def test_a_file_without_metadata_or_tensors(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "x", {}))
    assert (header.shapes, header.metadata) == ({}, {})


def test_every_truncation_is_seen(stored: Path) -> None:
    content = stored.read_bytes()
    for length in [0, 1, 7, 8, 9, 60, len(content) - 200, len(content) - 1]:
        stored.write_bytes(content[:length])
        with pytest.raises(AdapterError, match=r"is (damaged|truncated)") as caught:
            read_header(stored)
        assert str(stored) in caught.value.message
        assert caught.value.hint == "Copy or make it again."


@pytest.mark.parametrize("extra", [b"\0", b"x" * 100])
def test_bytes_behind_the_tensors_are_refused(stored: Path, extra: bytes) -> None:
    stored.write_bytes(stored.read_bytes() + extra)
    with pytest.raises(AdapterError):
        read_header(stored)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001, 1000])
def test_a_header_that_claims_to_be_longer_than_the_file(tmp_path: Path, length: int) -> None:
    with pytest.raises(AdapterError, match="is damaged or not a safetensors file"):
        read_header(write(tmp_path / "x", {"a": entry([1], 0, 4)}, b"\0" * 4, length))


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 200_000,  # would exhaust the recursion of a parser
        b"not json",
        b"\xff\xfe",
        [],
        "text",
        None,
        3,
        {"a": 1},
        {"a": {}},
        {"a": {"shape": [1]}},
        {"a": {"shape": [1], "data_offsets": []}},
        {"a": {"shape": "x", "data_offsets": [0, 4]}},
        {"a": entry([None], 0, 4)},
        {"a": entry([-1], 0, 4)},
        {"a": entry([1], 0, "4")},  # type: ignore[arg-type]
        {"a": entry([1], 0, None)},  # type: ignore[arg-type]
        {"a": entry([1], 0, 4.0)},  # type: ignore[arg-type]
        {"a": entry([1], 0, 400)},
        {"a": entry([1], 0, -8)},
        {"a": entry([1000], 0, 4)},
        {"__metadata__": 5, "a": entry([1], 0, 4)},
        {"__metadata__": [], "a": entry([1], 0, 4)},
    ],
)
def test_lies_are_errors_and_not_tracebacks(tmp_path: Path, header: Any) -> None:
    path = write(tmp_path / "x", header, b"\0" * 4)
    with pytest.raises(AdapterError, match=r"is (damaged|truncated)"):
        read_header(path)


def test_a_pickle_is_not_a_header(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="not a safetensors file"):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "none"
    with pytest.raises(AdapterError, match=f"no file {path}"):
        read_header(path)


def test_needs_no_torch(stored: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from geopeft_cli.adapters.header import read_header; "
        "read_header(Path(sys.argv[1])); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(stored)], check=False, timeout=60).returncode == 0
