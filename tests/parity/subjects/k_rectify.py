"""K-Rectify and the whole Point Monarch branch in their released form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from geopeft_cli.contracts import Level
from geopeft_cli.geometry.neighbors import nearest_neighbors
from geopeft_cli.geometry.smoothing import laplacian
from geopeft_cli.methods.most_released import AdaBias, KRectify, PointMonarch
from parity.golden_set import GoldenSet
from parity.subjects import Output
from parity.tensors import as_tensors, tensors_of_case

FILE = "io.safetensors"
BRANCH = "point_monarch"
MODES = ("batch", "token", "off")


@torch.no_grad()
def run(golden: GoldenSet) -> Iterator[Output]:
    (route,) = golden.routes()
    for case, values in golden.cases().items():
        weights = _alive(tensors_of_case(route.weights, case))
        f, centers, a = _inputs(golden, case, "f", "center", "rf")
        yield from _rectified(golden, case, values, weights, f, centers, a.transpose(0, 1))
    weights = _alive(tensors_of_case(route.weights, BRANCH))
    yield from _branch(golden, golden.config[BRANCH], weights)
    yield from _neighbors(golden)


def _rectified(
    golden: GoldenSet, case: str, values: Mapping[str, Any], weights: Mapping[str, Tensor], f: Tensor, centers: Tensor,
    a: Tensor,
) -> Iterator[Output]:  # fmt: skip
    rectify = KRectify(values["dim"])
    rectify.load_state_dict(weights)
    level = _level(centers, values["bypass"])

    def rectified(rows: slice, a: Tensor, mode: Any) -> Tensor:
        smoothing = laplacian(level.centers[rows], level.slots, values["k"], values["eps"])
        y: Tensor = rectify(f[rows], smoothing, AdaBias(mode)(a[rows], level.slots))
        return y

    together = rectified(slice(None), a, "batch")
    alone = torch.cat([rectified(slice(one, one + 1), a, "batch") for one in range(len(f))])
    yield from _tokens(golden, f"{case}.y.tokens", together)
    yield Output(FILE, f"{case}.y.mean", together.mean(dim=1))
    yield Output(FILE, f"{case}.y.rms", together.square().mean(dim=-1).sqrt())
    yield from _tokens(golden, f"{case}.y_alone.tokens", alone)
    for mode in MODES:
        without = rectified(slice(None), torch.zeros_like(a), mode)
        yield from _tokens(golden, f"{case}.y_rf0.tokens", without[:, values["bypass"] :])


def _branch(golden: GoldenSet, values: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Iterator[Output]:
    axis = 1 if values["sequence_first"] else 0  # of the batch
    centers, *streams = _inputs(golden, BRANCH, "center", "x", "a")
    x, a = (stream.movedim(axis, 0) for stream in streams)
    # the format repeats eps for the cases only
    eps = values.get("eps", next(iter(golden.cases().values()))["eps"])
    branch = PointMonarch(values["embed_dim"], values["nblocks"], values["k"], eps, AdaBias("batch"))
    branch.load_state_dict(weights)
    together = branch(x, a, _level(centers, values["bypass"]))
    ones = (slice(one, one + 1) for one in range(len(x)))
    alone = torch.cat([branch(x[one], a[one], _level(centers[one], values["bypass"])) for one in ones])
    yield Output(FILE, f"{BRANCH}.r.mean", together.mean(dim=1))
    for name, r in (("r", together), ("r_alone", alone)):
        for output in _tokens(golden, f"{BRANCH}.{name}.tokens", r, axis=1 - axis):
            yield output._replace(value=output.value.movedim(0, axis))


def _neighbors(golden: GoldenSet) -> Iterator[Output]:
    """Of the case that the meaning of ``dist`` names, with indices that run through the batch."""
    rule = golden.rule("dist")
    if "dist" not in golden.stored[FILE] or rule is None:
        return
    named = re.search(r"case ([\w.]*\w)", rule["meaning"])
    assert named is not None, "the meaning of dist does not say which case it is of"
    (centers,) = _inputs(golden, named[1], "center")
    k = golden.cases()[named[1]]["k"]
    index, squared = nearest_neighbors(centers, centers, k, exclude_self=True)
    yield Output(FILE, "dist", squared.sqrt())
    yield Output(FILE, "idx", index + centers.shape[1] * torch.arange(len(centers))[:, None, None])


def _inputs(golden: GoldenSet, case: str, *names: str) -> list[Tensor]:
    return list(as_tensors({name: golden.input(f"{case}.{name}") for name in names}).values())


def _alive(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without ``ln``, which no output depends on."""
    return {name: tensor for name, tensor in weights.items() if "ln" not in name.split(".")}


def _level(centers: Tensor, bypass: int) -> Level:
    return Level(centers, torch.arange(-bypass, centers.shape[1]).clamp(min=-1))


def _tokens(golden: GoldenSet, name: str, y: Tensor, axis: int = 1) -> Iterator[Output]:
    """As many tokens from the start of (B, T, C) as were recorded along ``axis``."""
    if name in golden.stored[FILE]:
        yield Output(FILE, name, y[:, : golden.stored[FILE][name].shape[axis]])
