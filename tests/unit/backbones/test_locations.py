"""Where checkpoints come from: paths, https with a digest, the Hugging Face hub, and the package itself."""

from __future__ import annotations

import hashlib
import http.client
import io
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from geopeft_cli.backbones.files import locate
from geopeft_cli.errors import CheckpointError, UsageError
from geopeft_cli.storage import cache_folder

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
URL = "https://example.org/files/pretrain.pth"


class Web:
    """Serves one answer and remembers the addresses that were asked for."""

    def __init__(self, answer: bytes | Exception) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def __call__(self, url: str, timeout: float) -> io.BytesIO:
        assert timeout > 0
        self.asked.append(url)
        if isinstance(self.answer, Exception):
            raise self.answer
        return io.BytesIO(self.answer)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("GEOPEFT_CACHE", str(folder))
    return folder


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Web:
    server = Web(CONTENT)
    monkeypatch.setattr(urllib.request, "urlopen", server)
    return server


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(CONTENT)
    assert locate(str(path)) == path
    assert locate(str(path), DIGEST) == path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/a.pth") == path
    with pytest.raises(CheckpointError, match=f"has SHA-256 {DIGEST}, the recipe says 0000"):
        locate(str(path), "0" * 64)


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_a_path_to_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no file"):
        locate(str(tmp_path / name))


@pytest.mark.parametrize("location", ["http://example.org/a.pth", "ftp://example.org/a", "s3://bucket/a", "file:///a"])
def test_other_schemes_are_refused(location: str) -> None:
    with pytest.raises(UsageError, match="cannot read") as caught:
        locate(location, DIGEST)
    assert "hf://owner/repo/file" in str(caught.value.hint)


def test_https_needs_a_digest(web: Web) -> None:
    with pytest.raises(UsageError, match="needs its digest") as caught:
        locate(URL)
    assert "backbone.sha256" in str(caught.value.hint)
    assert not web.asked


def test_https_is_fetched_once(web: Web, cache: Path) -> None:
    path = locate(URL, DIGEST)
    assert path.read_bytes() == CONTENT
    assert left_in(cache) == [path.name]
    assert path.name == f"{DIGEST[:16]}-pretrain.pth"
    assert locate(URL, DIGEST) == path
    assert web.asked == [URL]


def test_a_download_with_another_digest_leaves_nothing(web: Web, cache: Path) -> None:
    web.answer = b"an error page"
    with pytest.raises(CheckpointError, match="has SHA-256"):
        locate(URL, DIGEST)
    assert left_in(cache) == []
    web.answer = CONTENT
    assert locate(URL, DIGEST).read_bytes() == CONTENT


def test_a_spoiled_file_in_the_cache_is_found_out(web: Web) -> None:
    path = locate(URL, DIGEST)
    path.write_bytes(b"spoiled")
    with pytest.raises(CheckpointError, match="the recipe says"):
        locate(URL, DIGEST)


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("no route"),
        urllib.error.HTTPError(URL, 404, "Not Found", http.client.HTTPMessage(), None),
        TimeoutError("slow"),
        ConnectionResetError("gone"),
        http.client.IncompleteRead(b"half"),
        http.client.InvalidURL("spaces"),
        ValueError("no address"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_failed_download_is_explained_and_leaves_nothing(web: Web, cache: Path, failure: Exception) -> None:
    web.answer = failure
    with pytest.raises(CheckpointError, match=f"{URL} could not be fetched"):
        locate(URL, DIGEST)
    assert left_in(cache) == []


@pytest.mark.parametrize("url", ["https://exa mple.org/a", "https://example.org:port/a", "https://[::1", "https://"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(CheckpointError, match="could not be fetched"):
        locate(url, DIGEST)


def test_an_interrupted_download_leaves_nothing(web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(urllib.request, "urlopen", stop)
    with pytest.raises(KeyboardInterrupt):
        locate(URL, DIGEST)
    assert left_in(cache) == []


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOPEFT_CACHE", "~/mine")
    assert cache_folder() == Path.home() / "mine"
    monkeypatch.delenv("GEOPEFT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert cache_folder() == Path("/var/cache/me/geopeft")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/geopeft"


@pytest.mark.parametrize("location", ["hf://", "hf://owner", "hf://owner/repo", "hf://owner/repo/", "hf:///repo/file"])
def test_a_malformed_hub_address(location: str) -> None:
    with pytest.raises(UsageError, match="not of the form hf://owner/repo/file"):
        locate(location)


def test_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []

    def download(**request: str) -> str:
        asked.append(request)
        (tmp_path / "fetched.pth").write_bytes(CONTENT)
        return str(tmp_path / "fetched.pth")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert locate("hf://owner/repo/folder/file.pth") == tmp_path / "fetched.pth"
    assert asked == [{"repo_id": "owner/repo", "filename": "folder/file.pth"}]
    assert locate("hf://owner/repo/file.pth", DIGEST).read_bytes() == CONTENT
    with pytest.raises(CheckpointError, match="the recipe says"):
        locate("hf://owner/repo/file.pth", "0" * 64)


@pytest.mark.parametrize("failure", [LocalEntryNotFoundError("offline\nmore"), OSError("disk")])
def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def download(**_: str) -> str:
        raise failure

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(CheckpointError, match="could not be fetched") as caught:
        locate("hf://owner/repo/file.pth")
    assert "more" not in caught.value.message


def test_a_name_that_the_hub_does_not_allow() -> None:
    with pytest.raises(CheckpointError, match="could not be fetched"):
        locate("hf://own er/re po/file.pth")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package with two embedded checkpoints, and a file beside its assets."""
    (tmp_path / "assets").mkdir()
    for name in ("assets/second", "assets/first", "secret"):
        (tmp_path / f"{name}.safetensors").write_bytes(CONTENT)
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    return tmp_path


@pytest.mark.usefixtures("package")
def test_embedded() -> None:
    assert locate("embedded:first").read_bytes() == CONTENT
    with pytest.raises(UsageError, match="no embedded checkpoint 'third'") as caught:
        locate("embedded:third")
    assert caught.value.hint == "There is: first, second."


@pytest.mark.parametrize("name", ["", "../secret", "first.safetensors"])
def test_embedded_names_do_not_leave_the_package(package: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no embedded checkpoint"):
        locate(f"embedded:{name}")
    with pytest.raises(UsageError, match="no embedded checkpoint"):
        locate(f"embedded:{package / 'secret'}")
