"""Writing so that a reader never sees half a file: into a neighbor first, then in place at once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geopeft_cli.errors import UsageError


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of ``path``, which takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, which takes its place (and that of a former one) when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        for file in partial.iterdir():
            file.chmod(0o666 & ~_umask())
        if path.exists():
            former = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
            os.replace(path, former / path.name)
            os.replace(partial, path)
            shutil.rmtree(former)
        else:
            os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(path: Path, hint: str = "Choose another --output, or remove it.") -> None:
    """Stop before any work is done when the place of the result is taken; an empty folder is free.

    Raises:
        UsageError: there is a file or a folder with content.
    """
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} exists", hint)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
