"""How ``point_mae_tiny.safetensors`` was made: masked autoencoding on the clean domain of ``shapes``.

    python -m geopeft_cli.assets.pretrain_point_mae_tiny OUTPUT.safetensors [EPOCHS]

The recipe is that of Point-MAE (Pang et al., ECCV 2022) at a small size: 60 % of the patches are hidden, a shallow
decoder rebuilds their points from the rest, the loss is the squared Chamfer distance. The encoder is written in the
official layout of a pre-training checkpoint, in half precision; the log goes beside it as ``OUTPUT.jsonl``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from geopeft_cli.backbones.checkpoint import SETTINGS_KEY
from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.backbones.transformer import Trunk
from geopeft_cli.data.batches import Batches
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.data.shapes import shapes_splits
from geopeft_cli.geometry.grouping import group
from geopeft_cli.training.schedule import learning_rate

WIDTH, DEPTH, HEADS, GROUPS, GROUP_SIZE, POINTS = 128, 4, 4, 64, 16, 1024
MASK_RATIO, DECODER_DEPTH, BATCH_SIZE, LR, PER_CLASS, SEED = 0.6, 2, 64, 1e-3, 150, 2026


class MaskedAutoencoder(nn.Module):
    """Point-MAE's pre-training network. ``encoder`` is a :class:`PointMAE` whose class token stays unused."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = PointMAE(WIDTH, DEPTH, HEADS, GROUPS, GROUP_SIZE, drop_path=0.1)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.decoder_position = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, WIDTH))
        self.decoder = Trunk(WIDTH, DECODER_DEPTH, HEADS, drop_path=0.1)
        self.decoder_norm = nn.LayerNorm(WIDTH)
        self.to_points = nn.Linear(WIDTH, 3 * GROUP_SIZE)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, points: Tensor) -> Tensor:
        """The loss for clouds (B, N, 3)."""
        batch = points.shape[0]
        neighborhoods, centers = group(points, GROUPS, GROUP_SIZE)[:2]
        order = torch.rand(batch, GROUPS).argsort(dim=1)
        hidden, visible = order.split([int(MASK_RATIO * GROUPS), GROUPS - int(MASK_RATIO * GROUPS)], dim=1)

        tokens = self.encoder.encoder(pick(neighborhoods, visible))
        x, _ = self.encoder.blocks(tokens, self.encoder.pos_embed(pick(centers, visible)))
        x = torch.cat([self.encoder.norm(x), self.mask_token.expand(batch, hidden.shape[1], -1)], dim=1)
        position = self.decoder_position(torch.cat([pick(centers, visible), pick(centers, hidden)], dim=1))
        x, _ = self.decoder(x, position)
        rebuilt = self.to_points(self.decoder_norm(x[:, visible.shape[1] :])).unflatten(-1, (GROUP_SIZE, 3))
        return chamfer(rebuilt.flatten(0, 1), pick(neighborhoods, hidden).flatten(0, 1))


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, K, ...) of (B, G, ...)."""
    return values[torch.arange(len(values))[:, None], index]


def chamfer(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance to the nearest point of the other set, both ways; (M, n, 3) each."""
    squared = (a[:, :, None] - b[:, None]).square().sum(dim=-1)
    return squared.amin(dim=2).mean() + squared.amin(dim=1).mean()


def main(output: Path, epochs: int = 40) -> None:
    torch.manual_seed(SEED)
    splits = shapes_splits("clean", PER_CLASS, 0, 1, SEED, POINTS)
    batches = Batches(
        splits.train,
        Preparation(POINTS, "unit_sphere", "random"),
        batch_size=BATCH_SIZE,
        seed=SEED,
        augment=("rotate_y", "scale_translate"),
        training=True,
        purpose="pretrain",
    )
    model = MaskedAutoencoder().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05)
    log = output.with_suffix(".jsonl").open("w", encoding="utf-8")
    for epoch in range(epochs):
        rate = learning_rate(
            epoch, base=LR, epochs=epochs, warmup_epochs=3, warmup_lr=1e-5, min_lr=1e-6, schedule="cosine"
        )
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        started, total = time.perf_counter(), 0.0
        for batch in batches.epoch(epoch):
            loss = model(batch.points)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad()
            total += float(loss.detach())
        record = {
            "epoch": epoch,
            "lr": rate,
            "chamfer": total / len(batches),
            "seconds": round(time.perf_counter() - started, 1),
        }
        print(json.dumps(record), file=log, flush=True)
        save(model.encoder, output)


def save(encoder: PointMAE, output: Path) -> None:
    """Write the encoder as an official pre-training file names it, without the class token it does not have."""
    state = {name: t for name, t in encoder.state_dict().items() if name not in encoder.token_names}
    tensors = {f"MAE_encoder.{name}": t.half() if t.is_floating_point() else t for name, t in state.items()}
    save_file(tensors, output, {"format": "pt", SETTINGS_KEY: json.dumps(encoder.settings())})


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(argument) for argument in sys.argv[2:3]))
