"""The deterministic tensors, pinned to the last bit, and the ways in which a set uses them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from parity.fill import cloud, fill
from parity.golden_set import GoldenSet


@pytest.mark.parametrize(
    ("name", "shape", "digest"),
    [
        ("blocks.0.attn.qkv.weight", (6, 4), "ec64775e38c8e784"),
        ("conv.weight", (4, 3, 2), "549e1c2d18e0d6b5"),
        ("norm.weight", (5,), "5b5b6a1f1be4d301"),
        ("norm.bias", (5,), "19a7521237465659"),
        ("bn.running_var", (5,), "4f08a0c820ecc5a7"),
        ("cls_token", (1, 1, 6), "7ab7b72a4c713a2a"),
        ("gate.weight", (), "0e55f993cc46e635"),
    ],
)
def test_every_rule_to_the_last_bit(name: str, shape: tuple[int, ...], digest: str) -> None:
    tensor = fill(name, shape)
    assert (tensor.dtype, tensor.shape) == (np.float32, shape)
    assert hashlib.sha256(tensor.tobytes()).hexdigest()[:16] == digest


def test_counters_are_integer_zeros() -> None:
    counter = fill("bn.num_batches_tracked", ())
    assert (counter.dtype, counter.shape, int(counter)) == (np.int64, (), 0)


def test_clouds_fill_the_unit_ball() -> None:
    points = cloud("a", 2, 5000, 5)
    radius = np.linalg.norm(points[..., :3], axis=-1)
    assert points.dtype == np.float32
    assert radius.max() < 1 + 1e-6
    assert np.median(radius) == pytest.approx(0.5 ** (1 / 3), abs=0.01)
    assert (points[..., 3:].min(), points[..., 3:].max()) == pytest.approx((0, 1), abs=1e-3)
    np.testing.assert_allclose(points[0, 0], [0.55927819, -0.14557108, -0.27624902, 0.45737255, 0.56928384], rtol=1e-6)


def test_routes_inputs_and_overrides(tmp_path: Path) -> None:
    meta = {
        "schema": 1,
        "set": "any",
        "outputs": {},
        "config": {"width": 2},
        "small": {"width": 1},
        "inputs": {
            "bank": {"fill": ["bank", [3, 4]], "columns": [1, 3], "scale": 2.0, "unit_columns": True},
            "flat": {"fill": ["flat", [6]], "scale": 10.0, "reshape": [2, 3]},
        },
        "weights": {
            "routes": [
                {
                    "model": "one",
                    "files": ["io.safetensors"],
                    "shapes": ["keys.json#inner", "more.json"],
                    "fill_name": "map.json",
                    "extra": {"net.head": [2]},
                    "strip_prefix": "net.",
                    "config": "small",
                }
            ],
            "overrides": {"o": [{"match": "net.a*", "scale": 0.5}, {"match": "*", "add": 1.0}]},
        },
    }
    for file, content in (
        ("meta.json", meta),
        ("keys.json", {"inner": {"net.a": [3]}}),
        ("more.json", {"net.b": [2]}),
        ("map.json", {"net.a": "other"}),
    ):
        (tmp_path / file).write_text(json.dumps(content))
    golden = GoldenSet(tmp_path)
    bank = fill("bank", (3, 4))[:, 1:3]
    np.testing.assert_allclose(golden.input("bank"), bank / np.linalg.norm(bank, axis=0), rtol=1e-6)
    np.testing.assert_array_equal(golden.input("flat"), (fill("flat", (6,)) * np.float32(10)).reshape(2, 3))
    ((plain,), (changed,)) = golden.routes(), golden.routes("o")
    assert (plain.name, plain.config) == ("one", {"width": 1})
    expected = {"a": fill("other", (3,)), "b": fill("net.b", (2,)), "head": fill("net.head", (2,))}
    assert plain.weights.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(plain.weights[name], tensor)
        np.testing.assert_array_equal(changed.weights[name], tensor * np.float32(0.5) if name == "a" else tensor + 1)
