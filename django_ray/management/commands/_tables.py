"""How the commands show rows: a table of rich at a terminal that has it, else columns of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["NOTHING", "Section", "line", "printable", "show"]

NOTHING = "\N{EN DASH}"
_STYLES = {"paused": "yellow", "no session": "red", "no supervisor": "red"}  # Of what begins so.
_MOST = 80  # Characters of a cell.

# Title, heads, rows, and what is said where there are none.
type Section = tuple[str, Sequence[str], Sequence[Sequence[str]], str]


def printable(text: str) -> str:
    """Return text without what a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)


def show(output: Any, section: Section) -> None:
    """Write a section to a command's output."""
    if not _rich(output, *section):
        _text(output, *section)


def _rich(output: Any, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], otherwise: str) -> bool:
    """Draw a table where that makes sense; tell whether it did."""
    if not output.isatty():
        return False
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError:
        return False
    console = Console()
    console.print(Text(title, style="bold"))
    if not rows:
        console.print(Text(f"  {otherwise}\n", style="dim"))
        return True
    table = Table(box=SIMPLE_HEAD, pad_edge=True)
    for index, head in enumerate(heads):
        is_number = all(row[index][:1].isdigit() or row[index] == NOTHING for row in rows)
        table.add_column(head, justify="right" if is_number else "left", overflow="fold", no_wrap=head == "id")
    for row in rows:
        table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    console.print(table)
    return True


def _text(output: Any, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], otherwise: str) -> None:
    output.write(title)
    if not rows:
        output.write(f"  {otherwise}\n")
        return
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        output.write(f"  {'  '.join(cells)}".rstrip())
    output.write("")


def _style(cell: str) -> str:
    return next((style for begin, style in _STYLES.items() if cell.startswith(begin)), "")


def line(text: str) -> str:
    """Return what is one line in a terminal, whatever a user has put into it."""
    text = printable(text)
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}\N{HORIZONTAL ELLIPSIS}"
