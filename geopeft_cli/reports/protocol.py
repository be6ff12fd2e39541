"""What a recipe does with its data, in words, from the plain values of its section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def prepared_in_words(data: Mapping[str, Any]) -> str:
    """How clouds or scenes are prepared."""
    if "grid" not in data:
        return f"{data['points']} points, sampling {data['sampling']}, normalize {data['normalize']}"
    scale = f", coordinates x {data['scale']:g}" if data["scale"] != 1 else ""
    return f"voxels of {data['grid']:g} m{scale}, features {' + '.join(data['features'])}"


def augmented_in_words(data: Mapping[str, Any]) -> str:
    """What changes them in training."""
    if "grid" not in data:
        return " + ".join(data["augment"]) or "none"
    words = [data["augment"]]
    if data["augment"] == "indoor":
        words += [f"dropout {data['dropout']['share']:g}", *(["elastic distortion"] if data["elastic"] else [])]
    if data["augment"] != "lidar":
        words.append(f"crops of {data['crop']['voxels']:,} voxels")
    if data["mix3d"]:
        words.append(f"Mix3D {data['mix3d']['probability']:g}")
    return " + ".join(words)
