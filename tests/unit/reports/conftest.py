"""A run by hand, with names that no page may take for its own markup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from geopeft_cli.reports.mistakes import Mistake
from geopeft_cli.reports.overlaps import CategoryScore
from geopeft_cli.reports.parameters import ParameterTable, Row
from geopeft_cli.reports.run_page import RunFacts

HOSTILE = '<script>alert("1")</script>'
CLASSES = ("cup", HOSTILE, "a & b")
RECIPE: dict[str, Any] = {
    "name": "mine <b>",
    "description": "",
    "seed": 5,
    "data": {
        "format": "folder",
        "root": "/scans/<img src=x>",
        "points": 64,
        "normalize": "unit_sphere",
        "sampling": "random",
        "augment": [],
    },
    "backbone": {"name": "point_mae"},
    "method": {"name": "lora"},
    "task": {"name": "classification"},
    "training": {
        "epochs": 3,
        "batch_size": 16,
        "lr": 0.001,
        "schedule": "cosine",
        "weight_decay": 0.05,
        "precision": "fp32",
        "select": "last",
    },
    "evaluation": {"voting": "none", "views": 10, "rounds": 299, "view_augment": ["scale_translate"]},
    "published": [{"metric": "accuracy", "value": 90.5, "source": "a <i>paper</i>", "protocol": "best on test"}],
}


@pytest.fixture
def run_facts() -> Callable[..., RunFacts]:
    """``run_facts(**changes)``: three classes; a cloud of the second is taken for the first."""
    points = np.random.default_rng(0).uniform(-3, 5, (64, 3))
    rates = [0.0, 1e-3, 5e-4]
    records = [
        {
            "epoch": e,
            "lr": rates[e],
            "train_loss": 2.0 - e,
            "train_accuracy": 50.0 + e,
            "validation": {"accuracy": 40.0},
        }
        for e in range(3)
    ]
    values: dict[str, Any] = {
        "recipe": RECIPE,
        "recipe_text": "name: mine <b>\n",
        "selection": {"epoch": 2, "text": "last of 3 epochs"},
        "records": [*records, {"finished": True}],
        "metrics": {"test": {"accuracy": 80.0}, "validation": {"accuracy": 40.0}},
        "clouds": 5,
        "classes": CLASSES,
        "confusion": [[2, 0, 0], [1, 1, 0], [0, 0, 1]],
        "is_dense": False,
        "parameters": ParameterTable(
            10, 100, [Row("head <x>", 10, 0), Row("everything else", 0, 90)], 4000, ["odd <y>"]
        ),
        "environment": {"torch": "2.0", "device": "cpu"},
        "mistakes": [Mistake("/scans/<1>.ply", f"{HOSTILE} (1.0 %), taken for cup (99.0 %)", points)],
    }
    return lambda **changes: RunFacts(**{**values, **changes})


@pytest.fixture
def segmented(run_facts: Callable[..., RunFacts]) -> RunFacts:
    """The same classes as labels of points, and one cloud that is half wrong."""
    points = np.random.default_rng(1).uniform(-1, 1, (64, 3))
    labels = {"truth": np.repeat([0, -1, 1, 2], 16), "prediction": np.repeat([0, -1, 2, 1], 16)}
    mistake = Mistake("scan", "cup, mIoU 33.3 %", points, labels)
    return run_facts(
        is_dense=True, mistakes=[mistake], categories={"cup": CategoryScore(4, 33.25), "a & b": CategoryScore(1, 100.0)}
    )
