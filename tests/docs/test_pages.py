"""What the README and the pages say is so: recipes validate, commands parse, links lead somewhere."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import pytest
import typer
import yaml
from pydantic.fields import FieldInfo

from geopeft_cli.backbones.point_mae import PointMAE
from geopeft_cli.cli.app import app
from geopeft_cli.methods import METHODS, method_class
from geopeft_cli.recipe.load import load_recipe, parse_recipe
from geopeft_cli.recipe.outline import ROOT, Slot, paths
from geopeft_cli.recipe.types import Section
from geopeft_cli.tasks.classification import Classification

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    PROJECT / "CHANGELOG.md",
    *(PROJECT / "docs").rglob("*.md"),
]
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
FULL_SIZE_CLASSES = 15


class Block(NamedTuple):
    """A fenced block: where it begins, its language, its text, and the line before it."""

    where: str
    language: str
    text: str
    above: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        above = text[: match.start()].rstrip("\n").rpartition("\n")[2].strip()
        line = text.count("\n", 0, match.start()) + 1
        yield Block(f"{page.relative_to(PROJECT)}:{line}", match[2], textwrap.dedent(match[3]), above)


BLOCKS = [block for page in PAGES for block in blocks(page)]
RECIPES = [block for block in BLOCKS if block.language == "yaml"]
PROGRAMS = [block for block in BLOCKS if block.language == "python"]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every geopeft command of the pages, in blocks and in running text: where it stands, and its arguments."""
    for block in BLOCKS:
        if block.language in ("sh", "console"):
            for line in block.text.splitlines():
                for part in re.split(r"\s&&\s", line.removeprefix("$ ")):
                    words = shlex.split(part, comments=True)
                    if "geopeft_cli" in words and words[words.index("geopeft_cli") - 1] == "-m":
                        yield block.where, words[words.index("geopeft_cli") + 1 :]
                    elif words and Path(words[0]).name == "geopeft":
                        yield block.where, words[1:]
    for page in PAGES:
        for match in re.finditer(r"`geopeft (\w+(?: [^`]+))`", FENCE.sub("", page.read_text(encoding="utf-8"))):
            yield str(page.relative_to(PROJECT)), shlex.split(match[1])


COMMANDS = list(commands())


def test_there_is_something_to_check() -> None:
    assert len(RECIPES) > 10
    assert len(COMMANDS) > 25
    assert {arguments[0] for _, arguments in COMMANDS} == {"finetune", "eval", "merge", "export", "inspect"}


@pytest.mark.parametrize("block", RECIPES, ids=[block.where for block in RECIPES])
def test_recipes_are_valid(block: Block, tmp_path: Path) -> None:
    if block.above == "<!-- fragment -->" or block.text.startswith("base:"):
        path = tmp_path / "recipe.yaml"
        path.write_text(block.text if block.text.startswith("base:") else f"base: quickstart\n{block.text}")
        load_recipe(path)
    else:
        parse_recipe(block.text, block.where)


@pytest.mark.parametrize(
    "block", [block for block in RECIPES if "docs/methods" in block.where], ids=lambda block: str(block.where)
)
def test_a_page_that_shows_all_settings_of_a_method_shows_the_defaults(block: Block) -> None:
    values = yaml.safe_load(block.text).get("method")
    page = PROJECT / block.where.partition(":")[0]
    if values is None or "values shown are the defaults" not in page.read_text(encoding="utf-8"):
        return
    defaults = {name: given.default for name, given in inspect.signature(method_class(page.stem)).parameters.items()}
    assert values == {"name": page.stem} | {
        name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()
    }


@pytest.mark.parametrize("block", PROGRAMS, ids=[block.where for block in PROGRAMS])
def test_programs_are_python(block: Block) -> None:
    compile(block.text, block.where, "exec")


@pytest.mark.parametrize(("where", "arguments"), COMMANDS, ids=[" ".join(words) for _, words in COMMANDS])
def test_commands_parse(where: str, arguments: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    name, *rest = arguments
    assert name in group.commands, where
    context = group.commands[name].make_context(name, rest)
    known = {".".join(path) for path in paths()}
    for override in context.params.get("overrides") or ():
        key, equals, value = override.partition("=")
        if not equals and name == "finetune":
            continue  # a further recipe
        assert equals, (where, override)
        assert key in known, (where, override)
        yaml.safe_load(value)


def test_recipes_that_commands_name_ship(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    own = {"recipe.yaml", "my_recipe.yaml", "lora.yaml", "most.yaml"}
    named = {arguments[1] for _, arguments in COMMANDS if arguments[0] == "finetune"} - own
    named |= {word for _, arguments in COMMANDS for word in arguments[2:] if word.startswith("classification/")}
    copied = {words[words.index("--copy") + 1] for _, words in COMMANDS if "--copy" in words}
    assert named
    for name in sorted(named | copied):
        load_recipe(name)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(PROJECT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in _anchors(linked), target


def test_every_page_is_in_the_table_of_contents() -> None:
    def files(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for below in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from files(below)

    docs = PROJECT / "docs"
    nav = list(files(yaml.safe_load((docs / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert sorted(nav) == sorted(page.relative_to(docs).as_posix() for page in docs.rglob("*.md"))
    assert {f"methods/{name}.md" for name in METHODS} <= set(nav)


def test_the_lines_that_ci_takes_from_the_readme() -> None:
    marked = {
        block.above: block.text for block in blocks(PROJECT / "README.md") if block.above.startswith("<!-- readme")
    }
    assert marked == {
        "<!-- readme:run -->": "python3 -m venv .venv && .venv/bin/pip install . && "
        ".venv/bin/geopeft finetune recipes/quickstart.yaml\n",
        "<!-- readme:test -->": 'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && '
        ".venv/bin/python -m pytest\n",
    }


def test_parameter_counts_of_the_readme() -> None:
    rows = _tables((PROJECT / "README.md").read_text(encoding="utf-8"))
    printed = {re.sub(r"\[(\w+)\].*", r"\1", row["method"]): row["trainable parameters"] for row in rows}
    assert printed == {name: f"{_trainable(name):,}" for name in METHODS}


def test_recipes_page_has_every_key_with_its_default_and_choices() -> None:
    documented: set[tuple[str, str]] = set()
    types: dict[str, str] = {}
    rows = _tables((PROJECT / "docs/recipes.md").read_text(encoding="utf-8"))
    for row in (row for row in rows if "default" in row):
        prefix = "published." if "key of an entry" in row else ""
        key = prefix + row.get("key", row.get("key of an entry", "")).strip("`")
        documented.add((key, row["default"].strip("`")))
        types[key] = types.get(key, "") + row["type"]
    expected = set(_schema(ROOT))
    assert {(key, default) for key, default, _ in expected} == documented
    for key, _, choice in expected:
        assert not choice or f"`{choice}`" in types[key], (key, choice)


def test_merging_page_has_every_mode() -> None:
    from geopeft_cli.cli.merge import MergeMode

    rows = _tables((PROJECT / "docs/merging.md").read_text(encoding="utf-8"))
    documented = [row["mode"].partition(" ")[0].strip("`") for row in rows if "mode" in row]
    assert documented == [mode.value for mode in MergeMode]


def test_data_page_has_every_suffix_and_augmentation() -> None:
    from geopeft_cli.data.augmentation import AUGMENTATIONS
    from geopeft_cli.data.formats import READERS

    text = (PROJECT / "docs/data.md").read_text(encoding="utf-8")
    assert [name for name in (*READERS, *AUGMENTATIONS) if f"`{name}`" not in text] == []


def _schema(slot: Slot, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, default, and a word that may stand there, for every key of every kind of section."""
    for _, section in slot.kinds:
        for name, field in section.model_fields.items():
            for choice in _choices(field.annotation) or ("",):
                yield f"{prefix}{name}", _default(field), choice
    for name in slot.keys:
        child = slot.child(name)
        yield from _schema(child, f"{prefix}{name}.")
        if child.entries is not None:
            yield from _schema(child.entries, f"{prefix}{name}.")


def _choices(annotation: Any) -> tuple[str, ...]:
    return tuple(get_args(annotation)) if get_origin(annotation) is Literal else ()


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.is_required():
        return "-"
    if isinstance(value, Section):
        set_keys = ", ".join(f"{key}: {getattr(value, key)}" for key in value.model_fields_set)
        return f"{{{set_keys}}}" if set_keys else "all defaults"
    if isinstance(value, tuple):
        return f"[{', '.join(value)}]"
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0") + "0" * value.is_integer()
    return value or '""' if isinstance(value, str) else json.dumps(value)


def _tables(text: str) -> Iterator[dict[str, str]]:
    """The rows of all tables of a page, by heading of the column."""
    head: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not head:
            head = cells
        elif set(line) - set("|-: "):
            yield dict(zip(head, cells, strict=True))


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _trainable(method: str) -> int:
    backbone = PointMAE()
    backbone.requires_grad_(False)
    method_class(method)().attach(backbone)
    Classification(classes=[str(index) for index in range(FULL_SIZE_CLASSES)]).attach(backbone)
    for name in backbone.token_names:
        backbone.get_parameter(name).requires_grad_(True)
    return sum(parameter.numel() for parameter in backbone.parameters() if parameter.requires_grad)
