"""The recipes that ship with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geopeft_cli.errors import GeopeftError, UsageError
from geopeft_cli.recipe.document import parse_file
from geopeft_cli.recipe.problems import closest


@dataclass(frozen=True)
class Entry:
    """A shipped recipe: ``name`` is its path below the root without ``.yaml``."""

    name: str
    path: Path
    description: str


def recipes_root() -> Path:
    """Where the recipes are: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "assets" / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def list_recipes() -> list[Entry]:
    """All shipped recipes by name; files and folders whose name starts with ``_`` are bases and are left out."""
    root = recipes_root()
    return [Entry(name, path, _description(path)) for name, path in _files(root) if "/_" not in f"/{name}"]


def find_recipe(name: str) -> Path | None:
    """The file of a shipped recipe, by its name or by the last component of it where only one recipe ends so.

    Raises:
        UsageError: several recipes end so.
    """
    files = dict(_files(recipes_root()))
    if name in files:
        return files[name]
    matches = [full for full in files if full.rpartition("/")[2] == name]
    if len(matches) > 1:
        raise UsageError(f"{name}: several shipped recipes have this name: {', '.join(matches)}")
    return files[matches[0]] if matches else None


def copy_recipe(name: str, destination: Path) -> Path:
    """Copy a shipped recipe to a file that does not exist yet; return the file.

    Shipped recipes refer to their base by its shipped name, so that a copy finds it from anywhere.

    Raises:
        UsageError: there is no such recipe, or ``destination`` exists or has no folder.
    """
    source = find_recipe(name)
    if source is None:
        suggestion = closest(name, [entry.name for entry in list_recipes()])
        question = f". Did you mean '{suggestion}'?" if suggestion else ""
        raise UsageError(f"{name}: no shipped recipe of that name{question}", "'geopeft inspect --recipes' lists them")
    try:
        with destination.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise UsageError(f"{destination}: exists; not overwritten", hint="give another file name") from error
    except FileNotFoundError as error:
        raise UsageError(f"{destination}: the folder {destination.parent} does not exist") from error
    except OSError as error:
        raise GeopeftError(f"{destination}: cannot be written: {error.strerror}") from error
    return destination


def _files(root: Path) -> list[tuple[str, Path]]:
    paths = sorted(root.rglob("*.yaml"))
    return [(path.relative_to(root).with_suffix("").as_posix(), path) for path in paths]


def _description(path: Path) -> str:
    tree = parse_file(path.read_text(encoding="utf-8"), str(path), [])
    item = tree.find(["description"]) if tree else None
    return " ".join(item.value.split()) if item and isinstance(item.value, str) else ""
