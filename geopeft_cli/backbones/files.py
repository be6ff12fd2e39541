"""Finding a checkpoint (path, https, Hugging Face hub, embedded) and reading its tensors without running anything."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import pickle
import re
import shutil
import struct
import tempfile
import urllib.request
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from geopeft_cli.errors import CheckpointError, UsageError
from geopeft_cli.storage import cache_folder

ASIDE = "geopeft.unmerge."  # before names of tensors that a merged file keeps for unmerging
CONTAINERS = ("model", "base_model", "model_state_dict", "state_dict")  # the order in which released loaders look


def locate(location: str, sha256: str | None = None) -> Path:
    """The local file behind a checkpoint location; downloads are kept in the user's cache.

    Args:
        location: a path, ``https://...``, ``hf://owner/repo/file`` or ``embedded:NAME``.
        sha256: expected digest of the file, required for ``https://``.

    Raises:
        UsageError: nothing is there, or an https location has no digest.
        CheckpointError: the download failed, or the file has another digest.
    """
    if location.startswith("embedded:"):
        return _embedded(location.removeprefix("embedded:"))
    if location.startswith("hf://"):
        path = _from_hub(location)
    elif location.startswith("https://"):
        if sha256 is None:
            raise UsageError(
                f"backbone.checkpoint: {location} needs its digest", "Add backbone.sha256, the SHA-256 of the file."
            )
        path = _downloaded(location, sha256)
    elif "://" in location:
        raise UsageError(
            f"backbone.checkpoint: cannot read {location}",
            "Use a path, https://... with backbone.sha256, hf://owner/repo/file, or embedded:NAME.",
        )
    else:
        path = Path(location).expanduser()
        if not path.is_file():
            raise UsageError(f"backbone.checkpoint: no file {path}", "Give the path of a checkpoint that exists.")
    if sha256 is not None and _digest(path) != sha256:
        raise CheckpointError(f"{path} has SHA-256 {_digest(path)}, the recipe says {sha256}", "It is another file.")
    return path


def _embedded(name: str) -> Path:
    folder = Path(str(resources.files("geopeft_cli") / "assets"))
    known = {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    if name not in known:
        raise UsageError(f"backbone.checkpoint: no embedded checkpoint {name!r}", f"There is: {', '.join(known)}.")
    return known[name]


def _from_hub(location: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    parts = location.removeprefix("hf://").split("/")
    if len(parts) < 3 or not all(parts):
        raise UsageError(f"backbone.checkpoint: {location} is not of the form hf://owner/repo/file")
    try:
        repository, file = "/".join(parts[:2]), "/".join(parts[2:])
        if parts[-1] == "model.safetensors":  # whose settings stand beside it, in repositories that have them
            with suppress(EntryNotFoundError):
                hf_hub_download(repo_id=repository, filename=file.removesuffix(parts[-1]) + "config.json")
        return Path(hf_hub_download(repo_id=repository, filename=file))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{location} could not be fetched: {str(error).splitlines()[0]}",
            "Check the name and the network, or download the file and give its path.",
        ) from None


def _downloaded(url: str, sha256: str) -> Path:
    target = cache_folder() / f"{sha256[:16]}-{url.rsplit('/', 1)[-1] or 'checkpoint'}"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as partial:
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                shutil.copyfileobj(response, partial)
            partial.close()
            found = _digest(Path(partial.name))
            if found != sha256:
                raise CheckpointError(f"{url} has SHA-256 {found}, the recipe says {sha256}", "It is another file.")
            os.replace(partial.name, target)
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: no address
            raise CheckpointError(
                f"{url} could not be fetched: {error}", "Check the address and the network."
            ) from None
        finally:
            Path(partial.name).unlink(missing_ok=True)
    return target


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a ``.pth`` or safetensors checkpoint under the names in the file, on the CPU.

    Containers of training scripts are opened; optimizer state is not read, nor what a merged file keeps for
    unmerging (:func:`read_aside`). Pickles are read with a list of allowed types, so that nothing in the file is
    executed.

    Raises:
        CheckpointError: damaged, holding code, or without tensors.
    """
    if _is_safetensors(path):
        return {name: tensor for name, tensor in _read_safetensors(path).items() if not name.startswith(ASIDE)}
    content = _read_pickle(path)
    for container in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
            break
    items = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(name): value.detach() for name, value in items if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path} holds no tensors", f"Expected a state dict, bare or under {', '.join(CONTAINERS)}."
        )
    return tensors


def read_aside(path: Path) -> dict[str, Tensor]:
    """The tensors that a merged safetensors file keeps for unmerging, by name without their prefix.

    Raises:
        CheckpointError: damaged.
    """
    return {name.removeprefix(ASIDE): t for name, t in _read_safetensors(path).items() if name.startswith(ASIDE)}


def read_metadata(path: Path) -> dict[str, str]:
    """The string pairs in the header of a safetensors file; empty for other files."""
    if not _is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}", "Copy or download it again.") from None


def read_config(path: Path) -> dict[str, Any]:
    """The configuration that a ``.pth`` file holds beside its tensors, or that stands in the folder of a safetensors
    file as ``config.json``; empty where there is none.

    Raises:
        CheckpointError: damaged.
    """
    if not _is_safetensors(path):
        content = _read_pickle(path)
        config = content.get("config") if isinstance(content, Mapping) else None
        return dict(config) if isinstance(config, Mapping) else {}
    beside = path.with_name("config.json")
    try:
        return dict(json.loads(beside.read_text(encoding="utf-8"))) if beside.is_file() else {}
    except (OSError, ValueError, TypeError):
        raise CheckpointError(f"{beside} is damaged", "Copy or download it again.") from None


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (
        len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < path.stat().st_size
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", "Copy or download it again.") from None


def _read_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_numpy_types()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on pickles of other protocols than its own
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"(?:GLOBAL|global|function) ([\w.]+)", str(error))
        if unsafe is None or "Unsupported operand" in str(error):
            raise CheckpointError(
                f"{path} is not a checkpoint that torch can read", "Copy or download it again."
            ) from None
        raise CheckpointError(
            f"{path} wants to run {unsafe[1]} on loading; nothing of it was run",
            "Only tensors and plain values are read. If you trust the file, convert it yourself to safetensors.",
        ) from None
    except Exception as error:  # whatever a damaged archive or pickle makes torch raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged: {reason}", "Copy or download it again.") from None


def _numpy_types() -> list[Any]:
    """What metrics saved as numpy scalars need, under the module names of numpy 1 and of numpy 2."""
    scalar = np._core.multiarray.scalar if hasattr(np, "_core") else np.core.multiarray.scalar  # type: ignore[attr-defined]
    dtypes = {type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "?")}
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, name) for name in names), np.dtype, *dtypes]
