"""Mistakes in recipes and arguments: exit code 2, every one of them at once, and nothing made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.lr=-1", "training.lr must be"),
        ("training.lr=fast", "training.lr must be"),
        ("training.epochs=0", "training.epochs must be"),
        ("training.epoch=3", "Did you mean 'training.epochs'?"),
        ("method.name=mots", "Did you mean 'most'?"),
        ("method.rank=4", "method.rank is for name: lora or adapter or gem, not most"),
        ("data.format=modelnet", "data.format"),
        ("backbone.checkpoint=http://x/y.pth", "must be an https:// address"),
        ("backbone.checkpoint=https://x/y.pth", "needs the key 'backbone.sha256'"),
        ("training.select=best", "Did you mean 'best_test'?"),
        ("training.device=tpu", "training.device must be auto, cpu"),
        ("seed=-1", "seed must be"),
        ("seed.nonsense", "is not of the form key=value"),
    ],
)
def test_mistakes_name_the_argument(refused: Refused, tiny_recipe: Path, override: str, words: str) -> None:
    message = refused("finetune", tiny_recipe, override, code=2)
    assert words in message
    assert f"argument '{override}'" in message
    assert len(message.splitlines()) == 1


def test_a_bare_word_is_no_setting(refused: Refused, tiny_recipe: Path) -> None:
    message = refused("finetune", tiny_recipe, "nonsense", code=2)
    assert "nonsense: no such file, and no shipped recipe of that name" in message
    assert "a setting is KEY=VALUE" in message


def test_all_mistakes_of_a_file_at_once_with_their_lines(refused: Refused, tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(tiny_recipe.read_text() + "sede: 3\ntask: {head: mpl}\n")
    lines = refused("finetune", recipe, "training.batch_size=none", code=2).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{recipe}:6: unknown key 'sede'")
    assert lines[1].startswith(f"{recipe}:7: task.head must be")
    assert lines[2].startswith("argument 'training.batch_size=none'")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"- a\n- b\n", "mapping"),
        (b"name: [unclosed\n", ":1:7: not valid YAML"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"name: !!python/object/apply:os.system ['touch ran']\n", "name"),
    ],
)
def test_files_that_are_no_recipes(refused: Refused, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    assert words in refused("finetune", "bad.yaml", code=2)
    assert not (tmp_path / "ran").exists()


def test_a_recipe_that_does_not_exist(refused: Refused) -> None:
    assert "Did you mean 'quickstart'?" in refused("finetune", "quickstrat", code=2)
    assert "no such file" in refused("inspect", "nothing.yaml", code=2)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.points=10"], "data.points: 10 is fewer than backbone.groups 16"),
        (["method.targets=[mlp_inn]"], "method.targets: 'mlp_inn' matches no layer of point_mae"),
        (["method.blocks=25"], "method.blocks: 25 blocks do not fit a layer of 24 -> 72 channels"),
        (["method.targets=[patch_embedding]"], "reads no tokens with centers"),
        (["task.fusion.layers=3"], "task.fusion.layers: 3 is more than the 2 blocks"),
        (["backbone.checkpoint=/nowhere/x.pth"], "backbone.checkpoint: no file /nowhere/x.pth"),
        (["backbone.checkpoint=embedded:big"], "no embedded checkpoint 'big'"),
        (["backbone.checkpoint=ftp://x"], "cannot read ftp://x"),
        (["training.device=cuda:77"], "training.device: 'cuda:77' is not on this machine"),
        (["training.batch_size=1"], "training.batch_size: 1 is one cloud"),
        (["data.validation_per_class=0", "training.select=best_validation"], "no validation split"),
        (["training.threads=0"], "training.threads must be"),
        (["training.groups=[{match: '*clss*'}]"], "training.groups[0].match: '*clss*' fits no trainable parameter"),
        (["training.groups=[{match: encoder.*}]"], "Trainable and in no group before: cls_token, cls_pos, blocks, cls"),
        (["training.groups=[{match: x, lr_scael: 2}]"], "Did you mean 'training.groups[0].lr_scale'?"),
        (["training.groups=[{lr_scale: 2}]"], "missing key 'training.groups[0].match'"),
    ],
)
def test_what_does_not_fit_is_found_before_training(
    refused: Refused, tiny_recipe: Path, overrides: list[str], words: str
) -> None:
    assert words in refused("finetune", tiny_recipe, *overrides, code=2)


@pytest.mark.parametrize(
    ("override", "words"),
    [("backbone.width=32", "width 24"), ("backbone.depth=9", "depth 2"), ("backbone.heads=3", "heads 4")],
)
def test_sizes_that_the_checkpoint_does_not_have(
    refused: Refused, tiny_recipe: Path, override: str, words: str
) -> None:
    assert f"has {words}, the recipe asks for" in refused("finetune", tiny_recipe, override, code=1)


def test_a_checkpoint_without_a_head(refused: Refused, tiny_recipe: Path) -> None:
    message = refused("finetune", tiny_recipe, "task.head_from=checkpoint", code=1)
    assert "has no head\nUse task.head_from: fresh.\n" in message


def test_eval_overrides_go_through_the_same_validator(refused: Refused, most_run: Path) -> None:
    assert "Did you mean 'evaluation.split'?" in refused("eval", most_run, "evaluation.splitt=test", code=2)
    assert "evaluation.split must be" in refused("eval", most_run, "evaluation.split=dev", code=2)
    message = refused("eval", most_run, "data.validation_per_class=0", "evaluation.split=validation", code=2)
    assert "no validation split" in message


def test_merge_and_eval_need_something_trained(refused: Refused, tiny_base: Path, tmp_path: Path) -> None:
    for verb in (("eval",), ("merge", "--output", "x.safetensors")):
        assert "no run or adapter at nothing" in refused(*verb, "nothing", code=2)
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert "empty holds no adapter\nGive a run folder" in refused(*verb, "empty", code=2)
        assert "is a checkpoint, not a run or an adapter" in refused(*verb, tiny_base, code=2)
    assert "a merged checkpoint is a .safetensors file" in refused("merge", "empty", "--output", "x.pth", code=2)
