"""What ``inspect`` says of recipes, adapters and checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from geopeft_cli.backbones.point_mamba import PointMamba
from geopeft_cli.errors import AdapterError, UsageError
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.verbs.inspect import inspect_path
from geopeft_cli.verbs.preparing import prepare
from geopeft_cli.verbs.probing import dead_parameters

PROJECT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("kind", ["most", "lora"])
def test_adapter_recipe_and_run_agree(kind: str, most_run: Path, lora_run: Path) -> None:
    run = {"most": most_run, "lora": lora_run}[kind]
    found = inspect_path(str(run)).to_json()
    assert found["kind"] == "adapter"
    assert found == inspect_path(str(run / "adapter")).to_json()
    recipe = inspect_path(str(run / "recipe.yaml")).to_json()
    assert recipe["kind"] == "recipe"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    for key in ("trainable_parameters", "total_parameters"):
        assert found[key] == recipe[key] == last[key]
    assert found["adapter_bytes"] == (run / "adapter/adapter_model.safetensors").stat().st_size
    assert recipe["adapter_bytes"] is None
    trained = [
        {row["site"]: row["trainable"] for row in answer["sites"] if row["trainable"]} for answer in (found, recipe)
    ]
    assert trained[0] == trained[1]
    assert sum(row["trainable"] + row["frozen"] for row in found["sites"]) == found["total_parameters"]


def test_facts_of_an_adapter(most_run: Path) -> None:
    facts = inspect_path(str(most_run)).facts
    assert facts["method"].startswith("most (")
    assert facts["weights_kept"] == "last of 2 epochs"
    assert facts["seed"] == 0
    assert "test" in facts["metrics"]


def test_warnings_of_a_recipe(tiny_recipe: Path, most_run: Path) -> None:
    warnings = inspect_path(str(tiny_recipe)).table.warnings
    assert warnings == inspect_path(str(most_run)).table.warnings
    assert [warning.partition(":")[0] for warning in warnings] == ["lam is not 0"]


def test_a_relative_eps_is_called_so(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "relative.yaml"
    recipe.write_text(tiny_recipe.read_text().replace("blocks: 4", "blocks: 4, eps: {relative: 0.5}"))
    assert "eps relative 0.5," in inspect_path(str(recipe)).facts["method"]


def test_fused_blocks_of_a_recipe(tiny_recipe: Path, tmp_path: Path) -> None:
    assert inspect_path(str(tiny_recipe)).facts["fusion"] == "none"
    recipe = tmp_path / "fused.yaml"
    recipe.write_text(f"{tiny_recipe.read_text()}task: {{fusion: {{layers: 2}}}}\n")
    assert inspect_path(str(recipe)).facts["fusion"] == "blocks 0, 1"


def test_warnings_of_structural_zeros(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "zeros.yaml"
    recipe.write_text(tiny_recipe.read_text().replace("{name: most, blocks: 4}", "{name: monarch, blocks: 24}"))
    assert inspect_path(str(recipe)).table.warnings == [
        "24 Monarch blocks of inner width 1 leave 96 % of the update at zero by structure"
    ]


def test_dead_parameters_are_found(tiny_recipe: Path) -> None:
    _, experiment = prepare(load_recipe(tiny_recipe))
    assert dead_parameters(experiment) == []
    experiment.model.dead = torch.nn.Linear(2, 2)
    assert dead_parameters(experiment) == ["dead.weight", "dead.bias"]


def test_frozen_tokens_travel_but_do_not_train(tiny_recipe: Path, tmp_path: Path) -> None:
    from geopeft_cli.verbs.finetune import finetune

    run = finetune(tiny_recipe, ["method.tokens=freeze", "training.epochs=1"], tmp_path / "run")
    found = inspect_path(str(run.folder))
    assert found.table.trainable_parameters == run.summary["trainable_parameters"]


def test_an_adapter_is_inspected_without_torch(most_run: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['geopeft', 'inspect', *sys.argv[1:]]\n"
        "from geopeft_cli.__main__ import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'numpy'} & set(sys.modules), 'imported'"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    result = subprocess.run(
        [sys.executable, "-c", code, str(most_run), "--json"],
        capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == json.loads(json.dumps(inspect_path(str(most_run)).to_json()))


def test_a_pretraining_checkpoint(tiny_base: Path) -> None:
    found = inspect_path(str(tiny_base))
    facts = found.facts
    assert (found.kind, facts["network"], facts["stage"]) == ("checkpoint", "Point-MAE", "pretrained")
    assert (facts["width"], facts["depth"], facts["classes"]) == (24, 2, None)
    assert facts["loads"] == "yes, as point_mae; starts fresh: cls_token, cls_pos"
    assert (found.table.trainable_parameters, found.table.total_parameters > 0) == (0, True)


def test_a_checkpoint_of_an_unknown_network(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {"layer1.0.weight": torch.zeros(3, 3)}}, path)
    facts = inspect_path(str(path)).facts
    assert facts["network"] == "an unknown network"
    assert facts["loads"].startswith("no: an unknown network is not among the backbones")


def test_a_checkpoint_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"enc.base_model.model.enc0.block0.attn.qkv.weight": torch.ones(8, 4)}, path)
    facts = inspect_path(str(path)).facts
    assert facts["network"] == "a LoRA run of Pointcept"
    assert facts["loads"].startswith("no: a LoRA run of Pointcept is not among")


def test_a_checkpoint_whose_decoder_is_of_another_size(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    own = {f"MAE_encoder.{name}": tensor for name, tensor in PointMamba(width=24, depth=2).state_dict().items()}
    torch.save({"base_model": {"MAE_decoder.blocks.layers.3.norm.weight": torch.ones(8), **own}}, path)
    facts = inspect_path(str(path)).facts
    assert (facts["network"], facts["stage"], facts["width"], facts["depth"]) == ("PointMamba", "pretrained", 24, 2)
    assert facts["loads"] == "yes, as point_mamba"


def test_an_adapter_of_another_tool(lora_run: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = Path(shutil.copytree(lora_run / "adapter", tmp_path / "adapter"))
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    found = inspect_path(str(folder))
    assert found.facts["method"] == "lora"
    assert "another tool" in found.facts["written_by"]


def test_a_run_that_is_not_finished(most_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(most_run, tmp_path / "run"))
    shutil.rmtree(folder / "adapter")
    with pytest.raises(UsageError, match="The run is not finished: go on with geopeft finetune"):
        inspect_path(str(folder))


def test_nothing_that_geopeft_knows(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no adapter"):
        inspect_path(str(tmp_path))
    with pytest.raises(UsageError, match="no such file"):
        inspect_path(str(tmp_path / "nothing"))


def test_a_truncated_adapter(most_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(most_run / "adapter", tmp_path / "adapter"))
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(AdapterError, match="is truncated"):
        inspect_path(str(folder))


def test_structure_of_the_monarch_factors(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "padded.yaml"
    method = "{name: most, blocks: 7, targets: [attention_in], factor: {type: low_rank, rank: 2}, lam_schedule: {}}"
    recipe.write_text(tiny_recipe.read_text().replace("{name: most, blocks: 4}", method))
    found = inspect_path(str(recipe))
    assert found.facts["monarch"] == [
        "24 -> 72: 7 blocks, p 4, q 4, s 11, padded by 4 and 5, 57.1 % not zero by structure"
    ]
    assert "factor low_rank 2" in found.facts["method"]
    assert "targets attention_in," in found.facts["method"]
    assert "adabias" not in found.facts["method"]  # it is for the other variant
    assert found.table.warnings == []
