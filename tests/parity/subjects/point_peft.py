"""Point-PEFT: its modules alone, and the whole models on Point-MAE and Point-M2AE with their gradients."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.backbones.point_m2ae import PointM2AE
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.backbones.transformer import Attention
from geopeft_cli.contracts import Backbone, Geometry, Level, official_parameters, official_state
from geopeft_cli.geometry.grouping import take
from geopeft_cli.geometry.neighbors import nearest_neighbors
from geopeft_cli.geometry.sampling import farthest_point_sample
from geopeft_cli.methods import point_peft_groups
from geopeft_cli.methods.bottleneck import Bottleneck
from geopeft_cli.methods.group_adapter import FLOOR, GroupAttention, Grouping, LocalStep
from geopeft_cli.methods.point_peft import PointPEFT
from geopeft_cli.methods.point_peft_block import CP_HIDDEN
from geopeft_cli.methods.point_peft_groups import Groups, PromptChain, Variant
from geopeft_cli.methods.point_prior import Bank
from geopeft_cli.tasks.classification import Classification
from parity.golden_set import GoldenSet, Route
from parity.subjects import Output
from parity.tensors import as_tensors

FILE = "io.safetensors"
Outputs = dict[str, Tensor]


def modules(golden: GoldenSet) -> Iterator[Output]:
    """The local step with ``adapter1`` behind it, and the parameter-free attention."""
    (route,) = golden.routes()
    sizes = golden.config
    width, inner = sizes["C"], route.weights["blocks.attn1.proj.weight"].shape[1]
    given = {name: torch.from_numpy(golden.input(name)) for name in golden.meta["inputs"]}
    weights = as_tensors(route.weights)
    (block,) = {match[1] for name in weights if (match := re.match(r"blocks\.blocks\.(\d+)\.adapter1\.ln1\.w", name))}

    def filled(module: nn.Module, name: str) -> Any:
        own = {key.removeprefix(f"{name}."): tensor for key, tensor in weights.items() if key.startswith(f"{name}.")}
        module.load_state_dict(own)
        return module.eval()

    attention = filled(GroupAttention(width, inner, 6), "blocks.attn1")
    norm = filled(nn.LayerNorm(width), "blocks.norm3")
    transform = filled(nn.Sequential(nn.BatchNorm1d(width), nn.GELU()), f"blocks.blocks.{block}.out_transform")
    adapter1 = filled(Bottleneck(width, 16, 0.0), f"blocks.blocks.{block}.adapter1")
    cp_adapter = filled(Bottleneck(width, CP_HIDDEN, 0.0), f"blocks.blocks.{block}.cp_adapter")

    tokens, centers = given["tokens"], given["centres"]
    level = Level(centers, torch.arange(-1, sizes["G"]))
    found = Groups(sizes["k"], "per_sample", "skip", None).of(Geometry([level]), 0, tokens.shape[1], 0)
    step = LocalStep(0.3, 0.3, "max", 0.0)
    rows, places = tokens.flatten(0, 1), torch.arange(len(tokens)).unsqueeze(1) * tokens.shape[1] + 1
    with torch.no_grad():
        mixed = attention.proj(attention(norm(rows), found.members))
        propagated = step(tokens, found, norm, attention, transform)
        groups = found.members.unflatten(0, (len(tokens), -1))
        yield Output(FILE, "gaa.fps", found.picks.unflatten(0, (len(tokens), -1)) - places)
        yield Output(FILE, "gaa.knn", groups - places.unsqueeze(1))
        yield Output(FILE, "gaa.attn1_mean", mixed.mean(dim=1).unflatten(0, groups.shape[:2]))
        pooled = transform(step.pooled(rows, found.members, norm, attention))
        yield Output(FILE, "gaa.pooled", pooled.unflatten(0, groups.shape[:2]))
        # recorded is what entered adapter1 last, for `bottleneck_only`; the propagated tokens enter in `output`
        yield Output(FILE, "gaa.propagated", tokens)
        yield Output(FILE, "gaa.output", propagated + adapter1(propagated))
        yield Output(FILE, "gaa.bottleneck_only", (tokens + adapter1(tokens))[:, :4])

        bank = _bank(given["bank"], sizes["K"] + 2)
        enhanced, similarity, index = bank.attended(given["query"])
        yield Output(FILE, "pfa.enhanced", enhanced)
        yield Output(FILE, "pfa.topk_index", index)
        yield Output(FILE, "pfa.topk_similarity", similarity)
        prompts = weights[f"blocks.blocks.{block}.prompt_embeddings"] + enhanced + cp_adapter(enhanced)
        yield Output(FILE, f"pfa.prompt_layer{block}_params", prompts)


def _bank(columns: Tensor, rows: int) -> Bank:
    bank = Bank(PointMAE(columns.shape[0], 1, 1), (), rows, None, "fp32")
    bank.columns = columns
    return bank


def run(kind: type[Backbone], golden: GoldenSet) -> Iterator[Output]:
    points, labels = (torch.from_numpy(golden.input(name)) for name in ("pts", "label"))
    subject = partial(Subject, golden, kind, list(golden.routes()))
    single = subject("per_sample")
    alone = [single.outputs(cloud) for cloud in points.split(1)]
    for found in (single.outputs(points), {name: torch.cat([one[name] for one in alone]) for name in alone[0]}):
        yield from _named("single.", found)
    yield from _named("", single.indices(points))
    yield Output("grad_norms.json", "", single.gradient_norms(points, labels))
    recorded = golden.stored[FILE]
    variants: dict[str, dict[str, Any]] = {"nobank": {"bank": False}, "maxmean": {"pooling": "maxmean"}}
    variants |= {name: {"override": name} for name in golden.meta["weights"].get("overrides", {})}
    for name, values in variants.items():
        if f"{name}.single.logits" in recorded:
            changed = subject("per_sample", **values)
            yield Output(FILE, f"{name}.single.logits", changed.outputs(points)["logits"])
            yield from _named(f"{name}.", changed.indices(points))
    joint = subject("released")
    joint.query = recorded.get("joint.cp2")
    yield from _named("joint.", joint.outputs(points))
    yield from _named("", joint.nearest(points))


def _named(prefix: str, values: Mapping[str, Tensor]) -> Iterator[Output]:
    return (Output(FILE, f"{prefix}{name}", value) for name, value in values.items())


class Subject:
    """A filled model.

    Attributes:
        query: what the bank is asked with instead of what the frozen network says; an array or ``None``.
    """

    def __init__(
        self, golden: GoldenSet, kind: type[Backbone], routes: list[Route], variant: Variant,
        override: str | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        classifier, self.route_of_prior = golden.routes(override) if override else routes
        prior = self.route_of_prior
        self.golden, self.query = golden, None
        self.model = kind(**_sizes(kind, classifier.config))
        self.model.requires_grad_(False)
        norms = golden.json("grad_norms.json")
        prompted = sum(norms[name] is not None for name in norms if name.endswith("prompt_embeddings"))
        prompts = len(classifier.weights["prompt_cor"])
        propagate = 0.2 if kind is PointM2AE else 0.3
        method = PointPEFT(variant, prompts=prompts, prompted_blocks=prompted, propagate=propagate, **settings)
        method.attach(self.model)
        Classification([str(i) for i in range(classifier.config["cls_dim"])]).attach(self.model)
        for name in self.model.token_names:
            self.model.get_parameter(name).requires_grad_(True)
        _fill(self.model, {_own_name(name, kind): torch.from_numpy(w) for name, w in classifier.weights.items()})
        self.bank = next((module for module in self.model.modules() if isinstance(module, Bank)), None)
        if self.bank is not None:
            self.bank.columns = torch.from_numpy(golden.input("bank"))
            self.prior = self.bank.network
            sizes = {name: getattr(self.prior, name) for name in _sizes(kind, prior.config)}
            assert sizes == _sizes(kind, prior.config), f"the frozen network has {sizes}"
            _fill(self.prior, {_own_name_of_prior(name): torch.from_numpy(w) for name, w in prior.weights.items()})
        self.model.eval()

    @torch.no_grad()
    def outputs(self, points: Tensor) -> Outputs:
        bank, model = self.bank, self.model
        if bank is not None and self.query is not None:
            query = torch.from_numpy(self.query)
            bank.describe = lambda points, geometry=None: query  # type: ignore[method-assign]
        tokens = model.encode(points, layers=range(model.depth))
        outputs = {"logits": model(points), "head_input": model.pool(tokens)}
        for index, layer in tokens.layers.items():
            name = f"block{index:02}"
            if isinstance(model, PointM2AE):
                stage = next(s for s in range(len(model.depths)) if index < sum(model.depths[: s + 1]))
                name = f"stage{stage}.block{index - sum(model.depths[:stage])}"
            outputs |= {f"{name}.mean": layer.mean(dim=1), f"{name}.tokens_first8": layer[:, :8]}
        if bank is not None:
            outputs |= {"cp_feat": bank.describe(points), "cache_prompt": bank.attended(bank.describe(points))[0]}
            if isinstance(self.prior, PointM2AE) and self.query is None:
                outputs |= self._of_stages(self.prior, points)
        return outputs

    def _of_stages(self, prior: PointM2AE, points: Tensor) -> Outputs:
        """Mean + maximum over the tokens that are kept, by stage, behind the norm of the stage."""
        seen: list[Tensor] = []
        hooks = [
            trunk.register_forward_hook(lambda _, __, y: seen.append(y[0])) for trunk in prior.h_encoder.encoder_blocks
        ]
        prior.describe(points)
        for hook in hooks:
            hook.remove()
        outputs = {}
        weights = self.route_of_prior.weights
        for stage, (x, kept) in enumerate(zip(seen, prior._referred_to(prior.grouped(points)), strict=True)):
            norm = [torch.from_numpy(weights[f"h_encoder.encoder_norms.{stage}.{k}"]) for k in ("weight", "bias")]
            x = F.layer_norm(x, x.shape[2:], *norm)
            pooled = [own[keep].mean(dim=0) + own[keep].amax(dim=0) for own, keep in zip(x, kept, strict=True)]
            outputs[f"cp{stage}"] = torch.stack(pooled)
        return outputs

    @torch.no_grad()
    def nearest(self, points: Tensor) -> Outputs:
        assert self.bank is not None
        _, similarity, index = self.bank.attended(self.bank.describe(points))
        return {"topk.index": index, "topk.similarity": similarity}

    @torch.no_grad()
    def indices(self, points: Tensor) -> Outputs:
        """Of both chains of centers, under the names of both sets."""
        model = self.model
        groups = model.groups if isinstance(model, PointM2AE) else (model.groups,)
        centers, plain = points, []
        for count in (*groups, groups[-1] // 2):
            index = farthest_point_sample(centers, count)
            plain.append((index, take(centers, index)))
            centers = plain[-1][1]
        levels = [Level(chosen, torch.arange(chosen.shape[1])) for _, chosen in plain[:-1]]
        chain = model.get_submodule("prompt_chain")
        assert isinstance(chain, PromptChain)
        prompt = chain.centers(Geometry(levels, points), "skip")
        names = (("fps.base{}", "fps.prompt{}"), ("fps.center{}_idx", "fps.prompt_center{}_idx"))
        found = {}
        for stage, indices in enumerate(zip(plain, prompt, strict=True)):
            for own, name in zip(indices, names[0], strict=True):
                found[name.format(stage)] = own[0]
            for own, name in zip(indices, names[1], strict=True):
                found[name.format(stage + 1 if stage else "")] = own[0]
        for name, stages in (("knn.layer", plain), ("knn.prompt_layer", prompt), (f"knn.prompt{len(groups)}", prompt)):
            found[name] = nearest_neighbors(stages[-2][1], stages[-1][1], 16).index
        return found

    def gradient_norms(self, points: Tensor, labels: Tensor) -> dict[str, float | None]:
        with rounded_as_released():
            for cloud, label in zip(points.split(1), labels.long().split(1), strict=True):
                (F.cross_entropy(self.model(cloud), label) / len(points)).backward()
        parameters = official_parameters(self.model)
        norms: dict[str, float | None] = {}
        for name in self.golden.json("grad_norms.json"):
            parameter = parameters.get(_own_name(name, type(self.model)))
            norms[name] = None if parameter is None or parameter.grad is None else float(parameter.grad.norm())
        return norms


@contextmanager
def rounded_as_released() -> Iterator[None]:
    """Distances, sums and attention in the order of the released code.

    The gradient of a gate is a sum that cancels to a ten-thousandth of its terms. It moves by 2 % with the choice among
    maxima that are nearly equal, which rounding makes; float64 is as far from the recorded value as the other order.
    """

    def weights(tokens: Tensor, groups: Tensor, before: int = 0) -> Tensor:
        squared = -2 * tokens @ groups.mT + tokens.square().sum(-1).unsqueeze(2) + groups.square().sum(-1).unsqueeze(1)
        weight = 1 / (squared + FLOOR)
        return F.pad(weight / weight.sum(-1, keepdim=True), (0, 0, before, 0))

    def propagated(
        step: LocalStep, x: Tensor, grouping: Grouping, norm: nn.Module, attention: GroupAttention,
        transform: nn.Module, gate: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        rows = x.flatten(0, 1)
        pooled = transform(step.pooled(rows, grouping.members, norm, attention))
        values = (pooled + step.center * rows[grouping.picks]).unflatten(0, (len(x), -1))
        weight, order = grouping.weights.sort(dim=-1, descending=True)
        clouds = zip(values, order, weight, strict=True)
        return x + step.share * torch.stack([(own[i] * w.unsqueeze(-1)).sum(1) for own, i, w in clouds])

    def attended(attention: Attention, x: Tensor) -> Tensor:
        q, k, v = attention.qkv(x).unflatten(-1, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
        scores, mask = q @ k.mT * q.shape[-1] ** -0.5, attention.mask()
        if mask is not None:
            scores = scores - 1e5 * (~mask).float()
        mixed: Tensor = attention.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return mixed

    with (
        patch.object(point_peft_groups, "inverse_square_weights", weights),
        patch.object(LocalStep, "__call__", propagated),
        patch.object(Attention, "forward", attended),
    ):
        yield


def _sizes(kind: type[Backbone], config: Mapping[str, Any]) -> dict[str, Any]:
    if kind is PointM2AE:
        own = config.get("transformer_config", config)
        return {
            "widths": tuple(own["encoder_dims"]),
            "depths": tuple(own.get("depths", own.get("encoder_depths"))),
            "heads": own["num_heads"],
            "groups": tuple(config["num_groups"]),
            "group_size": tuple(config["group_sizes"]),
            "radius": tuple(own.get("masking_radius", own.get("local_radius"))),
            "pooling": "concat",
            "drop_path": own["drop_path_rate"],
        }
    own = config.get("transformer_config", config)
    sizes = {"width": own["trans_dim"], "depth": own["depth"], "heads": own["num_heads"]}
    return sizes | {"groups": config["num_group"], "group_size": config["group_size"]}


def _own_name(name: str, kind: type[Backbone]) -> str:
    """Our name for a tensor of the official fine-tuning model."""
    if name == "prompt_cor":
        return "prompt_chain.prompt_cor"
    if kind is PointM2AE:
        name = re.sub(r"^encoders\.", "h_encoder.token_embed.", name)
        name = re.sub(r"^pos_embeds\.", "h_encoder.encoder_pos_embeds.", name)
        name = re.sub(r"^blocks\.", "h_encoder.encoder_blocks.", name)
    return name


def _own_name_of_prior(name: str) -> str:
    return name.removeprefix("MAE_encoder.").replace("h_encoder.encoder_norms.2.", "norm.")


def _fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = official_state(model)
    missing = [name for name in own if name not in state and not name.startswith(("bank.", "cls_token", "cls_pos"))]
    assert not missing, f"not in the set: {missing[:4]}"
    with torch.no_grad():
        for name, tensor in own.items():
            if name in state:
                assert tensor.shape == state[name].shape, name
                tensor.copy_(state[name])


point_mae = partial(run, PointMAE)
point_m2ae = partial(run, PointM2AE)
