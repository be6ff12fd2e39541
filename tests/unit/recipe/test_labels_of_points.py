"""Segmentation is refused on data whose points have no labels, or those of the other kind, before any of it is read."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from geopeft_cli.recipe.load import load_recipe

Problems = Callable[..., list[str]]
HEAD = "name: x\nbackbone: {checkpoint: a.pth}\nmethod: {name: full}\n"


def text(data: str, task: str) -> str:
    return f"{HEAD}data: {{{data}}}\ntask: {{name: {task}}}\n"


@pytest.mark.parametrize(
    ("data", "task", "expected"),
    [
        (
            "format: s3dis_blocks, root: gone",
            "part_segmentation",
            "task.name is part_segmentation, and s3dis_blocks is labeled for scene_segmentation; use that task, or "
            "data such as shapenetpart",
        ),
        (
            "format: shapenetpart, root: gone",
            "scene_segmentation",
            "task.name is scene_segmentation, and shapenetpart is labeled for part_segmentation; use that task, or "
            "data such as s3dis_blocks",
        ),
        (
            "format: folder, root: gone",
            "part_segmentation",
            "task.name is part_segmentation, which needs a label for every point, and this folder data has none; give "
            "data.part_names, or use other data, such as shapenetpart, s3dis_blocks or packed",
        ),
        *(
            (
                data,
                task,
                f"needs a label for every point, and this {data.split(',')[0][8:]} data has none; use other data",
            )
            for task in ("part_segmentation", "scene_segmentation")
            for data in (
                "format: shapes",
                "format: modelnet40, root: gone",
                "format: modelnet10, root: gone",
                "format: modelnet_fewshot, root: gone, way: 5, shot: 10",
                "format: scanobjectnn, root: gone, variant: hardest",
            )
        ),
    ],
)
def test_data_without_the_labels_is_refused(problems: Problems, data: str, task: str, expected: str) -> None:
    [found] = problems(text(data, task))
    assert found.startswith("r.yaml:5: ")
    assert expected in found


@pytest.mark.parametrize(
    ("data", "tasks"),
    [
        ("format: shapenetpart, root: gone", ["part_segmentation", "classification"]),
        ("format: s3dis_blocks, root: gone", ["scene_segmentation"]),
        ("format: packed, path: gone", ["part_segmentation", "scene_segmentation"]),
        ("format: folder, root: gone, part_names: [a, b]", ["part_segmentation", "scene_segmentation"]),
    ],
)
def test_data_that_may_have_them_is_taken(write: Callable[..., None], data: str, tasks: list[str]) -> None:
    for task in tasks:
        write({"r.yaml": text(data, task)})
        assert load_recipe("r.yaml").task.name == task
