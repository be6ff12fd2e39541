"""Text that is not YAML, or more of YAML than recipes use, is one line that says where and what."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Problems = Callable[..., list[str]]

HEAD = "name: x\ndata: {format: shapes}\nbackbone: {checkpoint: a.pth}\nmethod: {name: full}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "r.yaml:1: the recipe is empty"),
        ("# only a comment\n", "r.yaml:1: the recipe is empty"),
        ("- a\n- b\n", "r.yaml:1: a recipe is a mapping of 'key: value' lines, this is a list"),
        ("\nhello\n", "r.yaml:2: a recipe is a mapping of 'key: value' lines, this is a single value"),
        ("data:\n\tformat: shapes\n", "r.yaml:2:1: not valid YAML: a tab character; YAML indents with spaces"),
        ("name: a: b\n", "r.yaml:1:8: not valid YAML: a ':' that does not belong here, or wrong indentation above it"),
        ("data:\n  a: 1\n b: 2\n", "r.yaml:3:2: not valid YAML: the indentation does not fit the lines above"),
        ("name: a\nseed\nx: 1\n", "r.yaml:2:1: not valid YAML: a line that is not 'key: value'"),
        ("a: 1\nname: 'x\nb: 1\n", "r.yaml:2:7: not valid YAML: a quotation mark that is not closed"),
        ("a: [1, 2\nb: 1\n", "r.yaml:1:4: not valid YAML: a list that is not closed with ']'"),
        ("a: {b: 1\n", "r.yaml:1:4: not valid YAML: a mapping that is not closed with '}'"),
        ("name: @x\n", "r.yaml:1:7: not valid YAML: a character that cannot begin a value; put the text in quotes"),
        ("a: 1\n---\nb: 1\n", "r.yaml:2:1: not valid YAML: a second document; a recipe is one YAML document"),
        ("a: &x 1\nb: &x 2\n", "r.yaml:2:4: not valid YAML: an anchor that is defined twice"),
        ("a: *x\n", "r.yaml:1:4: not valid YAML: found undefined alias 'x'"),
        ("a: 1\nb: x\x01\n", "r.yaml:2:5: not valid YAML: the character '\\x01', which YAML does not allow"),
        ("a: &x [*x]\n", "r.yaml:1: nested too deeply, or an alias that contains itself"),
        ("a: " + "[" * 400 + "]" * 400, "r.yaml:1: nested too deeply, or an alias that contains itself"),
    ],
)
def test_text_that_is_no_recipe(problems: Problems, text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_aliases_of_aliases_do_not_explode(problems: Problems) -> None:
    rows = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert problems("\n".join(rows)) == ["r.yaml:1: nested too deeply, or an alias that contains itself"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("seed: 1\nseed: 2", ["r.yaml:6: duplicate key 'seed', first in line 5"]),
        ("seed: !number 3", ["r.yaml:5: unknown tag '!number'; recipes hold plain values only", "seed must be"]),
        (
            "published: !!python/object/apply:os.system [ls]",
            ["r.yaml:5: unknown tag '!!python/object/apply:os.system'; recipes hold plain values only", "[0] must be"],
        ),
        ("seed: !!int x", ["r.yaml:5: 'x' is not a value of type int", "seed must be a whole number"]),
        ("<<: {seed: 1}", ["r.yaml:5: merge keys ('<<') are not read; use 'base: other.yaml'"]),
        ("? [a]\n: 1", ["r.yaml:5: a key must be a word, not a list or a mapping"]),
    ],
)
def test_yaml_that_recipes_do_not_use(problems: Problems, line: str, expected: list[str]) -> None:
    found = problems(f"{HEAD}{line}\n")
    assert found[0] == expected[0]
    assert len(found) == len(expected)
    assert all(part in text for part, text in zip(expected[1:], found[1:], strict=True))


def test_user_text_with_line_breaks_stays_in_one_line(problems: Problems) -> None:
    assert problems(HEAD + '"a\\nb": 1\n') == ["r.yaml:5: unknown key 'a\\nb'"]
