"""Processes that share batches: the sums they make together, and a whole run under torchrun."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from geopeft_cli.errors import UsageError
from geopeft_cli.reports.records import read_records
from geopeft_cli.training.distribution import Ranks
from geopeft_cli.verbs.finetune import finetune

PROJECT = Path(__file__).resolve().parents[3]

WORKER = """
import json, sys
from pathlib import Path
import torch
from torch import nn
from geopeft_cli.training.distribution import Ranks
from geopeft_cli.training.loop import _update

torch.manual_seed(0)
model = nn.Linear(5, 3)
points, labels = torch.randn(8, 5), torch.arange(8) % 3
with Ranks() as ranks:
    nn.functional.cross_entropy(model(ranks.share(points)), ranks.share(labels)).backward()
    model.bias.grad[0] += ranks.rank  # ranks differ by this as well
    ranks.average_gradients(model.parameters())
    buffer = torch.tensor([float(ranks.rank + 5)])
    ranks.copy_from_first([buffer])
    answer = {
        "share": ranks.share(torch.arange(8)).tolist(),
        "weight": model.weight.grad.tolist(),
        "bias": model.bias.grad.tolist(),
        "buffer": buffer.tolist(),
        "sum": ranks.sum(ranks.rank + 0.5),
    }
    # an overflow of one rank's scaled gradients must stop the step of both
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scaler.scale(model(points).sum()).backward()
    if ranks.rank == 1:
        model.weight.grad[0, 0] = float("inf")
    before = model.weight.detach().clone()
    _update(optimizer, scaler, list(model.parameters()), 1.0, ranks)
    answer["stepped"] = not torch.equal(before, model.weight)
    answer["scale"] = scaler.get_scale()
Path(sys.argv[1] + str(ranks.rank)).write_text(json.dumps(answer))
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(**values: object) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT), **{name: str(value) for name, value in values.items()}}


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with Ranks() as ranks:
        assert (ranks.size, ranks.rank, ranks.is_first) == (1, 0, True)
        batch = torch.arange(5)
        assert ranks.share(batch).tolist() == batch.tolist()
        assert ranks.sum(2.5) == 2.5


def test_a_batch_that_does_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="a batch of 5 clouds does not divide among 2 processes"):
        Ranks().share(torch.arange(5))


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    common = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "answer")],
            env=environment(**common, RANK=rank, LOCAL_RANK=rank),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    assert [(worker.communicate(timeout=120)[1], worker.returncode) for worker in workers] == [("", 0), ("", 0)]
    first, second = (json.loads((tmp_path / f"answer{rank}").read_text()) for rank in (0, 1))

    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    points, labels = torch.randn(8, 5), torch.arange(8) % 3
    torch.nn.functional.cross_entropy(model(points), labels).backward()
    assert model.weight.grad is not None
    assert model.bias.grad is not None
    model.bias.grad[0] += 0.5  # the mean of 0 and 1
    for answer in (first, second):
        torch.testing.assert_close(torch.tensor(answer["weight"]), model.weight.grad)
        torch.testing.assert_close(torch.tensor(answer["bias"]), model.bias.grad)
        assert (answer["buffer"], answer["sum"]) == ([5.0], 2.0)
        assert (answer["stepped"], answer["scale"]) == (False, 2.0)
    assert sorted(first["share"] + second["share"]) == list(range(8))
    assert len(first["share"]) == 4


@pytest.mark.slow
def test_torchrun_makes_one_run_with_the_losses_of_one_process(tiny_recipe: Path, tmp_path: Path) -> None:
    """Without dropout, stochastic depth and BatchNorm that trains, two processes and one are the same run."""
    overrides = ["task.head=linear", "backbone.drop_path=0.0", "training.batch_size=6"]
    one = finetune(tiny_recipe, overrides, tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", f"--master-port={free_port()}"]
    arguments = ["-m", "geopeft_cli", "finetune", str(tiny_recipe), *overrides, "--output", str(tmp_path / "two")]
    result = subprocess.run(
        [*command, *arguments], env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("weights kept: ") == 1
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )
    found, expected = (read_records(tmp_path / name / "metrics.jsonl") for name in ("two", "one"))
    assert len(found) == len(expected) == 3
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
        assert ours["train_accuracy"] == pytest.approx(theirs["train_accuracy"])
    assert found[-1]["test"] == one.metrics["test"]
