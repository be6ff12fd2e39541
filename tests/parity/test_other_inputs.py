"""Sets of a known name with other cases, names and sizes, recorded from the definitions written out in numpy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from parity.check import check
from parity.fill import Array, cloud, fill
from parity.golden_set import GoldenSet

CLOSE = {"compare": "close", "atol": 1e-5, "rtol": 1e-5}


def write_set(
    folder: Path,
    name: str,
    cases: Any,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Array],
    rules: Mapping[str, Any],
    shapes: Mapping[str, Any] | None = None,
    notes: str = "",
) -> None:
    route = {"model": "model", "files": ["io.safetensors"], "shapes": ["shapes.json"], "fill_name": "same"}
    meta = {"schema": 1, "set": name, "config": {"cases": cases}, "inputs": inputs, "outputs": rules, "notes": [notes]}
    meta["weights"] = {"routes": [route] if shapes else []}
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "shapes.json").write_text(json.dumps(shapes))
    save_file({key: np.ascontiguousarray(value) for key, value in outputs.items()}, folder / "io.safetensors")


def assert_reproduced(folder: Path, count: int) -> None:
    results = check(GoldenSet(folder))
    assert [result for result in results if not result.ok] == []
    assert len(results) == count


def drawn(name: str, *shape: int) -> tuple[dict[str, Any], Array]:
    """A standard normal input: its entry in ``meta.json`` and its values in float64."""
    count = int(np.prod(shape))
    entry = {"fill": [name, [count]], "scale": 10.0, "reshape": list(shape), "shape": list(shape)}
    return entry, (fill(name, (count,)) * np.float32(10)).reshape(shape).astype(np.float64)


def monarch_matrix(first: Array, second: Array, inputs: int, outputs: int) -> Array:
    """The dense matrix, entry by entry: o = i b + l, z = r b + l = k q + j (Dao et al., 2022)."""
    b, q, p = first.shape
    s = second.shape[1]
    dense = np.zeros((s * b, b * p))
    for block in range(b):
        for r in range(q):
            k, j = divmod(r * b + block, q)
            dense[block::b, k * p : (k + 1) * p] += np.outer(second[block, :, r], first[k, j]).astype(np.float64)
    return dense[:outputs, :inputs]


@pytest.mark.parametrize(("inputs", "outputs", "blocks"), [(30, 12, 4), (10, 21, 3)])
def test_monarch_layer(inputs: int, outputs: int, blocks: int, tmp_path: Path) -> None:
    case, p, s = "layer.2", -(-inputs // blocks), -(-outputs // blocks)
    shapes = {"blkdiag1": (blocks, min(p, s), p), "blkdiag2": (blocks, s, min(p, s)), "bias": (outputs,)}
    names = {key: f"a.b.{case}.{key}" for key in shapes}
    w = {key: fill(names[key], shape) for key, shape in shapes.items()}
    (x_entry, x), (g_entry, g) = drawn("some x", 3, inputs), drawn("some g", 3, outputs)
    matrix = monarch_matrix(w["blkdiag1"], w["blkdiag2"], inputs, outputs)
    recorded = {
        "y": x @ matrix.T + w["bias"],
        "dx": g @ matrix,
        "dense.rows2": matrix[:2],
        "dense.colsum": matrix.sum(0),
    }

    side, rank = 8, 2
    project_entry, target = drawn("some matrix", side, side)
    product = np.zeros_like(target)
    for row in range(2):
        for column in range(2):
            tile = np.s_[row::2, column * side // 2 : (column + 1) * side // 2]
            u, values, v = np.linalg.svd(target[tile])
            product[tile] = u[:, :rank] * values[:rank] @ v[:rank]
    recorded_all = {f"{case}.{key}": value for key, value in recorded.items()}
    recorded_all |= {"little.rows5": product[:5]}
    write_set(
        tmp_path,
        "monarch_linear",
        [{"case": case, "nblocks": blocks}],
        {f"{case}.x": x_entry, f"{case}.g": g_entry, "little.dense": project_entry},
        recorded_all,
        {"*": CLOSE},
        {names[key]: shape for key, shape in shapes.items()},
        "project(M,2,2,rank 2)",
    )
    assert_reproduced(tmp_path, 5)


def test_point_monarch_layer(tmp_path: Path) -> None:
    case, inputs, outputs, bypass, tokens, neighbors, eps, lam = "wide_in", 20, 12, 1, 9, 3, 0.1, 0.3
    shapes = {"base.weight": (12, 20), "base.bias": (12,), "blkdiag1": (4, 3, 5), "blkdiag2": (4, 3, 3), "bias": (12,)}
    w = {key: fill(f"second.{case}.{key}", shape) for key, shape in shapes.items()}
    matrix = monarch_matrix(w["blkdiag1"], w["blkdiag2"], inputs, outputs)
    entry, x = drawn("tokens", 3, bypass + tokens, inputs)
    centers = cloud("centers", 3, tokens).astype(np.float64)
    rectified = []
    for one, xyz in zip(x, centers, strict=True):
        smoothing = np.zeros((bypass + tokens, bypass + tokens))
        for i in range(tokens):
            distance = np.linalg.norm(xyz - xyz[i], axis=1)
            nearest = [j for j in np.argsort(distance) if j != i][:neighbors]
            weights = 1 / (distance[nearest] + eps)
            smoothing[bypass + i, [bypass + j for j in nearest]] = weights / weights.sum()
        k = np.eye(bypass + tokens) + lam * smoothing
        rectified.append(k @ k @ one)
    constant = w["base.bias"].astype(np.float64) + w["bias"]
    y = x @ w["base.weight"].T.astype(np.float64) + np.stack(rectified) @ matrix.T + constant
    merged = x @ (w["base.weight"] + matrix).T + constant
    values = {"case": case, "nblocks": 4, "lam": lam, "k": neighbors, "eps": eps, "bypass": bypass, "tokens": tokens}
    write_set(
        tmp_path,
        "most_paper",
        [values],
        {f"{case}.center": {"cloud": ["centers", 3, tokens, 3]}, f"{case}.x": entry},
        {f"{case}.y": y[:, :7], f"{case}.y.mean": y.mean(1), f"{case}.merged_K_identity": merged[:, :5]},
        {"*": CLOSE},
        {f"second.{case}.{key}": shape for key, shape in shapes.items()},
    )
    assert_reproduced(tmp_path, 3)


def test_sampling_and_neighbors(tmp_path: Path) -> None:
    case, count, k = "near.origin", 25, 6
    points = cloud("a small cloud", 3, 60) * np.float32(0.1)
    picks = {"fps": [], "fps_without_quirk": []}
    for name, rows in picks.items():
        for xyz in points.astype(np.float64):
            distance = np.where((xyz**2).sum(1) <= 1e-3, -1.0, np.inf) if name == "fps" else np.full(60, np.inf)
            row = [0]
            while len(row) < count:
                distance = np.minimum(distance, ((xyz - xyz[row[-1]]) ** 2).sum(1))
                row.append(int(distance.argmax()))
            rows.append(row)
    assert picks["fps"] != picks["fps_without_quirk"]
    centers = np.take_along_axis(points, np.array(picks["fps"])[..., None], axis=1)
    distance = np.linalg.norm(centers[:, :, None].astype(np.float64) - points[:, None], axis=-1)
    outputs = {f"{case}.{name}": np.array(rows, np.int32) for name, rows in picks.items()}
    outputs |= {
        f"{case}.knn{k}": distance.argsort(-1)[..., :k][..., ::-1],
        f"{case}.knn{k}_dist": np.sort(distance)[..., :k],
    }
    write_set(
        tmp_path,
        "ops_fps_knn",
        {case: {"n": 60, "m": count}},
        {case: {"cloud": ["a small cloud", 3, 60, 3], "scale": 0.1}},
        outputs,
        {"*.fps*": {"compare": "exact"}, f"*.knn{k}": {"compare": "set"}, "*_dist": CLOSE},
    )
    assert_reproduced(tmp_path, 4)
