"""A merged model is the unmerged one, under official names, and the unmerged one is left alone."""

from __future__ import annotations

import pytest
import torch

from contract.subject import CLASSES, Subject, clouds, copied, logits, same_bits, tiny_backbone
from geopeft_cli.adapters.merge import foldable_layers, merge
from geopeft_cli.assemble import Experiment
from geopeft_cli.contracts import Foldable, Wrapper, official_state
from geopeft_cli.errors import MergeError
from geopeft_cli.tasks import task_class

CLOUDS = [clouds(8, seed=3), clouds(8, seed=4)]


def official_names(experiment: Experiment) -> set[str]:
    plain = tiny_backbone(experiment.model.name)
    task_class(experiment.task.name)(**{**experiment.task.settings(), "classes": CLASSES}).attach(plain)
    return set(official_state(plain))


def is_foldable(experiment: Experiment) -> bool:
    return all(isinstance(m, Foldable) for m in experiment.model.modules() if isinstance(m, Wrapper))


@pytest.fixture
def foldable(subject: Subject) -> Subject:
    if not is_foldable(subject.moved()):
        pytest.skip("refused in every mode")
    return subject


def approximate_modes(experiment: Experiment) -> list[str]:
    return sorted({mode for layer in foldable_layers(experiment.model).values() for mode in layer.approximate_modes})


def test_the_default_mode_is_exact_or_refused(subject: Subject) -> None:
    experiment = subject.moved()
    before = copied(official_state(experiment.model))
    if not is_foldable(experiment):
        for mode in ("auto", "exact", "drop-k"):
            with pytest.raises(MergeError, match="cannot be merged"):
                merge(experiment.model, mode, CLOUDS)
        return
    result = merge(experiment.model, "auto", CLOUDS)
    assert result.exact
    for batch in CLOUDS:
        unmerged = logits(experiment.model, batch)
        error = float((logits(result.model, batch) - unmerged).abs().max())
        assert error <= 1e-5 * max(1.0, float(unmerged.std()))
        assert error <= result.difference
    names, official = set(official_state(result.model)), official_names(experiment)
    sites = tuple(f"{site.name}." for site in experiment.model.sites())
    assert official <= names
    assert all(name.startswith(sites) for name in names - official)
    assert bool(names - official) == (result.mode != "exact") == bool(foldable_layers(result.model))
    assert same_bits(official_state(experiment.model), before)


def test_approximate_modes_leave_official_names(foldable: Subject) -> None:
    experiment = foldable.moved()
    modes = approximate_modes(experiment)
    for mode in modes:
        result = merge(experiment.model, mode, CLOUDS)
        assert not result.exact
        assert set(official_state(result.model)) == official_names(experiment)
        assert len(result.errors) == result.layers > 0
        assert all(0 < error < 2 for error in result.errors.values())
        assert result.difference > 1e-4
    for mode in {"drop-k", "dc", "calibrated-scalar", "calibrated-matrix"} - set(modes):
        with pytest.raises(MergeError, match="not possible"):
            merge(experiment.model, mode, CLOUDS)


def test_a_value_that_is_not_finite_stops_the_merge(foldable: Subject) -> None:
    experiment = foldable.perturbed()
    with torch.no_grad():
        next(p for p in experiment.model.parameters() if p.requires_grad).view(-1)[0] = torch.inf
    with pytest.raises(MergeError, match="not finite"):
        merge(experiment.model, "auto", CLOUDS)


def test_an_unknown_mode_lists_the_known(foldable: Subject) -> None:
    with pytest.raises(MergeError) as caught:
        merge(foldable.moved().model, "nonsense", CLOUDS)
    assert "Exact: " in str(caught.value)
