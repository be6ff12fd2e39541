"""Say what a recipe, a run, an adapter or a checkpoint holds. Adapters are read without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geopeft_cli.recipe.methods import LINEAR_ONLY, RELEASED_ONLY
from geopeft_cli.reports.parameters import ParameterTable, parameter_table, structure_warnings
from geopeft_cli.reports.protocol import prepared_in_words


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        kind: ``recipe``, ``adapter``, ``merged`` or ``checkpoint``.
        facts: short statements by heading, in the order in which they are shown.
        table: parameters by site.
    """

    kind: str
    facts: dict[str, Any]
    table: ParameterTable = field(default_factory=lambda: ParameterTable(0, 0, []))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.facts, **self.table.to_json()}


def inspect_path(target: str) -> Inspection:
    """Look at whatever ``target`` is.

    Raises:
        GeopeftError: it is nothing that geopeft knows, or it is damaged.
    """
    if is_recipe(target):
        return inspect_recipe(target)
    path = Path(target).expanduser()
    return inspect_adapter(path) if path.is_dir() else inspect_file(path)


def is_recipe(target: str) -> bool:
    """Whether ``target`` is a recipe file, or no path at all and so perhaps the name of a shipped recipe."""
    path = Path(target).expanduser()
    return path.suffix in (".yaml", ".yml") or not path.exists()


def inspect_adapter(path: Path) -> Inspection:
    """A run or an adapter directory, from headers and records alone."""
    from geopeft_cli.adapters.header import read_header
    from geopeft_cli.adapters.manifest import HEADER_KEY, Manifest
    from geopeft_cli.adapters.peft_layout import CONFIG, PREFIX, TENSORS, find_adapter, read_config

    folder = find_adapter(path)
    config, header = read_config(folder / CONFIG), read_header(folder / TENSORS)
    shapes = {name.removeprefix(PREFIX): shape for name, shape in header.shapes.items()}
    if HEADER_KEY not in header.metadata:
        table = parameter_table(shapes)
        table.adapter_bytes = header.size
        facts = {"path": str(folder), "method": config["peft_type"].lower(), "written_by": "another tool (no record)"}
        return Inspection("adapter", facts, table)
    manifest = Manifest.from_text(header.metadata[HEADER_KEY], str(folder / TENSORS))
    frozen_here = set() if _tokens_trained(manifest) else set(manifest.fresh)
    table = parameter_table(shapes, set(shapes) - frozen_here, manifest.total_parameters)
    table.adapter_bytes = header.size
    table.warnings = structure_warnings(shapes, manifest.recipe["method"])
    return Inspection("adapter", {"path": str(folder), **_facts(manifest)}, table)


def inspect_recipe(source: str) -> Inspection:
    """A recipe: the model is built, and two steps on random clouds find parameters that no gradient reaches."""
    from geopeft_cli.assemble import vocabulary
    from geopeft_cli.data.scenes import SceneSplits
    from geopeft_cli.recipe.load import load_recipe
    from geopeft_cli.verbs.preparing import prepare
    from geopeft_cli.verbs.probing import (
        dead_parameters,
        fused_blocks,
        model_table,
        monarch_structure,
        rates_in_words,
        remembered_clouds,
    )

    recipe = load_recipe(source)
    splits, experiment = prepare(recipe)
    table = model_table(experiment)
    dead = dead_parameters(experiment)
    if dead:
        table.warnings.append(f"no gradient reaches {len(dead)} trainable tensors: {', '.join(dead[:4])}")
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    facts = {
        "name": recipe.name,
        "method": _described(recipe.method.model_dump()),
        "monarch": monarch_structure(experiment.model),
        "backbone": f"{recipe.backbone.name}, {recipe.backbone.checkpoint}",
        "scenes" if isinstance(splits, SceneSplits) else "clouds": ", ".join(
            f"{name} {len(part)}" for name, part in parts.items() if part is not None
        ),
        "classes": len(splits.train.classes),
        "labels_of_points": len(vocabulary(splits.train).part_names) or None,
        "fusion": fused_blocks(experiment.model),
        "memory": "" if isinstance(splits, SceneSplits) else remembered_clouds(experiment, splits.train),
        "augment": recipe.data.augment
        if isinstance(recipe.data.augment, str)
        else ", ".join(recipe.data.augment) or "none",
        "rates": rates_in_words(experiment),
        "select": recipe.training.select,
        "published": [published.model_dump() for published in recipe.published],
    }
    return Inspection("recipe", facts, table)


def inspect_file(path: Path) -> Inspection:
    """A checkpoint: which network, size and stage it is, and what of it would load."""
    from geopeft_cli.adapters.manifest import HEADER_KEY, Manifest
    from geopeft_cli.backbones.files import read_metadata, read_tensors
    from geopeft_cli.backbones.layouts import identify, of_branch, strip_wrappers
    from geopeft_cli.verbs.probing import loadability

    metadata = read_metadata(path)
    named = of_branch({strip_wrappers(name): tensor for name, tensor in read_tensors(path).items()})
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    table = parameter_table(shapes, trainable=set())
    if HEADER_KEY in metadata:
        manifest = Manifest.from_text(metadata[HEADER_KEY], str(path))
        return Inspection("merged", {"path": str(path), **_facts(manifest), "merged": manifest.merged}, table)
    identity = identify(named)
    facts = {
        "path": str(path),
        "network": identity.title,
        "stage": identity.stage,
        "width": identity.width,
        "depth": identity.depth,
        "classes": identity.classes,
        "tensors": len(named),
        "loads": loadability(path, identity),
        **({"license": identity.license} if identity.license else {}),
    }
    return Inspection("checkpoint", facts, table)


def _facts(manifest: Any) -> dict[str, Any]:
    recipe = manifest.recipe
    return {
        "name": recipe["name"],
        "method": _described(recipe["method"]),
        "backbone": f"{recipe['backbone']['name']}, {recipe['backbone']['checkpoint']}",
        "base_sha256": manifest.base_sha256,
        "classes": manifest.classes,
        **({"labels_of_points": manifest.part_names} if manifest.part_names else {}),
        "input": prepared_in_words(recipe["data"]),
        "seed": recipe["seed"],
        "weights_kept": manifest.selection.get("text"),
        "metrics": manifest.metrics,
        "memory": manifest.memory and _memory(manifest.memory),
        "versions": manifest.versions,
        **({} if manifest.origin is None else {"origin": manifest.origin}),
    }


def _memory(record: Mapping[str, Any]) -> str:
    return (
        f"{record['columns']} columns x {record['width']} of {record['clouds']} training clouds, "
        f"{record['precision']}, {record['bytes'] / 1e6:.2f} MB; "
        f"SHA-256 {record['sha256'][:12]}…, clouds {record['clouds_sha256'][:12]}…"
    )


def _described(method: Mapping[str, Any]) -> str:
    unused = {"linear": RELEASED_ONLY, "released": LINEAR_ONLY}.get(method.get("variant", ""), ())
    settings = [
        f"{key} {_in_short(value)}"
        for key, value in method.items()
        if key != "name" and value is not None and key not in unused
    ]
    return f"{method['name']} ({', '.join(settings)})" if settings else str(method["name"])


def _in_short(value: Any) -> str:
    if isinstance(value, Mapping):
        parts = {key: _in_short(part) for key, part in value.items() if part is not None}
        return " ".join(parts.values() if "type" in parts else (f"{key} {part}" for key, part in parts.items()))
    return " + ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _tokens_trained(manifest: Any) -> bool:
    """Whether the class tokens that travel with the adapter also trained: unless the recipe freezes them."""
    return bool(manifest.recipe["method"]["tokens"] != "freeze")
