"""Cut golden sets down to what every clone carries: ``python tests/parity/make_core.py SOURCE_DIR [SOURCE_DIR ...]``.

Writes ``tests/parity/golden/<set>`` in the same format: indices, logits, a few means, and of a set with many
cases the small ones.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2]))

import numpy as np
from safetensors.numpy import save_file

from parity.golden_set import GoldenSet

STEP = 16
TARGET = Path(__file__).resolve().parent / "golden"
BACKGROUND = ("prefix",)  # keys outside the uniform ones that a comparison needs, beside configurations of routes
UNIFORM = ("schema", "set", "subject", "variant", "origin", "config", "files", "inputs", "weights", "outputs", "notes")


@dataclass(frozen=True)
class Core:
    """What to keep of a set: recorded tensors by glob, and of ``config.cases`` the named ones (``None``: all).

    ``without`` names inputs that nothing of it needs. ``thinned`` is kept of every 16th point, under another name.
    """

    outputs: tuple[str, ...] = ("*",)
    cases: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    thinned: Mapping[str, str] = field(default_factory=dict)


CLASSIFIER = ("logits", "fps_idx.*", "block0.mean", "block5.mean", "block11.mean")
GPT = ("logits", "fps_idx", "order", "encoder_tokens_mean", "ln_f_mean", "gen_block_mean", "recon_loss")
STAGES = ("logits", "fps_idx*", "block0.0.mean", "block1.2.mean", "block2.4.mean")
SEGMENTATION = Core(
    ("label_feat", "fps_idx.*", "block0.mean", "block5.mean", "block11.mean"), thinned={"log_probs": "logprob_every16"}
)
MAMBA = ("logits*", "fps_idx", "knn_center_idx", "alone.norm_first4", "norm_first4")
SCENE = ("varlen.logits.*", "logits.rows", "stage*.order_head", "stage*.count", "block*.mean", "decoder.mean")

CORES = {
    "act_scan": Core(CLASSIFIER),
    "act_semseg": SEGMENTATION,
    "gem_small_cfg": Core(("varlen.*.logits.rows", "*latents_final", "gem.logits.rows", "gem.stage?.mean")),
    "i2pmae_modelnet": Core(STAGES),
    "i2pmae_scan": Core(STAGES),
    "k_rectify": Core(
        ("*.y.mean", "*.y.rms", "*.y_rf0.tokens", "*.y_alone.tokens", "dist", "idx", "point_monarch.r*"),
        ("c384_t0", "c384_t2"),
    ),
    "mamba3d_modelnet40": Core(MAMBA, without=("mixer0_in_sample0",)),
    "mamba3d_scanobjectnn": Core((*MAMBA, "alone.block_mean"), without=("mixer0_in_sample0",)),
    "monarch_linear": Core(
        ("*.y", "*.dx", "*.dblkdiag*", "100x60_b8.dense", "*.rows3", "*.rowsum", "*.colsum", "*.residual_fro"),
        ("384x384_b32", "100x60_b8", "60x100_b8", "96x288_b16"),
    ),
    "most_paper": Core(
        ("*.y.mean", "1536x384_b8_k4.y", "100x60_b8_k4.*"), ("384x384_b8_k4", "1536x384_b8_k4", "100x60_b8_k4")
    ),
    "most_pointgpt": Core(
        (
            "logits",
            "logits_sample0_alone",
            "knn_*",
            "layer00.*",
            "extractor.layer23.mean",
            "generator.layer03.mean",
            "fused",
            "chamfer*",
        )
    ),
    "ops_fps_knn": Core(
        cases=(
            "all_300_300",
            "scaled0.05_256_256",
            "duplicated_1024_600",
            "zero_padded_200_150",
            "start_at_origin_128_32",
        )
    ),
    "optim_pointmae_fewshot": Core(),
    "optim_pointmae_scan": Core(),
    "optim_recon_scan": Core(),
    "peft_interop": Core(),
    "point_peft_m2ae": Core(
        ("single.logits", "single.cp*", "joint.logits", "joint.cp2", "fps.*", "knn.*", "topk.*", "*.block4.mean")
    ),
    "point_peft_mae": Core(
        ("single.logits", "nobank.*", "joint.logits", "joint.cp_feat", "fps.*", "knn.*", "topk.*", "*.block05.mean")
    ),
    "point_peft_modules": Core(
        ("gaa.fps", "gaa.knn", "gaa.pooled", "gaa.bottleneck_only", "pfa.topk*", "pfa.enhanced")
    ),
    "pointcept_ops": Core(),
    "pointbert_modelnet": Core((*CLASSIFIER, "knn_idx*")),
    "pointbert_partseg": SEGMENTATION,
    "pointbert_scan": Core(CLASSIFIER),
    "pointgpt_b": Core(GPT),
    "pointgpt_l": Core(GPT),
    "pointgpt_s": Core(GPT),
    "pointgpt_s_seg": Core(("logprob_every16", "fps_idx_*")),
    "point_m2ae_modelnet40": Core((*STAGES, "mask_count*", "svm_feature*")),
    "point_m2ae_scanobjectnn": Core((*STAGES, "mask_count*", "block_mean_2")),
    "point_m2ae_seg": Core(("logprob_every16", "fps_idx_*")),
    "pointmae_modelnet": Core((*CLASSIFIER, "knn_idx.*")),
    "pointmae_partseg": SEGMENTATION,
    "pointmae_scan": Core(CLASSIFIER),
    "pointmamba_scanobjectnn": Core(("logits", "fps_idx", "order_hilbert*", "block_mean", "out_first4", "out_mean")),
    "sonata_small_cfg": Core(SCENE),
    "recon_modelnet": Core((*CLASSIFIER, "knn_idx*")),
    "recon_partseg": SEGMENTATION,
    "recon_scan": Core(CLASSIFIER),
}


def write_core(source: Path, target: Path) -> None:
    """Write the core of the set ``source`` as the directory ``target``, replacing a former one."""
    golden = GoldenSet(source)
    core = CORES[golden.name]
    cases = golden.cases() if "cases" in golden.config else {}
    dropped = [case for case in cases if core.cases is not None and case not in core.cases]
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)

    configs = dict.fromkeys(route["config"] for route in golden.meta["weights"]["routes"] if "config" in route)
    meta = {key: golden.meta[key] for key in (*UNIFORM, *BACKGROUND, *configs) if key in golden.meta}
    kept_inputs = (name for name in meta["inputs"] if name not in core.without and not _of_case(name, dropped))
    meta["inputs"] = {name: meta["inputs"][name] for name in kept_inputs}
    if dropped:
        kept = {name: value for name, value in cases.items() if name not in dropped}
        meta["config"] = golden.config | {
            "cases": kept if isinstance(golden.config["cases"], dict) else [*kept.values()]
        }

    inputs = {entry.get("tensor") for entry in meta["inputs"].values()}
    names: set[str] = set()
    for file, content in golden.stored.items():
        tensors = {
            name: tensor
            for name, tensor in content.items()
            if name in inputs
            or (not _of_case(name, dropped) and any(fnmatchcase(name, pattern) for pattern in core.outputs))
        }
        names |= tensors.keys()
        thin = {core.thinned[name]: content[name][:, ::STEP] for name in content if name in core.thinned}
        save_file(tensors | {name: np.ascontiguousarray(tensor) for name, tensor in thin.items()}, target / file)
    meta["outputs"] = _described(golden, names) | _thinned(golden, core)
    for file in golden.meta["files"]:
        if not file.startswith("io"):
            _copy(golden, file, target, dropped)
    _write_json(target / "meta.json", meta)


def _described(golden: GoldenSet, names: set[str]) -> dict[str, Any]:
    """The entries that still describe something, in their order."""
    shapes = {name: list(tensor.shape) for content in golden.stored.values() for name, tensor in content.items()}
    entries: dict[str, Any] = {}
    for pattern, entry in golden.rules.items():
        own = [name for name in sorted(names) if golden.rule(name) is entry]
        if "file" in entry:
            entries[pattern] = entry
        elif own:
            entry = {key: value for key, value in entry.items() if key not in ("count", "shape", "shapes")}
            entries[pattern] = entry | {"count": len(own), "shapes": {name: shapes[name] for name in own}}
    return entries


def _thinned(golden: GoldenSet, core: Core) -> dict[str, Any]:
    """The entries of what is kept of every 16th point."""
    entries: dict[str, Any] = {}
    for name, kept in core.thinned.items():
        entry = {key: value for key, value in golden.rules[name].items() if key != "shape"}
        clouds, points, classes = golden.rules[name]["shape"]
        entry["meaning"] = f"{entry['meaning']}; points 0, {STEP}, {2 * STEP}, ..."
        entries[kept] = entry | {"shapes": {kept: [clouds, -(-points // STEP), classes]}}
    return entries


def _of_case(name: str, cases: list[str]) -> bool:
    return any(f".{case}." in f".{name}." for case in cases)


def _copy(golden: GoldenSet, file: str, folder: Path, dropped: list[str]) -> None:
    if not dropped or not file.endswith(".json"):
        shutil.copyfile(golden.folder / file, folder / file)
        return
    _write_json(folder / file, {key: value for key, value in golden.json(file).items() if not _of_case(key, dropped)})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write_core(Path(argument), TARGET / GoldenSet(Path(argument)).name)
