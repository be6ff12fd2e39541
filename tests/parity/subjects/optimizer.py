"""The groups of the optimizer and the rates of every epoch, as our recipe of the released fine-tuning has them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.backbones.recon import ReCon
from geopeft_cli.contracts import Backbone, official_parameters
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.tasks.classification import Classification
from geopeft_cli.training.loop import Plan
from geopeft_cli.training.schedule import OwnGroup, epochs_run, parameter_groups
from parity.golden_set import GoldenSet
from parity.subjects import Output

FILE = "optim.json"
SAME = ("epochs", "lr", "weight_decay", "warmup_epochs")
OTHERWISE = {"lr_min": "min_lr", "warmup_lr_init": "warmup_lr"}  # their words and ours


def run(kind: type[Backbone], recipe: str, golden: GoldenSet) -> Iterator[Output]:
    config = golden.config
    keys = {name: name for name in SAME} | OTHERWISE
    overrides = [f"training.{own}={config[word]}" for word, own in keys.items()]
    settings = load_recipe(f"classification/scanobjectnn/{recipe}", overrides).training
    own = tuple(OwnGroup(**group.model_dump()) for group in settings.groups)
    fields = {name: getattr(settings, name) for name in Plan.__dataclass_fields__}
    plan = Plan(**fields | {"groups": own})

    with torch.device("meta"):  # no values are needed
        model = kind()
        Classification([str(label) for label in range(config["cls_dim"])]).attach(model)
    shapes = {name: list(parameter.shape) for name, parameter in official_parameters(model).items()}
    assert shapes == golden.json("keys.json"), "the model has other parameters"
    names = {id(parameter): name for name, parameter in official_parameters(model).items()}
    groups = parameter_groups(model, plan.weight_decay, plan.groups)
    found = [
        {
            "weight_decay": group["weight_decay"],
            "base_lr": plan.lr * group["lr_scale"],
            "n": len(group["params"]),
            "names": [names[id(parameter)] for parameter in group["params"]],
        }
        for group in groups
    ]
    passes = range(epochs_run(plan.schedule, plan.epochs))
    rates = [[plan.rate(epoch, group["lr_scale"]) for group in groups] for epoch in passes]
    background = {key: value for key, value in golden.json(FILE).items() if key not in ("groups", "lr")}
    yield Output(FILE, "", background | {"groups": found, "lr": rates})


point_mae = partial(run, PointMAE, "point_mae_full")
recon = partial(run, ReCon, "recon_full")
