"""From merged files back to adapters and bases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from geopeft_cli.adapters.directory import read_adapter
from geopeft_cli.adapters.header import read_header
from geopeft_cli.backbones import backbone_class
from geopeft_cli.backbones.checkpoint import fingerprint, read_checkpoint
from geopeft_cli.backbones.files import ASIDE
from geopeft_cli.errors import AdapterError, MergeError, UsageError
from geopeft_cli.verbs.evaluate import evaluate_trained
from geopeft_cli.verbs.export import export_trained
from geopeft_cli.verbs.finetune import finetune
from geopeft_cli.verbs.inspect import inspect_path
from geopeft_cli.verbs.merge import merge_trained
from geopeft_cli.verbs.opening import open_trained
from geopeft_cli.verbs.reversible import same_bits
from geopeft_cli.verbs.unmerge import BASE_FILE, unmerge

TENSORS = "adapter_model.safetensors"
LAYOUT = backbone_class("point_mae").layout
GONE = "backbone.checkpoint=/no/such/base.pth"
Train = Callable[[str], Path]


@pytest.fixture(scope="module")
def train(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Adapters of other methods, one run each; not to be changed."""
    made: dict[str, Path] = {}

    def trained(method: str) -> Path:
        if method not in made:
            overrides = [f"method={{name: {method}}}", "training.epochs=1", "training.lr=0.01"]
            folder = tmp_path_factory.mktemp("runs") / "run"
            made[method] = finetune(tiny_recipe, overrides, folder).folder / "adapter"
        return made[method]

    return trained


@pytest.fixture
def adapter_of(train: Train, most_adapter: Path, lora_adapter: Path) -> Train:
    return lambda kind: {"most": most_adapter, "lora": lora_adapter}.get(kind) or train(kind)


def base_of(path: Path) -> dict[str, Tensor]:
    return read_checkpoint(str(path), "point_mae", LAYOUT).backbone


def as_loaded(path: Path) -> dict[str, Tensor]:
    """A base as the model holds it: single precision, whatever the file has."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in base_of(path).items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not same_bits(found[name], expected[name])] == []


def rewritten(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, read_header(path).metadata)


def logits(path: Path, *overrides: str) -> Tensor:
    with torch.no_grad():
        result: Tensor = open_trained(path, overrides).model(
            torch.randn(6, 128, 3, generator=torch.Generator().manual_seed(2))
        )
    return result


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("lora", "auto"),
        ("monarch, blocks: 4", "exact"),
        ("most", "keep-k"),
        ("most", "stacked"),
        ("most", "drop-k"),
        ("most", "calibrated-scalar"),
        ("most", "calibrated-matrix"),
        ("full", "auto"),
        ("bitfit", "auto"),
        ("linear_probe", "auto"),
        ("monarch, blocks: 4, targets: [attention_out, encoder.first_conv.3], bias: true", "exact"),
        ("most, blocks: 4, bias: true", "keep-k"),
        ("most, blocks: 4, bias: true", "stacked"),
    ],
)
def test_the_way_there_and_back(adapter_of: Train, tiny_base: Path, tmp_path: Path, kind: str, mode: str) -> None:
    adapter, file, folder = adapter_of(kind), tmp_path / "merged.safetensors", tmp_path / "restored"
    merge_trained(adapter, file, mode, reversible=True)
    merge_trained(adapter, tmp_path / "plain.safetensors", mode)
    assert torch.equal(logits(file), logits(tmp_path / "plain.safetensors"))
    found = unmerge(file, folder, overrides=[GONE])
    assert (found.base, found.deviation) == ("stored", None)
    former, restored = read_adapter(adapter), read_adapter(folder)
    assert_same(restored.tensors, former.tensors)
    assert (restored.manifest, restored.config) == (former.manifest, former.config)
    assert (folder / "README.md").read_bytes() == (adapter / "README.md").read_bytes()
    assert_same(base_of(folder / BASE_FILE), as_loaded(tiny_base))
    assert former.manifest is not None
    assert fingerprint(base_of(folder / BASE_FILE)) == former.manifest.base_sha256
    assert set(load_file(folder / BASE_FILE)) <= {LAYOUT.prefix + name for name in base_of(tiny_base)}
    assert torch.equal(logits(folder), logits(adapter))
    assert torch.equal(logits(folder, f"backbone.checkpoint={folder / BASE_FILE}"), logits(adapter))


def test_a_restored_adapter_is_the_same_directory(train: Train, tmp_path: Path) -> None:
    adapter = train("bitfit")
    merge_trained(adapter, tmp_path / "merged.safetensors", reversible=True)
    unmerge(tmp_path / "merged.safetensors", tmp_path / "restored")
    found = unmerge(tmp_path / "merged.safetensors", tmp_path / "again")
    assert found.arguments == (f"backbone.checkpoint={tmp_path / 'again' / BASE_FILE}",)
    for file in adapter.iterdir():
        assert (tmp_path / "restored" / file.name).read_bytes() == file.read_bytes()


def test_a_base_that_is_known_by_its_digest(lora_adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    file = tmp_path / "merged.safetensors"
    merge_trained(lora_adapter, file, reversible=True)
    digest = hashlib.sha256(tiny_base.read_bytes()).hexdigest()
    found = unmerge(file, tmp_path / "restored", overrides=[f"backbone.sha256={digest}"])
    assert found.arguments[1:] == ("backbone.sha256=null",)
    assert torch.equal(
        logits(tmp_path / "restored", f"backbone.sha256={digest}", *found.arguments), logits(lora_adapter)
    )


def test_a_base_with_a_head_is_restored_with_it(lora_adapter: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    base = tmp_path / "classifier.safetensors"
    merge_trained(lora_adapter, base)
    overrides = [f"backbone.checkpoint={base}", "task.head_from=checkpoint", "method={name: lora}", "training.epochs=1"]
    run = finetune(tiny_recipe, overrides, tmp_path / "run").folder
    merge_trained(run, tmp_path / "merged.safetensors", reversible=True)
    unmerge(tmp_path / "merged.safetensors", tmp_path / "restored")
    assert_same(load_file(tmp_path / "restored" / BASE_FILE), load_file(base))
    before = logits(run)
    base.unlink()
    assert torch.equal(
        logits(tmp_path / "restored", f"backbone.checkpoint={tmp_path / 'restored' / BASE_FILE}"), before
    )


def test_what_is_kept_is_out_of_the_way(most_adapter: Path, tmp_path: Path) -> None:
    plain, file = tmp_path / "plain.safetensors", tmp_path / "merged.safetensors"
    merge_trained(most_adapter, plain, "drop-k")
    merge_trained(most_adapter, file, "drop-k", reversible=True)
    names = set(load_file(file))
    assert set(load_file(plain)) == {name for name in names if not name.startswith(ASIDE)}
    sites = [f"blocks.blocks.{block}.{layer}" for block in (0, 1) for layer in ("attn.qkv", "mlp.fc1")]
    assert {name for name in names if name.startswith(ASIDE)} == (
        {f"{ASIDE}base.{site}.weight" for site in sites}
        | {f"{ASIDE}adapter.{site}.most.blkdiag{factor}" for site in sites for factor in (1, 2)}
    )
    assert evaluate_trained(file) == evaluate_trained(plain)
    for path, name in ((plain, "a.pth"), (file, "b.pth")):
        export_trained(path, "official", tmp_path / name)
    a, b = (torch.load(tmp_path / name, weights_only=True)["base_model"] for name in ("a.pth", "b.pth"))
    assert_same(a, b)
    facts, shown = inspect_path(str(plain)), inspect_path(str(file))
    assert shown.facts["merged"]["reversible"] is True
    assert "reversible" not in facts.facts["merged"]
    assert shown.table == facts.table
    assert_same(base_of(file), base_of(plain))


def test_merging_reversibly_twice_gives_the_same_bytes(most_adapter: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.safetensors" for index in range(2)]
    for file in files:
        merge_trained(most_adapter, file, "calibrated-scalar", reversible=True)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        ASIDE + "base.blocks.blocks.0.attn.qkv.weight",
        ASIDE + "adapter.blocks.blocks.1.attn.qkv.lora_A.weight",
        "norm.weight",
        "cls_head_finetune.0.bias",
        "blocks.blocks.0.attn.qkv.weight",
    ],
)
@pytest.mark.parametrize("how", ["changed", "removed"])
def test_a_file_that_was_changed_is_refused(lora_adapter: Path, tmp_path: Path, name: str, how: str) -> None:
    file = tmp_path / "merged.safetensors"
    merge_trained(lora_adapter, file, reversible=True)
    change = (lambda t: t[name].view(-1)[0].add_(1e-3)) if how == "changed" else (lambda t: t.pop(name))
    rewritten(file, change)
    with pytest.raises(AdapterError) as caught:
        unmerge(file, tmp_path / "restored")
    assert caught.value.message == f"{file} was changed after it was written"
    assert list(tmp_path.iterdir()) == [file]


def test_a_record_of_another_base_is_refused(lora_adapter: Path, tmp_path: Path) -> None:
    file = tmp_path / "merged.safetensors"
    merge_trained(lora_adapter, file, reversible=True)
    metadata = read_header(file).metadata
    record = json.loads(metadata["geopeft"])
    save_file(load_file(file), file, {**metadata, "geopeft": json.dumps({**record, "base_sha256": "ab" * 32})})
    with pytest.raises(AdapterError, match=r"the base restored has SHA-256 \w{12}…, the record says abababababab…"):
        unmerge(file, tmp_path / "restored")
    assert list(tmp_path.iterdir()) == [file]


def test_without_originals_the_adapter_must_be_given(lora_adapter: Path, tmp_path: Path) -> None:
    file = tmp_path / "merged.safetensors"
    merge_trained(lora_adapter, file)
    with pytest.raises(UsageError) as caught:
        unmerge(file, tmp_path / "restored")
    assert caught.value.message == f"{file} is not reversible: it does not hold the adapter that was merged"
    assert caught.value.hint == "Give it with --adapter RUN. Merging with --reversible keeps it in the file."
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("lora", "exact"),
        ("most", "keep-k"),
        ("most", "stacked"),
        ("most", "drop-k"),
        ("most", "dc"),
        ("monarch, blocks: 4, targets: [attention_out, encoder.first_conv.3], bias: true", "exact"),
        ("most, blocks: 4, bias: true", "keep-k"),
        ("most, blocks: 4, bias: true", "stacked"),
    ],
)
def test_subtraction_rounds_and_says_by_how_much(
    adapter_of: Train, tiny_base: Path, tmp_path: Path, kind: str, mode: str
) -> None:
    adapter, file = adapter_of(kind), tmp_path / "merged.safetensors"
    merge_trained(adapter, file, mode)
    true = as_loaded(tiny_base)
    measured = unmerge(file, tmp_path / "exact", adapter)
    assert measured.base == "checkpoint"
    assert_same(base_of(tmp_path / "exact" / BASE_FILE), true)
    assert_same(read_adapter(tmp_path / "exact").tensors, read_adapter(adapter).tensors)
    assert read_adapter(tmp_path / "exact").manifest == read_adapter(adapter).manifest

    found = unmerge(file, tmp_path / "rounded", adapter, [GONE])
    assert (found.base, found.deviation) == ("subtracted", None)
    rounded = base_of(tmp_path / "rounded" / BASE_FILE)
    assert rounded.keys() == true.keys()
    largest = max(float((rounded[name].double() - true[name].double()).abs().max()) for name in true)
    assert measured.deviation == largest
    assert largest < 1e-6
    if mode == "stacked" and "bias" not in kind:
        assert largest == 0  # the base's weight is a part of the stacked one
    elif mode != "stacked":
        assert largest > 0
    assert_same(read_adapter(tmp_path / "rounded").tensors, read_adapter(adapter).tensors)
    manifest = read_adapter(tmp_path / "rounded").manifest
    assert manifest is not None
    assert manifest.base_sha256 == fingerprint(rounded)
    again = logits(tmp_path / "rounded", f"backbone.checkpoint={tmp_path / 'rounded' / BASE_FILE}")
    torch.testing.assert_close(again, logits(adapter), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["full", "bitfit"])
def test_what_was_trained_over_comes_from_the_base_alone(
    train: Train, tiny_base: Path, tmp_path: Path, kind: str
) -> None:
    adapter, file = train(kind), tmp_path / "merged.safetensors"
    merge_trained(adapter, file)
    assert unmerge(file, tmp_path / "restored", adapter).base == "checkpoint"
    assert_same(base_of(tmp_path / "restored" / BASE_FILE), as_loaded(tiny_base))
    with pytest.raises(MergeError) as caught:
        unmerge(file, tmp_path / "other", adapter, [GONE])
    assert "tensors of the base that the training went over, such as " in caught.value.message
    assert caught.value.message.endswith("and /no/such/base.pth is not that base")
    assert caught.value.hint == "Give the base with backbone.checkpoint=PATH."
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("mode", ["calibrated-scalar", "calibrated-matrix"])
def test_what_was_fitted_cannot_be_subtracted(most_adapter: Path, tmp_path: Path, mode: str) -> None:
    file = tmp_path / "merged.safetensors"
    merge_trained(most_adapter, file, mode)
    with pytest.raises(MergeError) as caught:
        unmerge(file, tmp_path / "restored", most_adapter)
    assert caught.value.message == (
        f"mode {mode} was fitted to clouds, and the adapter alone does not say by how much to undo it"
    )
    assert caught.value.hint == "Merge it again with --reversible."
    assert list(tmp_path.iterdir()) == [file]


def test_the_adapter_must_be_the_one_that_was_merged(
    lora_adapter: Path, lora_run: Path, most_adapter: Path, tmp_path: Path
) -> None:
    file = tmp_path / "merged.safetensors"
    merge_trained(lora_adapter, file)
    with pytest.raises(AdapterError, match=r"is not the adapter that was merged into .*merged\.safetensors"):
        unmerge(file, tmp_path / "restored", most_adapter)
    # the record is the same, the factors are others
    with pytest.raises(AdapterError, match=r"what is left without the update differs from the base by \d\.\de-0[01]"):
        unmerge(file, tmp_path / "restored", lora_run)
    rewritten(file, lambda tensors: tensors["cls_head_finetune.0.bias"].add_(1))
    with pytest.raises(AdapterError, match="is not the adapter that was merged into"):
        unmerge(file, tmp_path / "restored", lora_adapter)
    assert list(tmp_path.iterdir()) == [file]


def test_arguments_that_make_no_sense(lora_adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--unmerge takes a merged file, and .* is none"):
        unmerge(lora_adapter, tmp_path / "x")
    with pytest.raises(UsageError, match="is a checkpoint, not a run or an adapter"):
        unmerge(tiny_base, tmp_path / "x")
    with pytest.raises(UsageError, match=r"--unmerge takes a merged file, and .* is none"):
        unmerge(lora_adapter / TENSORS, tmp_path / "x")
    file = tmp_path / "merged.safetensors"
    merge_trained(lora_adapter, file, reversible=True)
    with pytest.raises(UsageError, match=r"is reversible and holds its adapter\nLeave --adapter out"):
        unmerge(file, tmp_path / "x", lora_adapter)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/y").write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        unmerge(file, tmp_path / "x")
    assert (tmp_path / "x/y").read_text() == "precious"
