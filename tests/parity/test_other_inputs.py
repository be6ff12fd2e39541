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
    config: Mapping[str, Any] | None = None,
) -> None:
    route = {"model": "model", "files": ["io.safetensors"], "shapes": ["shapes.json"], "fill_name": "same"}
    meta = {"schema": 1, "set": name, "inputs": inputs, "outputs": rules, "notes": [notes]}
    meta["config"] = {"cases": cases} | dict(config or {})
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


def released_smoothing(f: Array, a: Array, centers: Array, g: Array, bypass: int, k: int, eps: float) -> Array:
    """KR(f; a) of the code released with MoST, whose correction averages over the batch; (B, T, C)."""
    y, spatial = f.copy(), a[:, bypass:]
    for one, xyz in enumerate(centers):
        for i in range(len(xyz)):
            distance = np.linalg.norm(xyz - xyz[i], axis=1)
            nearest = [j for j in np.argsort(distance) if j != i][:k]
            weights = 1 / (distance[nearest] + eps)
            smooth = weights / weights.sum() @ (f[one, [bypass + j for j in nearest]] - f[one, bypass + i])
            y[one, bypass + i] += g * smooth / np.sqrt((smooth**2).mean() + 1e-6)
    y[:, bypass:] += spatial.mean(0) + spatial.mean(1, keepdims=True)
    return y


@pytest.mark.parametrize("first", [True, False], ids=["sequence first", "batch first"])
def test_released_point_monarch(first: bool, tmp_path: Path) -> None:
    case, dim, bypass, count, k, eps = "small.t3", 12, 3, 10, 3, 0.1
    shapes = {f"one.{case}.{name}": (dim,) for name in ("knorm.weight", "ln.weight", "ln.bias")}
    shapes |= {f"point_monarch.spatial_smooth_{side}.knorm.weight": (dim,) for side in ("in", "out")}
    shapes |= {f"point_monarch.monarch_linear.blkdiag{index}": (3, 4, 4) for index in (1, 2)}
    shapes |= {"point_monarch.monarch_linear.bias": (dim,)}
    w = {name: fill(name, shape).astype(np.float64) for name, shape in shapes.items()}
    centers = cloud("centers of released", 2, count).astype(np.float64)
    inputs: dict[str, Any] = {
        f"{name}.center": {"cloud": ["centers of released", 2, count, 3]} for name in (case, "point_monarch")
    }

    inputs[f"{case}.f"], f = drawn("f", 2, bypass + count, dim)
    inputs[f"{case}.rf"], rf = drawn("rf", bypass + count, 2, dim)
    geometry = (w[f"one.{case}.knorm.weight"], bypass, k, eps)
    y = released_smoothing(f, rf.swapaxes(0, 1), centers, *geometry)
    pairs = [(f[[one]], rf[:, [one]].swapaxes(0, 1), centers[[one]]) for one in range(2)]
    alone = np.concatenate([released_smoothing(*pair, *geometry) for pair in pairs])
    without = released_smoothing(f, np.zeros_like(f), centers, *geometry)
    distance = np.linalg.norm(centers[:, :, None] - centers[:, None], axis=-1)
    outputs = {
        f"{case}.y.tokens": y[:, :7],
        f"{case}.y.mean": y.mean(1),
        f"{case}.y.rms": np.sqrt((y**2).mean(-1)),
        f"{case}.y_alone.tokens": alone[:, :5],
        f"{case}.y_rf0.tokens": without[:, bypass : bypass + 2],
        "dist": np.sort(distance)[..., 1 : k + 1],
        "idx": distance.argsort()[..., 1 : k + 1] + count * np.arange(2)[:, None, None],
    }

    shape = (1 + count, 2, dim) if first else (2, 1 + count, dim)
    (inputs["point_monarch.x"], x), (inputs["point_monarch.a"], a) = drawn("x", *shape), drawn("a", *shape)
    first_factor, second_factor = (w[f"point_monarch.monarch_linear.blkdiag{index}"] for index in (1, 2))
    matrix = monarch_matrix(first_factor, second_factor, dim, dim)

    def branch(x: Array, a: Array, centers: Array) -> Array:
        inner, outer = (w[f"point_monarch.spatial_smooth_{side}.knorm.weight"] for side in ("in", "out"))
        hidden = released_smoothing(x, a, centers, inner, 1, 2, eps) @ matrix.T
        return a + released_smoothing(hidden + w["point_monarch.monarch_linear.bias"], a, centers, outer, 1, 2, eps)

    x, a = (stream.swapaxes(0, 1) if first else stream for stream in (x, a))
    r = branch(x, a, centers)
    r_alone = np.concatenate([branch(x[[one]], a[[one]], centers[[one]]) for one in range(2)])
    for name, value in (("r", r[:, :6]), ("r_alone", r_alone[:, :4])):
        outputs[f"point_monarch.{name}.tokens"] = value.swapaxes(0, 1) if first else value
    outputs["point_monarch.r.mean"] = r.mean(1)
    write_set(
        tmp_path,
        "k_rectify",
        [{"case": case, "dim": dim, "bypass": bypass, "k": k, "eps": eps}],
        inputs,
        {name: value.astype(np.int32 if name == "idx" else np.float32) for name, value in outputs.items()},
        {"dist": CLOSE | {"meaning": f"case {case}: distances"}, "idx": {"compare": "set"}, "*": CLOSE},
        shapes,
        config={"point_monarch": {"embed_dim": dim, "nblocks": 3, "k": 2, "bypass": 1, "sequence_first": first}},
    )
    assert_reproduced(tmp_path, 10)
