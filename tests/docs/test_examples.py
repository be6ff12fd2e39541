"""Every command of the pages runs, on stand-ins for data and weights that are not ours; training itself is left out.

Commands that train are planned (``--dry-run``: data and model are made, nothing is trained); all others run whole, on
tiny runs. The README is walked through with its training in ``test_walk.py``.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import typer.testing
import yaml
from torch import nn

from geopeft_cli.adapters.tensors import write_tensors
from geopeft_cli.backbones import files
from geopeft_cli.backbones.checkpoint import SETTINGS_KEY
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.backbones.sonata import Sonata
from geopeft_cli.cli.app import app
from geopeft_cli.contracts import Backbone, Method, Wrapper, official_state, select_sites
from geopeft_cli.data.clouds import MemoryClouds, Splits
from geopeft_cli.data.rooms import rooms_splits
from geopeft_cli.data.scenes import MemoryScenes, SceneSplits
from geopeft_cli.data.shapenetpart import PART_NAMES, PARTS
from geopeft_cli.methods.dense import dense_layer
from geopeft_cli.verbs.comparison import attempt
from geopeft_cli.verbs.finetune import finetune

PROJECT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^ *```(?:sh|console)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted((PROJECT / "docs").rglob("*.md"))
# executed elsewhere: installing, several processes, what takes minutes, and what needs a reader of .las
ELSEWHERE = ("pip install", "torchrun", "pretrain_ptv3_tiny", "hall.las")
TINY = ["data.train_per_class=2", "data.validation_per_class=1", "data.test_per_class=1", "data.points=128"]


def commands(page: Path) -> list[list[str]]:
    lines = [line for block in FENCE.findall(page.read_text(encoding="utf-8")) for line in block.splitlines()]
    kept = [line.strip() for line in lines if not any(words in line for words in ELSEWHERE)]
    return [shlex.split(line, comments=True)[1:] for line in kept if line.startswith("geopeft ")]


EXAMPLES = {str(page.relative_to(PROJECT)): commands(page) for page in PAGES if commands(page)}


@pytest.fixture(scope="module")
def sonata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sonata") / "sonata.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Sonata(widths=(8, 12), depths=(1, 1), heads=(2, 2), patch_size=16, stride=2)
    write_tensors(path, official_state(model), {"format": "pt", SETTINGS_KEY: json.dumps(model.settings())})
    return path


@pytest.fixture(scope="module")
def stand_ins(tiny_recipe: Path, sonata: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs by the names that pages use for them."""
    folder = tmp_path_factory.mktemp("runs")
    write_clouds(folder / "scans")
    split = "{by: fraction, validation: 0.25, test: 0.25}"
    data = f"data={{format: folder, root: {folder / 'scans'}, points: 128, split: {split}}}"
    small = [data, "backbone.checkpoint=embedded:point_mae_tiny", "training.epochs=1", "training.batch_size=2"]
    methods = {
        "most": "{name: most, blocks: 4}",
        "lora": "{name: lora, rank: 2}",
        "monarch": "{name: monarch, blocks: 4}",
        "bitfit": "{name: bitfit}",
    }
    runs = {
        name: finetune(tiny_recipe, [*small, f"method={method}"], folder / name).folder
        for name, method in methods.items()
    }
    scenes = {
        "name": "rooms",
        "data": {"format": "rooms", "train": 2, "validation": 1, "test": 1, "points": 300, "grid": 0.4},
        "backbone": {"name": "sonata", "checkpoint": str(sonata)},
        "method": {"name": "gem", "rank": 2},
        "training": {"epochs": 1, "batch_size": 2},
    }
    (folder / "rooms.yaml").write_text(yaml.safe_dump(scenes))
    rooms = finetune(folder / "rooms.yaml", (), folder / "rooms")
    points = np.random.default_rng(0).uniform(-1, 1, (8, 128, 3))
    label = np.arange(8) % 2
    names = {"classes": ["chair", "table"], "part_names": ["a", "b", "c", "d"]}
    labels = (points[..., 0] > 0) + 2 * label[:, None]
    np.savez(folder / "parts.npz", points=points, label=label, point_labels=labels, **names)
    packed = f"data={{format: packed, path: {folder / 'parts.npz'}, split: {{by: fraction, test: 0.25}}, points: 128}}"
    changes = ["method={name: lora, rank: 2}", "task={name: part_segmentation}"]
    parts = finetune(tiny_recipe, [*small[1:], packed, *changes], folder / "parts")
    ablation = ("MoST", "LoRA_rank_8", "Monarch", "K_on_one_side", "lam_1")
    return {
        **runs,
        **dict.fromkeys(("quickstart", "small", "tiny", "my_scans"), runs["most"]),
        **dict.fromkeys([f"ablation/shapes/{row}/0" for row in ablation], runs["most"]),
        **dict.fromkeys(("rooms", "quickstart_scene", "scannet_sonata_gem"), rooms.folder),
        "shapenetpart_point_mae_lora": parts.folder,
    }


@pytest.fixture
def place(stand_ins: dict[str, Path], sonata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("geopeft_cli.verbs.comparison.in_own_process", attempt)
    for name, run in stand_ins.items():
        (tmp_path / "runs" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(run, tmp_path / "runs" / name)
    write_clouds(tmp_path / "scans")
    for folder in ("new_scans", "chairs", "new_rooms"):
        shutil.copytree(tmp_path / "scans/chair", tmp_path / folder)
    points = np.load(tmp_path / "chairs/0.npy")
    np.savetxt(tmp_path / "b.xyz", points)
    header = "ply\nformat ascii 1.0\nelement vertex 400\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    (tmp_path / "a.ply").write_text(f"{header}end_header\n" + "\n".join(" ".join(map(str, row)) for row in points))
    for name in ("lora", "most"):
        text = {"base": "quickstart", "name": name, "method": {"name": name}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(text))
    own = {
        "name": "recipe",
        "data": {"format": "folder", "root": "scans", "points": 128, "split": {"by": "fraction", "test": 0.25}},
        "backbone": {"checkpoint": "embedded:point_mae_tiny", "groups": 16, "group_size": 8},
        "method": {"name": "lora", "rank": 2},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(own))
    before: Callable[..., Path] = files.locate

    def located(location: str, sha256: str | None = None) -> Path:
        if location.endswith("pretrain.pth"):
            return before("embedded:point_mae_tiny")
        return sonata if location.startswith("hf://facebook/sonata/") else before(location, sha256)

    monkeypatch.setattr("geopeft_cli.backbones.checkpoint.locate", located)
    monkeypatch.setattr("geopeft_cli.assemble.data.splits_for", clouds_for)
    monkeypatch.setattr("geopeft_cli.assemble.data.scene_splits_for", scenes_for)
    return tmp_path


def write_clouds(root: Path) -> None:
    """Two classes of four clouds."""
    for kind in ("chair", "table"):
        (root / kind).mkdir(parents=True)
        for index in range(4):
            np.save(root / kind / f"{index}.npy", np.random.default_rng(index).normal(size=(400, 3)))


def clouds_for(format: str, **values: Any) -> Splits:
    """Random clouds in place of sets that are not ours."""
    from geopeft_cli.data.sources import splits_for

    if format in ("shapes", "folder") or str(values.get("path", "")).endswith("parts.npz"):
        return splits_for(format, **values)
    if format == "shapenetpart":
        count, classes = len(PARTS), tuple(PARTS)
        labels = np.stack([np.resize(np.array(parts), 300) for parts in PARTS.values()])
        more: dict[str, Any] = {"point_labels": labels, "part_names": PART_NAMES, "parts": PARTS}
    else:
        count, classes, more = 8, ("a", "b"), {}
    points = np.random.default_rng(0).normal(size=(count, 300, 3)).astype(np.float32)
    found = MemoryClouds(points, np.arange(count) % len(classes), classes, **more)
    return Splits(found, None, found)


def scenes_for(format: str, **values: Any) -> SceneSplits:
    """Simulated rooms in place of sets that are not ours."""
    from geopeft_cli.data.scene_sources import scene_splits_for

    if format == "rooms":
        return scene_splits_for(format, **values)
    rooms = rooms_splits("scan", 2, 0, 1, 0, 300)
    classes = tuple(str(index) for index in range(20))
    train, test = ([part[index] for index in range(len(part))] for part in (rooms.train, rooms.test))
    return SceneSplits(MemoryScenes(train, classes), None, MemoryScenes(test, classes))


@pytest.mark.slow
@pytest.mark.parametrize("page", EXAMPLES)
def test_the_commands_of_a_page_run(page: str, place: Path) -> None:
    runner = typer.testing.CliRunner(env={"TERM": "dumb", "COLUMNS": "120"})
    for words in EXAMPLES[page]:
        if "onnx" in words and page != "docs/export.md":  # once is enough for what takes seconds
            continue
        told = planned(words) if words[0] == "finetune" else list(words)
        told = [re.sub(r"^((?:data\.root|backbone\.checkpoint)=)/(?:data/)?", r"\1", word) for word in told]
        for option in ("--output", "--predictions", "--report"):  # an earlier example's
            made = place / told[told.index(option) + 1] if option in told else place / "nothing"
            shutil.rmtree(made, ignore_errors=True) if made.is_dir() else made.unlink(missing_ok=True)
        if "--adapter" in told and "--unmerge" in told:  # of a file that does not hold its adapter itself
            Path("merged.safetensors").unlink()
            runner.invoke(app, ["merge", "runs/quickstart", "--output", "merged.safetensors"])
        result = runner.invoke(app, told)
        assert result.exit_code == 0, (words, result.stderr, result.exception)


def planned(words: list[str]) -> list[str]:
    """A training command that makes data and model, at a small size where that is ours, and trains nothing."""
    told = [word.replace("recipes/quickstart.yaml", "quickstart") for word in words if word != "--resume"]
    if "--output" in told:
        told[told.index("--output") + 1] = "planned"
    is_shapes = any(word.removesuffix(".yaml") in ("quickstart", "lora", "most") for word in told)
    return [*(word for word in told if word != "--dry-run"), *(TINY if is_shapes else ()), "--dry-run"]


@pytest.mark.parametrize("page", ["docs/scenes.md", "docs/scene_data.md"])
def test_the_programs_of_a_page_run(page: str, place: Path) -> None:
    programs = PROGRAM.findall((PROJECT / page).read_text(encoding="utf-8"))
    assert programs
    for program in programs:
        exec(compile(program, page, "exec"), {})


def test_the_method_on_its_page_attaches() -> None:
    page = (PROJECT / "docs/adding_a_method.md").read_text(encoding="utf-8")
    program = textwrap.dedent(page[page.index("    class Scale") : page.index("    ```\n\n    The backbone")])

    class ScaledOutput(Wrapper):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__(base)
            self.s = nn.Parameter(torch.zeros(base.out_features))

    names = {"ScaledOutput": ScaledOutput, "ClassVar": ClassVar, "Sequence": Sequence, "Any": Any, "Backbone": Backbone}
    names |= {"Method": Method, "select_sites": select_sites, "dense_layer": dense_layer}
    exec(compile(f"from __future__ import annotations\n{program}", "adding_a_method.md", "exec"), names)
    model = PointMAE(24, 2, 4, groups=16, group_size=8)
    names["Scale"]().attach(model)
    assert [len(module.s) for module in model.modules() if isinstance(module, ScaledOutput)] == [96, 96]


def test_every_verb_is_among_them() -> None:
    assert {words[0] for page in EXAMPLES.values() for words in page} == {
        *("finetune", "eval", "merge", "export", "inspect"),
    }
