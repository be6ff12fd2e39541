"""Names, shapes and metadata of a safetensors file from its header alone, without torch and without the tensors."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geopeft_cli.errors import AdapterError

_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL"), 1),
}
_LONGEST = 100_000_000  # bytes; the format's own limit for a header


@dataclass(frozen=True)
class Header:
    """Shapes by tensor name, the string pairs of the header, and the size of the file in bytes."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]
    size: int

    def count(self, name: str) -> int:
        """Number of values in a tensor."""
        return math.prod(self.shapes[name])


def read_header(path: Path) -> Header:
    """Read a header and check that the tensors it promises are in the file.

    Raises:
        AdapterError: missing, truncated, or not a safetensors file.
    """
    if not path.is_file():
        raise AdapterError(f"no file {path}", "Give a run or an adapter directory.")
    size = path.stat().st_size
    damaged = AdapterError(f"{path} is damaged or not a safetensors file", "Copy or make it again.")
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LONGEST + 1
        if length > min(size - 8, _LONGEST):
            raise damaged
        try:
            entries = json.loads(file.read(length))
            metadata = {str(key): str(value) for key, value in entries.pop("__metadata__", {}).items()}
            shapes = {name: _shape(entry) for name, entry in entries.items()}
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise damaged from None
    if 8 + length + end != size:
        raise AdapterError(f"{path} is truncated: {size} bytes of {8 + length + end}", "Copy or make it again.")
    return Header(shapes, metadata, size)


def _shape(entry: dict[str, Any]) -> tuple[int, ...]:
    """The shape in an entry of a header, which must need as many bytes as the entry's place in the file has."""
    shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError
    size = _BYTES.get(entry["dtype"])
    if size is not None and math.prod(shape) * size != end - start:
        raise ValueError
    return shape
