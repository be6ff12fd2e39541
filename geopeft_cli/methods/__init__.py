"""Methods by recipe name. Adding one: a file here, a line here, its settings in ``recipe/methods.py``, a docs page."""

from __future__ import annotations

from geopeft_cli.contracts import Method, registered

METHODS = {
    "full": "geopeft_cli.methods.full:FullFineTuning",
    "linear_probe": "geopeft_cli.methods.linear_probe:LinearProbe",
    "bitfit": "geopeft_cli.methods.bitfit:BitFit",
    "lora": "geopeft_cli.methods.lora:LoRA",
    "adapter": "geopeft_cli.methods.adapter:Adapter",
    "prompt": "geopeft_cli.methods.prompt:Prompt",
    "monarch": "geopeft_cli.methods.most:Monarch",
    "most": "geopeft_cli.methods.most:MoST",
    "point_peft": "geopeft_cli.methods.point_peft:PointPEFT",
    "gem": "geopeft_cli.methods.gem:GEM",
}


def method_class(name: str) -> type[Method]:
    """The class behind a recipe name, imported now."""
    found: type[Method] = registered(METHODS[name])
    return found
