"""What a recipe does with its data and how it measures, in words, from the plain values of its sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def measured_in_words(data: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """What the figures of a run are measured on, and what voting ``geopeft eval`` adds to them."""
    if data.get("test") == "rooms":
        return f"every point of whole rooms, votes of overlapping blocks in {data['passes']} passes"
    voting, view = evaluation["voting"], "one view of every scene" if "grid" in data else "one view"
    if voting == "none":
        return f"{view}, no voting"
    if voting == "fragments":
        words = votes_in_words(voting, [evaluation["scene_views"]])
        words += f", on a point a voxel of {data['test_grid']:g} m" if data["test_grid"] else ""
    else:
        words = votes_in_words(voting, evaluation["view_augment"], evaluation["views"], evaluation["rounds"])
    return f"{view}; geopeft eval adds voting: {words}"


def votes_in_words(voting: str, augment: Sequence[str], views: int = 0, rounds: int = 1) -> str:
    """Who decides.

    Args:
        voting: as ``evaluation.voting`` has it, but not ``none``.
        augment: what changes the views; of fragments, the name of the views.
        views: in a vote; of fragments it may be left out.
        rounds: how many votes there are.
    """
    if voting == "fragments":
        count = f" ({views} view{'s' * (views != 1)})" if views else ""
        return f"fragments, {', '.join(augment)}{count}, sum of the probabilities"
    often = f", {rounds} rounds" if voting == "published" else ""
    return f"{voting}, {views} views with {', '.join(augment) or 'no augmentation'}, mean of the logits{often}"
