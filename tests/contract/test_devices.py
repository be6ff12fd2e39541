"""Nothing of a forward or backward pass is made on another device than the input's; nothing calls for a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import geopeft_cli
from contract.subject import Subject, clouds, trainable


def test_training_and_evaluation_stay_on_their_device(subject: Subject) -> None:
    model = subject.build().model.to("meta")  # a device that refuses to meet tensors of another one
    model.train()
    assert model.task is not None
    logits = model(clouds(6).to("meta"))
    model.task.loss(logits, torch.zeros(6, dtype=torch.int64, device="meta")).backward()
    assert logits.device.type == "meta"
    assert {p.grad.device.type for p in trainable(model).values() if p.grad is not None} == {"meta"}
    model.eval()
    with torch.no_grad():
        assert model(clouds(2).to("meta")).device.type == "meta"


@pytest.mark.parametrize("word", [".cuda()", "cpp_extension", "torch.ops.load_library"])
def test_no_compiled_extension_and_no_call_for_a_gpu(word: str) -> None:
    root = Path(geopeft_cli.__file__).parent
    sources = list(root.rglob("*.py"))
    assert len(sources) > 50
    assert [str(path.relative_to(root)) for path in sources if word in path.read_text(encoding="utf-8")] == []
