"""Several processes under torchrun: every rank takes its share of each batch, and gradients are averaged."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from geopeft_cli.contracts import Scenes
from geopeft_cli.errors import UsageError

Shared = TypeVar("Shared", Tensor, Scenes)


class Ranks:
    """This process among ``size``; alone where torchrun did not start it.

    Few parameters train, so one flat all-reduce a step does what a wrapper around the model would.
    """

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))

    def __enter__(self) -> Ranks:
        if self.size > 1:
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if self.size > 1:
            if failure is None:
                dist.barrier()  # a rank that leaves while another still talks to it makes that one abort
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, batch: Shared) -> Shared:
        """The rows of a batch that this rank computes.

        Raises:
            UsageError: the batch does not divide evenly, which would weigh its clouds unequally.
        """
        if self.size == 1:
            return batch
        assert isinstance(batch, Tensor), "scenes train in one process"
        if batch.shape[0] % self.size:
            raise UsageError(
                f"training.batch_size: a batch of {batch.shape[0]} clouds does not divide among {self.size} processes"
            )
        return batch[self.rank :: self.size]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Mean over the ranks of every gradient, in place."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, mean in zip(gradients, (flat / self.size).split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors (statistics of the head's BatchNorm) with those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def sum(self, value: float) -> float:
        """Sum of a number over the ranks."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device="cuda" if torch.cuda.is_available() else "cpu")
        dist.all_reduce(total)
        return float(total)
