"""Small pieces of HTML. Every text that comes from outside passes :func:`html.escape` here or where it is put in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: what stands in it, not yet escaped.
        share: between 0 and 1, how strongly it is shaded; ``None`` for not at all.
    """

    text: str
    share: float | None = None


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str | Cell]],
    numbers: bool = True,
    kind: str = "",
    caption: str = "",
) -> str:
    """A table that scrolls by itself where the screen is narrow; the first cell of a row names the row.

    Args:
        headings: of the columns.
        rows: texts, not yet escaped.
        numbers: whether the other cells are set as figures, to the right.
        kind: a class for the style sheet.
        caption: above the table.
    """
    head = "".join(f'<th scope="col"><span>{escape(heading)}</span></th>' for heading in headings)
    body = "".join(
        f'<tr><th scope="row">{escape(str(first if isinstance(first, str) else first.text))}</th>'
        f"{''.join(map(_cell, rest))}</tr>"
        for first, *rest in rows
    )
    kinds = " ".join(filter(None, ("numbers" if numbers else "", kind)))
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide"><table class="{kinds}">{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def facts(values: Mapping[str, Any]) -> str:
    """Names and values, one a line; what is empty is left out."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in values.items()
        if value not in (None, "")
    )
    return f'<div class="wide"><table class="facts"><tbody>{rows}</tbody></table></div>'


def section(identifier: str, title: str, *parts: str) -> str:
    """A part of a page under a heading; nothing where it has no content."""
    content = "".join(parts)
    return f'<section id="{identifier}"><h2>{escape(title)}</h2>{content}</section>' if content else ""


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    style = "" if cell.share is None else f' style="--share:{100 * cell.share:.0f}%"'
    return f"<td{style}>{escape(cell.text)}</td>"
