"""On what a run ran."""

from __future__ import annotations

import platform

import numpy as np
import torch

from geopeft_cli import __version__


def versions() -> dict[str, str]:
    """Of geopeft and of what its figures depend on."""
    return {
        "geopeft": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def environment(device: torch.device) -> dict[str, str]:
    """Versions, system and device, without the name of the machine."""
    cuda = device.type == "cuda"
    return {
        **versions(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "device": f"{device}, {torch.cuda.get_device_name(device)}" if cuda else str(device),
        "threads": str(torch.get_num_threads()),
    }
