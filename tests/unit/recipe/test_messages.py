"""Every kind of mistake in a recipe is one line that says where it is, what is wrong, and what may be meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
import yaml

from geopeft_cli.data.scene_sources import FORMATS as SCENE_FORMATS
from geopeft_cli.data.sources import FORMATS as OBJECT_FORMATS
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.recipe.outline import ROOT, Slot
from geopeft_cli.recipe.problems import RecipeError

Problems = Callable[..., list[str]]
Write = Callable[[dict[str, str]], None]

FORMATS = ", ".join([*OBJECT_FORMATS, *SCENE_FORMATS])
HEAD = "name: x\ndata: {format: shapes}\nbackbone: {checkpoint: a.pth}\nmethod: {name: full}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sede: 1", "unknown key 'sede'. Did you mean 'seed'?"),
        ("lr: 1", "unknown key 'lr'. Did you mean 'training.lr'?"),
        ("zzz: 1", "unknown key 'zzz'"),
        ("on: 1", "unknown key 'on'"),
        ("training: {epoch: 1}", "unknown key 'training.epoch'. Did you mean 'training.epochs'?"),
        ("training: {seed: 1}", "unknown key 'training.seed'. Did you mean 'seed'?"),
        ("task: {fusion: {layer: 1}}", "unknown key 'task.fusion.layer'. Did you mean 'task.fusion.layers'?"),
        ("seed: one", "seed must be a whole number, is 'one'"),
        ("seed: 1.5", "seed must be a whole number, is 1.5"),
        ("seed: yes", "seed must be a whole number, is true"),
        ("seed: -1", "seed must be at least 0, is -1"),
        ("seed:", "seed must be a whole number, is empty"),
        ("description: 3", "description must be text, is 3 (put it in quotes)"),
        ("description: [a]", "description must be text, is a list"),
        ('description: "\\ud800"', "an escape such as '\\ud800', which stands for no character"),
        ("training: {lr: -1}", "training.lr must be greater than 0, is -1"),
        ("training: {lr: -1e-3}", "training.lr must be greater than 0, is -1e-3"),
        ("training: {lr: fast}", "training.lr must be a number, is 'fast'"),
        ("training: {lr: true}", "training.lr must be a number, is true"),
        ("training: {lr: .nan}", "training.lr must be a finite number, is nan"),
        ("training: {lr: 1e999}", "training.lr must be a finite number, is 1e999"),
        ("training: {epochs: 0}", "training.epochs must be greater than 0, is 0"),
        ("training: {min_lr: -1}", "training.min_lr must be at least 0, is -1"),
        ("task: {label_smoothing: 1}", "task.label_smoothing must be less than 1, is 1"),
        ("training: {tensorboard: 1}", "training.tensorboard must be true or false, is 1"),
        ("training: {device: gpu}", "training.device must be auto, cpu, cuda, cuda:NUMBER or mps, is 'gpu'"),
        ("training:", "training must be a section with keys of its own, is empty"),
        ("training: [1]", "training must be a section with keys of its own, is a list"),
        ("task: fast", "task must be a section with keys of its own, is 'fast'"),
        ("training: {precision: bf61}", "must be one of fp32, bf16, fp16, is 'bf61'. Did you mean 'bf16'?"),
        ("training: {precision: 16}", "training.precision must be one of fp32, bf16, fp16, is 16"),
        (
            "task: {name: part_segmentation, fusion: {}}",
            "task.fusion is for name: classification, not part_segmentation",
        ),
        (
            "task: {name: part_segmentation, class_weights: equal}",
            "name: scene_segmentation or voxel_segmentation, not part_segmentation",
        ),
        ("task: {class_weights: equal}", "for name: scene_segmentation or voxel_segmentation, not classification"),
        ("training: {optimizer_steps: 3}", "training.optimizer_steps must be at most 2, is 3"),
        (
            "training: {optimizer_steps: 2, precision: fp16}",
            "optimizer_steps must be 1 with precision fp16, whose scaled gradients are used once",
        ),
        ("task: {name: classificatoin}", "is 'classificatoin'. Did you mean 'classification'?"),
        ("published: x", "published must be a list, is 'x'"),
        ("published: [3]", "published[0] must be a section with keys of its own, is 3"),
        ("training: {select: best_validation}\ndata: x", "duplicate key 'data', first in line 2"),
        ("evaluation: {split: validate}", "is 'validate'. Did you mean 'validation'?"),
    ],
)
def test_mistake_in_one_line(problems: Problems, line: str, expected: str) -> None:
    [found] = problems(f"{HEAD}{line}\n")
    assert re.match(r"r\.yaml:[56]: ", found)
    assert found.endswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: x\n", "", "r.yaml:1: missing key 'name'"),
        ("name: x", "name: my run", "r.yaml:1: name must be letters, digits, '.', '_' and '-' without spaces"),
        ("data: {format: shapes}\n", "", "r.yaml:1: missing key 'data'"),
        ("{format: shapes}", "{points: 3}", f"r.yaml:2: missing key 'data.format', one of {FORMATS}"),
        ("{format: shapes}", "shapes", "r.yaml:2: data must be a section with keys of its own, is 'shapes'"),
        ("shapes", "shape", f"one of {FORMATS}, is 'shape'. Did you mean 'shapes'?"),
        ("shapes", "[shapes]", f"r.yaml:2: data.format must be one of {FORMATS}, is a list"),
        ("shapes", "folder", "r.yaml:2: missing key 'data.root'"),
        ("shapes", 'folder, root: ""', "r.yaml:2: data.root must not be empty"),
        ("shapes", "shapes, path: x", "r.yaml:2: data.path is for format: packed or packed_scenes, not shapes"),
        ("shapes", "packed, path: x, fold: 1", "r.yaml:2: data.fold is for format: modelnet_fewshot, not packed"),
        ("shapes", "scanobjectnn, root: x, variant: hardst", "Did you mean 'hardest'?"),
        ("shapes", "modelnet_fewshot, root: x, way: 5", "r.yaml:2: missing key 'data.shot'"),
        ("shapes", "modelnet_fewshot, root: x, way: 5, shot: 10, fold: 10", "data.fold must be at most 9, is 10"),
        ("shapes", "shapes, augment: [rotate_y, rotat_z]", "is 'rotat_z'. Did you mean 'rotate_z'?"),
        ("shapes", "folder, root: x, split: {by: list}", "r.yaml:2: missing key 'data.split.train'"),
        ("shapes", "folder, root: x, split: {train: a}", "missing key 'data.split.by', one of fraction, folder, list"),
        ("shapes", "packed, path: x, split: {by: list}", "data.split.by must be one of fraction, field, is 'list'"),
        (
            "shapes",
            "folder, root: x, split: {by: fraction, test: 0.5, validation: 0.5}",
            "r.yaml:2: data.split.test and validation leave nothing to train on: 0.5 + 0.5",
        ),
        ("a.pth", "a.pth, sha256: abc", "r.yaml:3: backbone.sha256 must be 64 hexadecimal digits, is 'abc'"),
        ("a.pth", "http://a.org/b.pth", "r.yaml:3: backbone.checkpoint must be an https:// address, is http://"),
        (
            "a.pth",
            "https://a.org/b.pth",
            "r.yaml:3: backbone.checkpoint is a download and needs the key 'backbone.sha256' beside it",
        ),
        (
            "{name: full}",
            "{name: lorra}",
            "bitfit, lora, adapter, prompt, monarch, most, point_peft, gem, is 'lorra'. Did you mean 'lora'?",
        ),
        (
            "{name: full}",
            "{name: full, rank: 3}",
            "r.yaml:4: method.rank is for name: lora or adapter or gem, not full",
        ),
        ("{name: full}", "{name: lora, blocks: 3}", "r.yaml:4: method.blocks is for name: monarch or most, not lora"),
        ("{name: full}", "{name: lora, rnk: 3}", "r.yaml:4: unknown key 'method.rnk'. Did you mean 'method.rank'?"),
        ("{name: full}", "{name: lora, targets: []}", "r.yaml:4: method.targets must have at least 1 entry"),
        ("{name: full}", "{name: lora, targets: [3]}", "method.targets[0] must be text, is 3 (put it in quotes)"),
        ("{name: full}", "{name: lora, targets: mlp_in}", "r.yaml:4: method.targets must be a list, is 'mlp_in'"),
        ("{name: full}", "{name: most, eps: 0}", "r.yaml:4: method.eps must be greater than 0, is 0"),
        ("{name: full}", "{name: most, eps: far}", "r.yaml:4: method.eps must be a number, is 'far'"),
        ("{name: full}", "{name: most, eps: {}}", "r.yaml:4: missing key 'method.eps.relative'"),
        ("{name: full}", "{name: most, eps: {relative: 0}}", "method.eps.relative must be greater than 0, is 0"),
        ("{name: full}", "{name: most, eps: {relativ: 1, relative: 1}}", "Did you mean 'method.eps.relative'?"),
        ("{name: full}", "{name: most, sides: 3}", "r.yaml:4: method.sides must be at most 2, is 3"),
        ("{name: full}", "{name: most, sides: true}", "r.yaml:4: method.sides must be a whole number, is true"),
    ],
)
def test_mistake_in_a_required_section(problems: Problems, old: str, new: str, expected: str) -> None:
    found = problems(HEAD.replace(old, new))
    assert any(line.endswith(expected) or line.startswith(expected) for line in found)
    assert len(found) == (2 if "by: list" in new and "folder" in new else 1)


def test_the_line_is_the_keys_own(problems: Problems) -> None:
    text = """\
name: x

data:
  format: folder

  points: none   # a word
  split:
    by: fraction
    tset: 0.1
    validation: 2
backbone:
  checkpoint: a
method:
  name: lora
  targets:
    - mlp_in
    - 7
published:
  - {metric: a, value: 1, source: s, protocol: p}
  - metric: b
    value: x
    source: s
"""
    assert problems(text) == [
        "r.yaml:3: missing key 'data.root'",
        "r.yaml:6: data.points must be a whole number, is 'none'",
        "r.yaml:9: unknown key 'data.split.tset'. Did you mean 'data.split.test'?",
        "r.yaml:10: data.split.validation must be less than 1, is 2",
        "r.yaml:17: method.targets[1] must be text, is 7 (put it in quotes)",
        "r.yaml:20: missing key 'published[1].protocol'",
        "r.yaml:21: published[1].value must be a number, is 'x'",
    ]


def test_an_unknown_kind_does_not_hide_other_mistakes(problems: Problems) -> None:
    found = problems(HEAD.replace("shapes", "shape").replace("full", "ful") + "training: {lr: 0}\nseed: x\n")
    assert [line.split(":")[1] for line in found] == ["2", "4", "5", "6"]


def _keys(slot: Slot = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, object]]]:
    """Each key of each kind of section, with the other keys that select the kind."""
    for kind, section in slot.kinds:
        chosen = {".".join((*path, str(slot.discriminator))): kind} if slot.discriminator else {}
        narrowed = Slot(kinds=((kind, section),))
        for key in narrowed.keys:
            if key != slot.discriminator:
                yield (*path, key), chosen
            for below, selectors in _keys(narrowed.child(key), (*path, key)):
                yield below, {**chosen, **selectors}


WRONG = [
    None,
    True,
    3,
    -1,
    2.5,
    "zzz",
    "",
    "1e5",
    [],
    [None],
    [{}],
    ["a", 3],
    {},
    {"x": 1},
    10**30,
    float("inf"),
    "\ud800",
]
JARGON = re.compile(
    r"Input|union|\btag\b|pydantic|tuple|instance|dictionary|Settings|Section|Data\b|Split\b|Field|None|value_error|"
    r"True|False|valid (string|number|integer)|has a value that is not allowed|\{"
)


def test_no_wrong_value_of_any_key_is_answered_in_jargon(write: Write, small: str) -> None:
    write({"r.yaml": small})
    keys = list(_keys())
    assert len(keys) > 80
    refused = 0
    for path, selectors in keys:
        choose = [f"{key}={value}" for key, value in selectors.items()]
        for value in WRONG:
            shown = yaml.safe_dump(value, default_flow_style=True, width=1000).replace("\n...", "").strip()
            try:
                load_recipe("r.yaml", [*choose, f"{'.'.join(path)}={shown}"])
            except RecipeError as error:
                for problem in error.problems:
                    refused += 1
                    text = str(problem).removeprefix(str(problem.place))
                    assert not JARGON.search(text), str(problem)
    assert refused > 1000
