"""Scenes through Sonata: one forward pass, and one training step of each method: seconds and peak memory.

    python tests/benchmarks/scene_step.py [voxels [method ...]]

Every method runs in a process of its own, whose largest resident memory is reported, on a random network of the
released size with a linear head over 20 classes; 'forward' is the frozen network in evaluation.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median
from time import perf_counter, process_time

import torch
from sparse_convolution import room

from geopeft_cli.backbones.sonata import Sonata
from geopeft_cli.contracts import Scenes
from geopeft_cli.methods.gem import GEM
from geopeft_cli.methods.lora import LoRA
from geopeft_cli.tasks.voxel_segmentation import VoxelSegmentation

STEPS = 3
ATTACH = {
    "linear_probe": lambda model: None,
    "lora": lambda model: LoRA(rank=8).attach(model),
    "gem": lambda model: GEM().attach(model),
    "full": lambda model: model.requires_grad_(True),
}


def measured(count: int, method: str) -> str:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Sonata().requires_grad_(False)
    if method != "forward":
        ATTACH[method](model)
    task = VoxelSegmentation([str(label) for label in range(20)])
    task.attach(model)
    model.train(method != "forward")
    voxels = room(count)
    offsets = torch.tensor([0, len(voxels)])
    scenes = Scenes(0.02 * voxels.float(), voxels, torch.randn(len(voxels), 9), offsets)
    labels = torch.randint(20, (len(voxels),))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        task.loss(model(scenes), labels).backward()
        optimizer.step()

    def forward() -> None:
        with torch.inference_mode():
            model(scenes)

    seconds = []
    for _ in range(1 if method == "forward" else STEPS):
        wall, core = perf_counter(), process_time()
        forward() if method == "forward" else step()
        seconds.append((process_time() - core, perf_counter() - wall))
    core, wall = (median(times) for times in zip(*seconds, strict=True))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = sum(parameter.numel() for parameter in trained) if method != "forward" else 0
    return (
        f"{method:>12} {len(voxels):>7} voxels {size:>11,} trained {core:8.2f} s {wall:8.2f} s wall {memory:6.2f} GiB"
    )


def main(arguments: list[str]) -> None:
    if len(arguments) == 3 and arguments[0] == "one":
        print(measured(int(arguments[1]), arguments[2]))
        return
    count = arguments[0] if arguments else "10000"
    for method in arguments[1:] or ["forward", *ATTACH]:
        subprocess.run([sys.executable, __file__, "one", count, method], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
