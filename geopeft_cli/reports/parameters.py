"""Where the parameters of a model or of an adapter are: one row a site. Works on shapes alone, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from geopeft_cli.checkpoint_layout import POINT_HEAD

BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "columns")
_OF_METHODS = (".lora_A.", ".lora_B.", ".bottleneck.", ".most.", ".point_monarch.")
_NEVER_MERGED = {
    "adapter": "there is a GELU in every bottleneck: none can be merged into the weights",
    "prompt": "the keys of a prefix take part in the softmax: it cannot be merged into the weights",
    "point_peft": "nothing of Point-PEFT is linear in the weights: it cannot be merged into them",
}
_FIRST_FACTORS = (".most.blkdiag1", ".monarch_linear.blkdiag1")


@dataclass
class Row:
    """Parameters at one site: those that train and those that do not."""

    site: str
    trainable: int = 0
    frozen: int = 0


@dataclass
class ParameterTable:
    """What ``geopeft inspect`` shows.

    Attributes:
        rows: sites that train anything, in the order of the model, and the frozen rest as one row.
        adapter_bytes: size of the tensor file on disk, ``None`` where there is none yet.
        warnings: dead parameters, structural zeros, merges that are not exact.
    """

    trainable_parameters: int
    total_parameters: int
    rows: list[Row]
    adapter_bytes: int | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Trainable share in percent."""
        return 100.0 * self.trainable_parameters / max(self.total_parameters, 1)

    def to_json(self) -> dict[str, Any]:
        return {
            "trainable_parameters": self.trainable_parameters,
            "total_parameters": self.total_parameters,
            "trainable_percent": round(self.share, 4),
            "adapter_bytes": self.adapter_bytes,
            "sites": [asdict(row) for row in self.rows],
            "warnings": self.warnings,
        }


def site_of(name: str, heads: tuple[str, ...] = ("cls_head_finetune", "fusion")) -> str:
    """The site that a tensor belongs to: the adapted layer, the head as a whole, or the module that holds it."""
    top = name.partition(".")[0]
    if top in heads:
        return top
    if name.startswith(POINT_HEAD):
        return "head for points"
    for mark in _OF_METHODS:
        if mark in name:
            return name[: name.index(mark)]
    return name.rpartition(".")[0] or name


def parameter_table(
    shapes: Mapping[str, tuple[int, ...]], trainable: set[str] | None = None, total: int | None = None
) -> ParameterTable:
    """Count by site.

    Args:
        shapes: of all parameters of a model; or of the tensors of an adapter, with ``total`` from its record.
        trainable: names that train; by default everything but statistics of BatchNorm.
        total: parameters of the whole model, where ``shapes`` is only a part of it.
    """
    rows: dict[str, Row] = {}
    rest = Row("everything else")
    for name, shape in shapes.items():
        if name.rpartition(".")[2] in BUFFERS:
            continue
        trains = trainable is None or name in trainable
        row = rows.setdefault(site_of(name), Row(site_of(name)))
        if trains:
            row.trainable += math.prod(shape)
        else:
            row.frozen += math.prod(shape)
    shown = [row for row in rows.values() if row.trainable]
    rest.frozen = sum(row.frozen for row in rows.values() if not row.trainable)
    counted = sum(row.trainable + row.frozen for row in rows.values())
    if total is not None:
        rest.frozen += total - counted
    if rest.frozen:
        shown.append(rest)
    trained = sum(row.trainable for row in shown)
    return ParameterTable(trained, total if total is not None else counted, shown)


def structure_warnings(shapes: Mapping[str, tuple[int, ...]], method: Mapping[str, Any]) -> list[str]:
    """What the structure of a method's tensors implies that a user may not expect.

    Args:
        shapes: by name.
        method: the ``method`` section of the recipe.
    """
    found = []
    factors = {name: shape for name, shape in shapes.items() if name.endswith(_FIRST_FACTORS)}
    sparse = {shape: min(1.0, shape[1] / shape[0]) for shape in factors.values() if shape[0] > shape[1]}
    for (blocks, inner, _), fraction in sorted(sparse.items()):
        found.append(
            f"{blocks} Monarch blocks of inner width {inner} leave {100 * (1 - fraction):.0f} % of the update at zero "
            "by structure"
        )
    if method.get("name") in _NEVER_MERGED:
        found.append(_NEVER_MERGED[method["name"]])
    elif method.get("variant") == "released":
        found.append("the released form of MoST is not linear: it cannot be merged into the weights")
    elif any(".most." in name for name in shapes) and _final_lam(method) and method.get("sides", 0):
        found.append("lam is not 0: no exact fold into the weights alone exists; merge keeps the geometric remainder")
    return found


def _final_lam(method: Mapping[str, Any]) -> float:
    """lam at the end of training."""
    schedule = method.get("lam_schedule")
    return float(schedule["to"] if schedule else method.get("lam", 0.0))
