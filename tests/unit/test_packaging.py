"""The built wheel holds all that the quickstart needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel, built from this checkout, is installed without its dependencies."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    dist, target = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *options, "--wheel-dir", str(dist), str(PROJECT)], check=True)
    wheel = next(dist.glob("geopeft-*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True)
    return target


@pytest.mark.slow
def test_quickstart_runs_from_an_empty_folder(installed_wheel: Path, tmp_path: Path) -> None:
    small = ["training.epochs=1", "data.train_per_class=3", "data.validation_per_class=0", "data.test_per_class=1"]
    command = [sys.executable, "-m", "geopeft_cli", "finetune", "quickstart", *small]
    environment = {**os.environ, "PYTHONPATH": str(installed_wheel), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/quickstart/adapter/adapter_model.safetensors").is_file()
    assert (tmp_path / "runs/quickstart/report.html").is_file(), done.stderr


@pytest.mark.slow
def test_the_wheel_is_what_runs_and_ships_every_recipe(installed_wheel: Path, tmp_path: Path) -> None:
    code = (
        "import geopeft_cli; from geopeft_cli.recipe.catalog import list_recipes;"
        "print(geopeft_cli.__file__); print(*sorted(entry.name for entry in list_recipes()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed_wheel), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    where, names = done.stdout.splitlines()
    assert Path(where).is_relative_to(installed_wheel)
    recipes = PROJECT / "recipes"
    shipped = (path.relative_to(recipes) for path in recipes.rglob("*.yaml"))
    expected = sorted(str(path.with_suffix("")) for path in shipped if not path.name.startswith("_"))
    assert names.split() == expected
