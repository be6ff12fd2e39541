"""Trained models in Python: predicting, and several adapters on one base."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import geopeft_cli
from geopeft_cli.contracts import official_parameters
from geopeft_cli.errors import AdapterError, DataError, UsageError
from geopeft_cli.verbs.finetune import finetune
from geopeft_cli.verbs.merge import merge_trained
from geopeft_cli.verbs.sharing import SharedBase
from geopeft_cli.verbs.trained import TrainedModel

CLOUDS = np.random.default_rng(0).normal(size=(3, 200, 3))


def answers(model: TrainedModel) -> np.ndarray:
    return np.asarray(model.predict(CLOUDS).probabilities)


def forget_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no checkpoint can be read."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("the base is read again")

    monkeypatch.setattr("geopeft_cli.assemble.model.read_checkpoint", refuse)


def test_three_lines(most_run: Path) -> None:
    model = geopeft_cli.load(most_run)
    found = model.predict(CLOUDS)
    assert found.classes == model.classes
    assert np.asarray(found.probabilities).shape == (3, len(model.classes))
    np.testing.assert_allclose(np.sum(found.probabilities, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(found.labels, np.argmax(found.probabilities, axis=1))


def test_arrays_lists_and_files_give_the_same(most_run: Path, tmp_path: Path) -> None:
    model = geopeft_cli.load(str(most_run))
    np.save(tmp_path / "one.npy", CLOUDS[1])
    whole = answers(model)
    for one in (CLOUDS[1], [np.hstack([CLOUDS[1], CLOUDS[0]])], tmp_path / "one.npy", [str(tmp_path / "one.npy")]):
        np.testing.assert_allclose(model.predict(one).probabilities, whole[1:2], atol=1e-6)
    assert model.predict(tmp_path / "one.npy").names == (str(tmp_path / "one.npy"),)


def test_loading_leaves_the_generator_of_torch_alone(most_run: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    geopeft_cli.load(most_run)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("clouds", "message"),
    [
        ([np.zeros((0, 3))], r"cloud 0: is float64 of shape \(0, 3\)"),
        ([CLOUDS[0], np.zeros((5, 2))], r"cloud 1: .* \(5, 2\)"),
        (np.full((5, 3), np.nan), "not finite"),
        (["nowhere.npy"], "nowhere.npy: no such file"),
    ],
)
def test_what_is_no_cloud(most_run: Path, clouds: list[np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        geopeft_cli.load(most_run).predict(clouds)


def test_labels_of_points_keep_to_the_category(parts_run: Path) -> None:
    model = geopeft_cli.load(parts_run)
    assert model.categories == ("cube", "plate")
    found = model.predict([CLOUDS[0], CLOUDS[1][:150]], ["cube", "plate"])
    assert [len(labels) for labels in found.labels] == [200, 150]
    assert found.probabilities[1].shape == (150, 4)
    assert (found.probabilities[0][:, 2:] == 0).all()
    assert (found.probabilities[1][:, :2] == 0).all()
    with pytest.raises(UsageError, match="a category is missing"):
        model.predict(CLOUDS[0])
    with pytest.raises(UsageError, match="1 clouds and 2 categories"):
        model.predict(CLOUDS[0], ["cube", "plate"])


def test_another_method_on_the_same_base(most_run: Path, lora_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, expected = geopeft_cli.load(most_run), answers(geopeft_cli.load(lora_run))
    before = answers(first)
    forget_base(monkeypatch)
    second = first.with_adapter(lora_run)
    np.testing.assert_array_equal(answers(second), expected)
    np.testing.assert_array_equal(answers(first), before)
    assert np.abs(before - expected).max() > 1e-4
    assert first.swap(lora_run) is first
    np.testing.assert_array_equal(answers(first), expected)
    monkeypatch.setattr(SharedBase, "open", None)
    np.testing.assert_array_equal(answers(first.swap(most_run)), before)
    np.testing.assert_array_equal(answers(second), expected)
    assert first.source == most_run / "adapter"


def test_models_on_one_base_share_what_does_not_train(most_run: Path, lora_run: Path) -> None:
    first = geopeft_cli.load(most_run)
    second = first.with_adapter(lora_run)
    places = [
        {name: parameter.data_ptr() for name, parameter in official_parameters(model._opened.model).items()}
        for model in (first, second)
    ]
    shared = {name for name in places[0].keys() & places[1].keys() if places[0][name] == places[1][name]}
    assert {"encoder.first_conv.0.weight", "blocks.blocks.1.attn.qkv.weight"} <= shared
    assert not any(name.startswith("cls_") for name in shared)


def test_adapters_of_one_form_change_places_without_building(
    lora_run: Path, lora_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = geopeft_cli.load(lora_run)
    plain, strong = answers(model), answers(geopeft_cli.load(lora_adapter))
    monkeypatch.setattr(SharedBase, "open", None)
    np.testing.assert_array_equal(answers(model.swap(lora_adapter)), strong)
    np.testing.assert_array_equal(answers(model.swap(lora_run)), plain)
    assert np.abs(plain - strong).max() > 1e-4


def test_what_trains_the_base_leaves_it_to_the_others(
    tiny_recipe: Path, lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = finetune(tiny_recipe, ["method={name: full}", "training.epochs=1"], tmp_path / "full").folder
    expected = [answers(geopeft_cli.load(run)) for run in (full, lora_run)]
    first = geopeft_cli.load(full)
    forget_base(monkeypatch)
    second = first.with_adapter(lora_run)
    third = second.with_adapter(full)
    for model, wanted in ((first, expected[0]), (second, expected[1]), (third, expected[0])):
        np.testing.assert_array_equal(answers(model), wanted)


def test_what_remembers_training_clouds_is_built_anew_and_only_the_last_is_kept(
    tiny_recipe: Path, lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOPEFT_CACHE", str(tmp_path / "cache"))
    overrides = ["method={name: point_peft, prompts: 5, prompted_blocks: 1}", "training.epochs=1"]
    remembering = finetune(tiny_recipe, overrides, tmp_path / "remembering").folder
    expected = answers(geopeft_cli.load(remembering))
    model = geopeft_cli.load(lora_run)
    before = answers(model)
    for _ in range(2):
        np.testing.assert_array_equal(answers(model.swap(remembering)), expected)
        np.testing.assert_array_equal(answers(model.swap(lora_run)), before)
    assert len(model._built) == 2


def test_adapters_of_other_bases_are_refused(most_run: Path, parts_run: Path, lora_run: Path, tmp_path: Path) -> None:
    model = geopeft_cli.load(most_run)
    before = answers(model)
    for change in (model.swap, model.with_adapter):
        with pytest.raises(AdapterError, match="was made for a base of point_mae with SHA-256"):
            change(parts_run)
        with pytest.raises(UsageError, match="no run or adapter at"):
            change(tmp_path / "nowhere")
    np.testing.assert_array_equal(answers(model), before)
    merged = merge_trained(lora_run, tmp_path / "merged.safetensors").file
    with pytest.raises(UsageError, match="is a file, not a run"):
        model.swap(merged)
    alone = geopeft_cli.load(merged)
    np.testing.assert_allclose(answers(alone), answers(geopeft_cli.load(lora_run)), atol=1e-5)
    with pytest.raises(UsageError, match="is merged: it has weights of its own"):
        alone.swap(most_run)
