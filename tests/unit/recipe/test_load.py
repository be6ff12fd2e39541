"""Every kind of mistake in a recipe is one line that says where it is, what is wrong, and what may be meant."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from geopeft_cli.data.scene_sources import FORMATS as SCENE_FORMATS
from geopeft_cli.data.sources import FORMATS as OBJECT_FORMATS
from geopeft_cli.errors import UsageError
from geopeft_cli.recipe.load import load_recipe, parse_recipe
from geopeft_cli.recipe.outline import ROOT, Slot
from geopeft_cli.recipe.problems import RecipeError

Problems = Callable[..., list[str]]
Write = Callable[[dict[str, str]], None]

FORMATS = ", ".join([*OBJECT_FORMATS, *SCENE_FORMATS])
HEAD = "name: x\ndata: {format: shapes}\nbackbone: {checkpoint: a.pth}\nmethod: {name: full}\n"


def test_small_recipe_gets_the_defaults(write: Write, small: str) -> None:
    write({"r.yaml": small})
    recipe = load_recipe("r.yaml")
    assert (recipe.name, recipe.method.name, recipe.training.epochs, recipe.seed) == ("small", "lora", 300, 0)
    assert load_recipe(Path("r.yaml")) == recipe


def test_point_peft_remembers_objects_and_no_scenes(write: Write) -> None:
    recipe = HEAD.replace("{format: shapes}", "{format: packed, path: x}")
    write({"r.yaml": recipe.replace("{name: full}", "{name: point_peft}\ntask: {name: scene_segmentation}")})
    with pytest.raises(RecipeError, match="bank must be false for scene_segmentation"):
        load_recipe("r.yaml")
    for change in ("method.bank=false", "method.prompt=false", "task.name=part_segmentation"):
        assert load_recipe("r.yaml", [change]).method.name == "point_peft"


@pytest.mark.parametrize("method", ["point_peft", "gem", "prompt"])
@pytest.mark.parametrize("name", ["mamba3d", "point_mamba"])
def test_methods_for_transformer_blocks_need_some(write: Write, name: str, method: str) -> None:
    recipe = HEAD.replace("{name: full}", f"{{name: {method}}}").replace("{checkpoint", f"{{name: {name}, checkpoint")
    write({"r.yaml": recipe})
    with pytest.raises(RecipeError, match=f"method.name is {method}, .* transformer blocks, and {name} has none"):
        load_recipe("r.yaml")


def test_gem_adapts_something_with_odd_kernels(write: Write) -> None:
    write({"r.yaml": HEAD.replace("{name: full}", "{name: gem, stages: [0, 1]}")})
    assert load_recipe("r.yaml", ["method.context=false"]).method.name == "gem"
    with pytest.raises(RecipeError, match=r"method.context must be true where spatial is false"):
        load_recipe("r.yaml", ["method.context=false", "method.spatial=false"])
    with pytest.raises(RecipeError, match=r"method.kernel must be odd, is 4"):
        load_recipe("r.yaml", ["method.kernel=4"])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "{checkpoint: a.pth, variant: released}",
            "backbone.variant is for mamba3d and point_mamba, not for point_mae",
        ),
        (
            "{name: mamba3d, checkpoint: a.pth, dropout: 0.1}",
            "backbone.dropout is for point_mamba, not for mamba3d",
        ),
        (
            "{name: point_mamba, checkpoint: a.pth, heads: 6}",
            "backbone.heads is for networks with attention, which point_mamba",
        ),
        (
            "{name: mamba3d, checkpoint: a.pth, heads: 6}",
            "backbone.heads is for networks with attention, which mamba3d",
        ),
    ],
)
def test_settings_of_another_network_are_refused(write: Write, section: str, message: str) -> None:
    write({"r.yaml": HEAD.replace("{checkpoint: a.pth}", section)})
    with pytest.raises(RecipeError) as raised:
        load_recipe("r.yaml")
    assert message in raised.value.message
    write({"r.yaml": HEAD.replace("{checkpoint: a.pth}", "{name: mamba3d, checkpoint: a.pth, variant: released}")})
    assert load_recipe("r.yaml").backbone.variant == "released"


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", ".001", "+1.0e-3", "1_0e-4"])
def test_numbers_in_every_spelling(write: Write, text: str) -> None:
    write({"r.yaml": f"{HEAD}training: {{lr: {text}}}\n"})
    assert load_recipe("r.yaml").training.lr == 0.001


def test_aliases_and_dates_and_marks_at_the_start_are_fine(write: Write) -> None:
    text = "\ufeffname: &n 2024-01-02\ndescription: *n\n" + HEAD.partition("\n")[2]
    write({"r.yaml": text})
    recipe = load_recipe("r.yaml")
    assert recipe.name == recipe.description == "2024-01-02"


def test_a_recipe_kept_as_json(write: Write) -> None:
    write({"r.yaml": HEAD + "description: 'caf\u00e9 \U0001f600'\ntraining: {lr: 1e-7}\n"})
    recipe = load_recipe("r.yaml")
    text = json.dumps(recipe.model_dump())
    assert "\\ud83d" in text
    assert "1e-07" in text
    assert parse_recipe(text, "the adapter") == recipe
    assert parse_recipe(text, "the adapter", ["seed=3"]).seed == 3
    with pytest.raises(RecipeError) as raised:
        parse_recipe(text.replace('"seed"', '"sede"', 1), "the adapter", ["training.lr=0"])
    assert raised.value.message.splitlines() == [
        "the adapter:1: unknown key 'sede'. Did you mean 'seed'?",
        "argument 'training.lr=0': training.lr must be greater than 0, is 0",
    ]


def test_checksums_are_read_in_both_cases(write: Write) -> None:
    write({"r.yaml": HEAD.replace("a.pth", f'a.pth, sha256: "{"AB" * 32}"')})
    assert load_recipe("r.yaml").backbone.sha256 == "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "r.yaml:1: the recipe is empty"),
        ("# only a comment\n", "r.yaml:1: the recipe is empty"),
        ("- a\n- b\n", "r.yaml:1: a recipe is a mapping of 'key: value' lines, this is a list"),
        ("\nhello\n", "r.yaml:2: a recipe is a mapping of 'key: value' lines, this is a single value"),
        ("data:\n\tformat: shapes\n", "r.yaml:2:1: not valid YAML: a tab character; YAML indents with spaces"),
        ("name: a: b\n", "r.yaml:1:8: not valid YAML: a ':' that does not belong here, or wrong indentation above it"),
        ("data:\n  a: 1\n b: 2\n", "r.yaml:3:2: not valid YAML: the indentation does not fit the lines above"),
        ("name: a\nseed\nx: 1\n", "r.yaml:2:1: not valid YAML: a line that is not 'key: value'"),
        ("a: 1\nname: 'x\nb: 1\n", "r.yaml:2:7: not valid YAML: a quotation mark that is not closed"),
        ("a: [1, 2\nb: 1\n", "r.yaml:1:4: not valid YAML: a list that is not closed with ']'"),
        ("a: {b: 1\n", "r.yaml:1:4: not valid YAML: a mapping that is not closed with '}'"),
        ("name: @x\n", "r.yaml:1:7: not valid YAML: a character that cannot begin a value; put the text in quotes"),
        ("a: 1\n---\nb: 1\n", "r.yaml:2:1: not valid YAML: a second document; a recipe is one YAML document"),
        ("a: &x 1\nb: &x 2\n", "r.yaml:2:4: not valid YAML: an anchor that is defined twice"),
        ("a: *x\n", "r.yaml:1:4: not valid YAML: found undefined alias 'x'"),
        ("a: 1\nb: x\x01\n", "r.yaml:2:5: not valid YAML: the character '\\x01', which YAML does not allow"),
        ("a: &x [*x]\n", "r.yaml:1: nested too deeply, or an alias that contains itself"),
        ("a: " + "[" * 400 + "]" * 400, "r.yaml:1: nested too deeply, or an alias that contains itself"),
    ],
)
def test_text_that_is_no_recipe(problems: Problems, text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_aliases_of_aliases_do_not_explode(problems: Problems) -> None:
    rows = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert problems("\n".join(rows)) == ["r.yaml:1: nested too deeply, or an alias that contains itself"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("seed: 1\nseed: 2", ["r.yaml:6: duplicate key 'seed', first in line 5"]),
        ("seed: !number 3", ["r.yaml:5: unknown tag '!number'; recipes hold plain values only", "seed must be"]),
        (
            "published: !!python/object/apply:os.system [ls]",
            ["r.yaml:5: unknown tag '!!python/object/apply:os.system'; recipes hold plain values only", "[0] must be"],
        ),
        ("seed: !!int x", ["r.yaml:5: 'x' is not a value of type int", "seed must be a whole number"]),
        ("<<: {seed: 1}", ["r.yaml:5: merge keys ('<<') are not read; use 'base: other.yaml'"]),
        ("? [a]\n: 1", ["r.yaml:5: a key must be a word, not a list or a mapping"]),
    ],
)
def test_yaml_that_recipes_do_not_use(problems: Problems, line: str, expected: list[str]) -> None:
    found = problems(f"{HEAD}{line}\n")
    assert found[0] == expected[0]
    assert len(found) == len(expected)
    assert all(part in text for part, text in zip(expected[1:], found[1:], strict=True))


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


@pytest.mark.parametrize("eps", ["0.05", "1e-2", "{relative: 0.5}"])
def test_eps_is_a_length_or_relative(write: Write, small: str, eps: str) -> None:
    write({"r.yaml": small})
    found = load_recipe("r.yaml", ["method.name=most", f"method.eps={eps}"]).method.model_dump()["eps"]
    assert found == {"0.05": 0.05, "1e-2": 0.01}.get(eps, {"relative": 0.5})


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


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (
            "training:\n  lr: 1\n  select: best_validation\n",
            "r.yaml:7: training.select is best_validation, but the data",
        ),
        ("evaluation:\n  split: validation\n", "r.yaml:6: evaluation.split is validation, but the data"),
    ],
)
@pytest.mark.parametrize(
    "data",
    [
        "shapes, validation_per_class: 0",
        "packed, path: x",
        "scanobjectnn, root: x, variant: hardest",
        "modelnet40, root: x",
        "modelnet10, root: x",
        "modelnet_fewshot, root: x, way: 5, shot: 10",
    ],
)
def test_validation_needs_a_validation_split(problems: Problems, data: str, extra: str, expected: str) -> None:
    [found] = problems(HEAD.replace("shapes", data) + extra)
    assert found.startswith(expected)
    assert found.endswith("section has no validation split")


@pytest.mark.parametrize(
    "split", ["{by: fraction, validation: 0.1}", "{by: list, train: a, validation: b, test: c}", "{by: folder}"]
)
def test_validation_with_a_validation_split(write: Write, split: str) -> None:
    text = HEAD.replace("shapes", f"folder, root: x, split: {split}") + "training: {select: best_validation}\n"
    write({"r.yaml": text})
    if "folder}" in split:
        with pytest.raises(RecipeError, match="no validation split"):
            load_recipe("r.yaml")
    else:
        assert load_recipe("r.yaml").training.select == "best_validation"


@pytest.mark.parametrize("data", ["scanobjectnn, root: x, variant: hardest", "modelnet40, root: x"])
def test_published_sets_with_a_validation_split(write: Write, data: str) -> None:
    text = HEAD.replace("shapes", f"{data}, validation: 0.1") + "training: {select: best_validation}\n"
    write({"r.yaml": text})
    assert load_recipe("r.yaml").training.select == "best_validation"


def test_scanobjectnn_alone_is_not_normalized_by_default(write: Write) -> None:
    for data, expected in (("scanobjectnn, root: x, variant: hardest", "none"), ("modelnet40, root: x", "unit_sphere")):
        write({"r.yaml": HEAD.replace("shapes", data)})
        assert load_recipe("r.yaml").data.normalize == expected


def test_user_text_with_line_breaks_stays_in_one_line(problems: Problems) -> None:
    assert problems(HEAD + '"a\\nb": 1\n') == ["r.yaml:5: unknown key 'a\\nb'"]


def test_files_that_cannot_be_read(write: Write, here: Path) -> None:
    write({"quick.yaml": "", "runs/a.txt": ""})
    (here / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    messages = {
        "bytes.yaml": "bytes.yaml: not a text file in UTF-8 (byte 6)",
        "runs": "runs: a directory, not a recipe",
        "quik.yaml": "quik.yaml: no such file, and no shipped recipe of that name. Did you mean 'quick.yaml'?",
        "no/where.yaml": "no/where.yaml: no such file, and no shipped recipe of that name",
    }
    for source, message in messages.items():
        with pytest.raises(UsageError) as raised:
            load_recipe(source)
        assert raised.value.message == message
        assert raised.value.exit_code == 2


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
