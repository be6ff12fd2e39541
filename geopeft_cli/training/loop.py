"""The training loop: one for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from geopeft_cli.contracts import Backbone, Method, Task, load_official_state
from geopeft_cli.data.keys import derived_seed
from geopeft_cli.errors import TrainingError
from geopeft_cli.objective import training_loss
from geopeft_cli.training.checkpoints import (
    Progress,
    generator_states,
    load_progress,
    restore_generators,
    save_progress,
)
from geopeft_cli.training.distribution import Ranks
from geopeft_cli.training.precision import autocast, loss_scaler
from geopeft_cli.training.schedule import (
    OneCycle,
    OwnGroup,
    Schedule,
    epochs_run,
    learning_rate,
    parameter_groups,
)


class TrainingBatches(Protocol):
    """What the loop needs of a data source."""

    def __len__(self) -> int: ...
    def epoch(self, epoch: int) -> Iterator[Any]: ...


class Listener(Protocol):
    """Who is told how the run goes: the progress bar and the log."""

    def epoch_starts(self, epoch: int, epochs: int, steps: int) -> None: ...
    def step_done(self, loss: float, accuracy: float, rate: float) -> None: ...
    def epoch_done(self, record: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Plan:
    """Plain settings of a run; see ``training`` in the recipe."""

    epochs: int
    lr: float
    weight_decay: float
    schedule: Schedule
    warmup_epochs: int
    min_lr: float
    warmup_lr: float
    clip_norm: float | None
    accumulation: int
    precision: Literal["fp32", "bf16", "fp16"]
    select: Literal["last", "best_validation", "best_test"]
    evaluate_every: int
    checkpoint_every: int
    groups: tuple[OwnGroup, ...] = ()
    optimizer_steps: int = 1
    one_cycle: OneCycle | None = None

    def rate(self, epoch: int, scale: float = 1.0) -> float:
        """The rate of an epoch for parameters whose highest rate is ``scale`` times that of the others.

        With ``one_cycle``, the highest of the run.
        """
        if self.schedule == "one_cycle":
            return self.lr * scale
        return learning_rate(
            epoch,
            base=self.lr * scale,
            epochs=self.epochs,
            warmup_epochs=self.warmup_epochs,
            warmup_lr=self.warmup_lr,
            min_lr=self.min_lr,
            schedule=self.schedule,
        )


@dataclass(frozen=True)
class Outcome:
    """What a run kept: tensors by official name, the epoch they are of, and the score that chose them."""

    tensors: dict[str, Tensor]
    epoch: int
    score: float | None


def train(
    model: Backbone,
    method: Method,
    task: Task,
    batches: TrainingBatches,
    plan: Plan,
    *,
    device: torch.device,
    folder: Path,
    collect: Callable[[], dict[str, Tensor]],
    evaluate: Callable[[], dict[str, float]] | None,
    listener: Listener,
    ranks: Ranks,
    recipe_digest: str,
    seed: int,
) -> Outcome:
    """Train what requires gradients and return what the recipe selects.

    Args:
        collect: copies of the tensors that belong to the adapter.
        evaluate: metrics on the split that the run watches, or ``None`` when it watches none.
        folder: where ``last.pt`` is kept; a run found there is continued.
        recipe_digest: stored with the state, for the caller to compare on resume.

    Raises:
        TrainingError: the loss is not finite.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameter_groups(model, plan.weight_decay, plan.groups), lr=plan.lr)
    scaler = loss_scaler(plan.precision, device)
    total, updates = epochs_run(plan.schedule, plan.epochs), math.ceil(len(batches) / plan.accumulation)
    progress = load_progress(folder) or Progress(0, collect(), {}, recipe_digest=recipe_digest)
    if progress.epoch:
        load_official_state(model, progress.tensors)
        optimizer.load_state_dict(progress.optimizer)
        if progress.scaler:
            scaler.load_state_dict(progress.scaler)
    torch.manual_seed(seed)
    if progress.generators:
        restore_generators(progress.generators)

    for epoch in range(progress.epoch, total):
        rate = _set_rates(optimizer, plan, epoch)
        method.start_epoch(epoch, total)
        listener.epoch_starts(epoch, total, len(batches))
        started = time.perf_counter()
        if not ranks.is_first:  # its own dropout; the state that is saved is that of the first
            torch.manual_seed(derived_seed(seed, "rank", ranks.rank, epoch) % 2**63)
        model.train()
        loss_sum = correct = seen = 0.0
        pending = 0
        for step, batch in enumerate(batches.epoch(epoch)):
            points, targets, *conditions = (
                ranks.share(tensor).to(device)
                for tensor in (batch.points, task.targets(batch), *task.conditions(batch))
            )
            with autocast(plan.precision, device):
                loss, logits = training_loss(model, task, points, targets, *conditions)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} in epoch {epoch}, step {step}",
                    "Lower training.lr, or use training.precision=fp32. The run can be resumed from its last epoch.",
                )
            accumulated = min(plan.accumulation, len(batches) - (step - pending))
            scaler.scale(loss / accumulated).backward()
            pending += 1
            if pending == accumulated:
                if plan.schedule == "one_cycle":
                    done = epoch * updates + step // plan.accumulation
                    rate = _set_rates(optimizer, plan, epoch, (done, total * updates))
                _update(optimizer, scaler, trainable, plan.clip_norm, ranks, plan.optimizer_steps)
                pending = 0
            counted = targets >= 0
            right = ((logits.detach().argmax(dim=-1) == targets) & counted).sum()
            hits = float(right) * len(targets) / max(int(counted.sum()), 1)
            loss_sum, correct, seen = loss_sum + value * len(targets), correct + hits, seen + len(targets)
            listener.step_done(value, 100.0 * hits / len(targets), rate)
        ranks.copy_from_first(model.buffers())
        seconds = time.perf_counter() - started

        seen, loss_sum, correct = ranks.sum(seen), ranks.sum(loss_sum), ranks.sum(correct)
        record: dict[str, Any] = {
            "epoch": epoch,
            "lr": rate,
            "train_loss": loss_sum / seen,
            "train_accuracy": 100.0 * correct / seen,
            "seconds": seconds,
            "seconds_per_step": seconds / len(batches),
        }
        watched = evaluate is not None and ((epoch + 1) % plan.evaluate_every == 0 or epoch + 1 == total)
        metrics = evaluate() if evaluate is not None and watched else None
        progress = Progress(
            epoch=epoch + 1,
            tensors=collect(),
            optimizer=optimizer.state_dict(),
            scaler=scaler.state_dict(),
            best=progress.best,
            best_score=progress.best_score,
            best_epoch=progress.best_epoch,
            generators=generator_states(),
            recipe_digest=recipe_digest,
        )
        if metrics is not None:
            record["validation" if plan.select != "best_test" else "test"] = metrics
            score = metrics[task.score]
            better = progress.best_score is None or score > progress.best_score
            if plan.select != "last" and better and method.is_settled(epoch, total):
                progress.best, progress.best_score, progress.best_epoch = progress.tensors, score, epoch
        listener.epoch_done(record)
        if ranks.is_first and ((epoch + 1) % plan.checkpoint_every == 0 or epoch + 1 == total):
            save_progress(folder, progress)

    if plan.select == "last" or progress.best is None or progress.best_epoch is None:
        return Outcome(progress.tensors, progress.epoch - 1, None)
    return Outcome(progress.best, progress.best_epoch, progress.best_score)


def _set_rates(
    optimizer: torch.optim.Optimizer, plan: Plan, epoch: int, update: tuple[int, int] | None = None
) -> float:
    """Set the rates of an epoch, or of one update among all; return that of parameters without one of their own."""
    factor = 1.0
    if plan.schedule == "one_cycle":
        factor, beta1 = (plan.one_cycle or OneCycle()).at(*(update or (0, 1)))
        for group in optimizer.param_groups:
            group["betas"] = (beta1, group["betas"][1])
    for group in optimizer.param_groups:
        group["lr"] = factor * plan.rate(epoch, group["lr_scale"])
    return factor * plan.rate(epoch)


def _update(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    trainable: list[nn.Parameter],
    clip_norm: float | None,
    ranks: Ranks,
    steps: int = 1,
) -> None:
    ranks.average_gradients(trainable)  # still scaled: an overflow on one rank must stop the step on all
    scaler.unscale_(optimizer)
    if steps == 2:  # as released for segmentation: once with the gradient as it is, once clipped
        optimizer.step()
    if clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(trainable, clip_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
