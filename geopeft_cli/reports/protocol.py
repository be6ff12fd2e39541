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
    voting = evaluation["voting"]
    if voting == "none":
        return "one view, no voting"
    augment = [evaluation["scene_views"]] if voting == "fragments" else evaluation["view_augment"]
    words = votes_in_words(voting, augment, evaluation["views"], evaluation["rounds"])
    if voting == "fragments" and data.get("test_grid"):
        words += f", on a point a voxel of {data['test_grid']:g} m"
    return f"one view; geopeft eval adds voting: {words}"


def votes_in_words(voting: str, augment: Sequence[str], views: int, rounds: int) -> str:
    """Who decides.

    Args:
        voting: as ``evaluation.voting`` has it, but not ``none``.
        augment: what changes the views; of fragments, the name of the views.
        views: in a vote.
        rounds: how many votes there are.
    """
    if voting == "fragments":
        return f"fragments of every scene, views {', '.join(augment)}, sum of the probabilities"
    often = f", {rounds} rounds" if voting == "published" else ""
    return f"{voting}, {views} views with {', '.join(augment) or 'no augmentation'}, mean of the logits{often}"
