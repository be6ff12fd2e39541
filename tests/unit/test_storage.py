"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from geopeft_cli import storage
from geopeft_cli.errors import GeopeftError, UsageError
from geopeft_cli.storage import new_file, new_folder, refuse_existing

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a/b/x.npz"
    with new_file(path) as partial:
        partial.write_text("new")
        assert not path.exists()
        assert (partial.parent, partial.suffix) == (path.parent, ".npz")
    assert (path.read_text(), names(path.parent)) == ("new", ["x.npz"])


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, mask: int) -> None:
    former = os.umask(mask)
    try:
        with new_file(tmp_path / "x") as partial:
            partial.write_text("")
        with new_folder(tmp_path / "f") as folder:
            (folder / "y").write_text("")
    finally:
        os.umask(former)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("x", "f/y", "f")]
    assert modes == [0o666 & ~mask, 0o666 & ~mask, 0o777 & ~mask]


@pytest.mark.parametrize("error", [NO_SPACE, KeyboardInterrupt(), ZeroDivisionError(), SafetensorError("os error 28")])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_error_leaves_the_former_one(tmp_path: Path, error: BaseException, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "file":
        path.write_text("former")
    else:
        path.mkdir()
        (path / "y").write_text("former")
    explained = isinstance(error, OSError | SafetensorError)
    with pytest.raises(GeopeftError if explained else type(error)) as caught:  # noqa: SIM117, PT012
        with new_file(path) if kind == "file" else new_folder(path) as partial:
            (partial if kind == "file" else partial / "y").write_text("half")
            raise error
    if isinstance(caught.value, GeopeftError):
        reason = "os error 28" if isinstance(error, SafetensorError) else "No space left on device"
        assert caught.value.message == f"{path} could not be written: {reason}"
        assert caught.value.exit_code == 1
    assert names(tmp_path) == ["x"]
    assert (path if kind == "file" else path / "y").read_text() == "former"


def test_a_folder_that_cannot_be_put_in_place_gives_the_former_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.mkdir()
    (path / "y").write_text("former")
    replace = os.replace

    def fail_for_the_new_one(source: Path, target: Path) -> None:
        if Path(target) == path and (Path(source) / "new").exists():
            raise NO_SPACE
        replace(source, target)

    monkeypatch.setattr(storage.os, "replace", fail_for_the_new_one)
    with pytest.raises(GeopeftError), new_folder(path) as partial:
        (partial / "new").write_text("")
    assert (names(tmp_path), names(path)) == (["x"], ["y"])


def test_a_folder_replaces_all_of_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for name in ("first", "second"):
        with new_folder(path) as partial:
            (partial / name).write_text("")
    assert (names(tmp_path), names(path)) == (["x"], ["second"])


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_a_place_that_is_taken(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "file":
        path.write_text("")
    elif kind == "folder":
        path.mkdir()
        (path / "y").write_text("")
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=f"^{path} exists\n"):
        refuse_existing(path)


def test_a_place_that_is_free(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "a/b/c")
    refuse_existing(tmp_path)  # an empty folder
    assert names(tmp_path) == []


def test_a_place_where_nothing_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=f"cannot be made: {tmp_path / 'file'} is not a folder that you may write in"):
        refuse_existing(tmp_path / "file/a/b")


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(UsageError, match="cannot be made"):
        refuse_existing(tmp_path / "x")


CODE = """
import resource, sys
from pathlib import Path
import torch
from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.errors import GeopeftError
from geopeft_cli.reports.records import MetricsLog
from geopeft_cli.storage import new_file
from geopeft_cli.training.checkpoints import Progress, load_progress, save_progress
from safetensors.torch import save_file

folder = Path(sys.argv[1])
tensors = {"x": torch.zeros(10_000)}
save_progress(folder, Progress(1, {}, {}))
log = MetricsLog(folder / "log")
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # a write beyond it fails, as on a full disk

def tensor_file():
    with new_file(folder / "t.safetensors") as partial:
        save_file(tensors, partial)

def state():
    save_progress(folder, Progress(2, tensors, {}))

for write in (tensor_file, state, lambda: log.write({"a": "x" * 9000})):
    try:
        write()
    except GeopeftError as error:
        print(error.message)
assert load_progress(folder).epoch == 1
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_writes_that_fail_in_earnest(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.partition(" could not be written: ")[0] for line in lines] == [
        str(tmp_path / name) for name in ("t.safetensors", "last.pt", "log")
    ]
    assert lines[2].endswith("File too large")
    assert names(tmp_path) == ["last.pt", "log"]


def test_an_empty_folder_is_free_for_a_folder_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists"):
        refuse_existing(tmp_path, file=True)
