"""The local feature distance of every backbone: over the centers of its last stage, wherever their tokens stand."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest
import torch

from contract.subject import Subject, saved
from geopeft_cli.assemble import load_splits, make_batches
from geopeft_cli.data.clouds import Subset
from geopeft_cli.geometry.local_distance import local_distance, neighborhoods
from geopeft_cli.verbs.local_distance import measure_local_distance
from geopeft_cli.verbs.opening import open_trained

CLOUDS, NEIGHBORS = 3, 2


def test_the_last_stage_is_measured(checkpoint: tuple[str, Path], tmp_path: Path) -> None:
    subject = Subject(checkpoint[0], "most", checkpoint[1], {})
    adapter = saved(subject.moved(), tmp_path / "adapter")
    base, adapted = measure_local_distance(str(adapter), clouds=CLOUDS, neighbors=NEIGHBORS).models

    opened = open_trained(adapter)
    model, stage = opened.model, opened.model.fusion_blocks
    groups = model.settings()["groups"]
    assert len(base.blocks) == len(adapted.blocks) == len(stage)
    assert adapted.tokens == (groups if isinstance(groups, int) else groups[-1])
    validation = load_splits(opened.recipe).validation
    assert validation is not None
    chosen = Subset(validation, range(CLOUDS))
    batches = make_batches(opened.recipe, chosen, "validation", training=False, batch_size=CLOUDS)
    with torch.no_grad():
        tokens = model.encode(next(iter(batches.epoch(0))).points, stage)
    near = neighborhoods(tokens.centers, NEIGHBORS)
    slots = tokens.slots.expand(CLOUDS, -1)
    for row, index in zip(adapted.blocks, stage, strict=True):
        lfd, lfd_rel = [], []
        for cloud, features in enumerate(tokens.layers[index]):
            of_center = [features[slots[cloud] == center].mean(0) for center in range(adapted.tokens)]
            found = local_distance(torch.stack(of_center)[None], near[cloud : cloud + 1])
            lfd.append(float(found.lfd))
            lfd_rel.append(float(found.lfd_rel))
        assert row.mean.lfd == pytest.approx(mean(lfd), rel=1e-5)
        assert row.mean.lfd_rel == pytest.approx(mean(lfd_rel), rel=1e-5)
    assert adapted.blocks != base.blocks
