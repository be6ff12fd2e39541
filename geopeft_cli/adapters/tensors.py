"""Writing safetensors files that are the same bytes whenever they hold the same."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file.

    The library puts the metadata in an order that differs from process to process; here it is that of the keys.
    """
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, dict(metadata))
    with path.open("r+b") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(metadata.items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        assert len(text) == length, "the same header in another order"
        file.seek(8)
        file.write(text)
