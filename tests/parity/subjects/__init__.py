"""What runs our code for each golden set. A new set is a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

from parity.golden_set import GoldenSet


class Output(NamedTuple):
    """A value for a recorded output. One output may come several times, by ways that must all agree with it.

    ``value`` is an array or tensor, or for whole files their json content; ``name`` is then empty.
    """

    file: str
    name: str
    value: Any


Runner = Callable[[GoldenSet], Iterator[Output]]

RUNNERS = {
    "act_scan": "parity.subjects.classifiers:act",
    "act_semseg": "parity.subjects.segmentation:act",
    "gem_small_cfg": "parity.subjects.gem:run",
    "gem_sonata_base": "parity.subjects.gem:run",
    "i2pmae_modelnet": "parity.subjects.point_m2ae:i2p_mae",
    "i2pmae_scan": "parity.subjects.point_m2ae:i2p_mae",
    "k_rectify": "parity.subjects.k_rectify:run",
    "mamba3d_modelnet40": "parity.subjects.mamba3d:run",
    "mamba3d_scanobjectnn": "parity.subjects.mamba3d:run",
    "monarch_linear": "parity.subjects.monarch:run",
    "most_paper": "parity.subjects.most:run",
    "most_pointgpt": "parity.subjects.most_point_gpt:run",
    "ops_fps_knn": "parity.subjects.grouping:run",
    "optim_pointmae_fewshot": "parity.subjects.optimizer:point_mae",
    "optim_pointmae_scan": "parity.subjects.optimizer:point_mae",
    "optim_recon_scan": "parity.subjects.optimizer:recon",
    "peft_interop": "parity.subjects.peft_adapter:run",
    "point_m2ae_modelnet40": "parity.subjects.point_m2ae:point_m2ae",
    "point_m2ae_scanobjectnn": "parity.subjects.point_m2ae:point_m2ae",
    "pointcept_ops": "parity.subjects.pointcept_ops:run",
    "point_m2ae_seg": "parity.subjects.segmentation:point_m2ae",
    "pointbert_modelnet": "parity.subjects.classifiers:point_bert",
    "pointbert_partseg": "parity.subjects.segmentation:point_bert",
    "pointbert_scan": "parity.subjects.classifiers:point_bert",
    "pointgpt_b": "parity.subjects.point_gpt:run",
    "pointgpt_l": "parity.subjects.point_gpt:run",
    "pointgpt_s": "parity.subjects.point_gpt:run",
    "pointmae_modelnet": "parity.subjects.classifiers:point_mae",
    "point_peft_m2ae": "parity.subjects.point_peft:point_m2ae",
    "point_peft_mae": "parity.subjects.point_peft:point_mae",
    "point_peft_modules": "parity.subjects.point_peft:modules",
    "pointgpt_s_seg": "parity.subjects.segmentation:point_gpt",
    "pointmae_partseg": "parity.subjects.segmentation:point_mae",
    "pointmae_scan": "parity.subjects.classifiers:point_mae",
    "pointmamba_scanobjectnn": "parity.subjects.point_mamba:run",
    "ptv3_base": "parity.subjects.scenes:ptv3",
    "recon_modelnet": "parity.subjects.classifiers:recon",
    "recon_partseg": "parity.subjects.segmentation:recon",
    "recon_scan": "parity.subjects.classifiers:recon",
    "sonata_base": "parity.subjects.scenes:sonata",
    "sonata_small_cfg": "parity.subjects.scenes:sonata",
}


def runner(name: str) -> Runner:
    """The function behind a set's name, imported now."""
    module, _, attribute = RUNNERS[name].partition(":")
    found: Runner = getattr(import_module(module), attribute)
    return found
