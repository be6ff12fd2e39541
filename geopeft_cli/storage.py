"""Writing so that a reader never sees half a file: into a neighbor first, then in place at once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from geopeft_cli.errors import GeopeftError, UsageError


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of ``path``, which takes its place when the block ends without an error."""
    with explained(path):
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
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield partial
            partial.chmod(0o777 & ~_umask())
            for inner in partial.rglob("*"):
                inner.chmod((0o777 if inner.is_dir() else 0o666) & ~_umask())
            _put_folder(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _put_folder(partial: Path, path: Path) -> None:
    if not path.exists():
        os.replace(partial, path)
        return
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    os.replace(path, aside / path.name)
    try:
        os.replace(partial, path)
    except BaseException:
        os.replace(aside / path.name, path)
        raise
    finally:
        shutil.rmtree(aside)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """A full disk or a missing permission while ``path`` is written, as a failure that needs no traceback.

    Raises:
        GeopeftError: instead of what the operating system or safetensors raised.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise GeopeftError(
            f"{path} could not be written: {reason}", "Check the free space and the permissions there."
        ) from error


def refuse_existing(path: Path, hint: str = "Choose another --output, or remove it.", *, file: bool = False) -> None:
    """Stop before any work is done when the place of the result is taken or closed.

    Args:
        path: where the result will be.
        hint: what to do about it.
        file: whether the result is a file; a folder may take the place of an empty one.

    Raises:
        UsageError: there is a file or a folder with content, or nothing can be made there.
    """
    if not file and path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} exists", hint)
    home = next(parent for parent in path.absolute().parents if os.path.exists(parent))
    if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
        raise UsageError(f"{path} cannot be made: {home} is not a folder that you may write in", hint)


def cache_folder() -> Path:
    """Where downloads and costly results are kept: ``GEOPEFT_CACHE``, else ``geopeft`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("GEOPEFT_CACHE") or Path(base) / "geopeft").expanduser()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
