"""Shared test setup: one thread per worker, no network, and where outside data is looked for."""

from __future__ import annotations

import os
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

torch.set_num_threads(1)

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def parity_root() -> Path:
    """The folder of golden sets, from ``GEOPEFT_PARITY``; the test is skipped where it is absent."""
    root = Path(os.environ.get("GEOPEFT_PARITY", PROJECT / "../shared/parity/golden")).resolve()
    if not root.is_dir():
        pytest.skip(f"no golden sets at {root}: set GEOPEFT_PARITY")
    return root


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans, from ``GEOPEFT_TEST_DATA``; the test is skipped where it is absent."""
    root = Path(os.environ.get("GEOPEFT_TEST_DATA", PROJECT / "../shared/data")).resolve()
    if not root.is_dir():
        pytest.skip(f"no real scans at {root}: set GEOPEFT_TEST_DATA")
    return root
