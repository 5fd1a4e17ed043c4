"""The figures, for people."""

import os
import platform

from rich.console import Console
from rich.table import Table

WIDE = 200  # Where nobody looks at a terminal.


def show(title, figures, ratios, failures):
    """Print figures {system: {part: {name: figure}}}, with ratios of the same form beside, and what failed."""
    console = Console() if os.isatty(1) else Console(width=WIDE)
    table = Table(title=title, title_justify="left")
    table.add_column("part")
    table.add_column("measured", no_wrap=True)
    for system in figures:
        table.add_column(f"{system} (ours / it)" if system in ratios else system, justify="right")
    names = dict.fromkeys((part, name) for of in figures.values() for part in of for name in of[part])
    for part, name in sorted(names, key=lambda row: row[0]):  # the order within a part stays
        cells = []
        for system, of in figures.items():
            ratio = ratios.get(system, {}).get(part, {}).get(name)
            beside = "" if ratio is None else f" ({_text(ratio)})"
            cells.append(_text(of.get(part, {}).get(name)) + beside)
        table.add_row(part, name, *cells)
    console.print(table)
    for failure in failures:
        console.print(f"Failed: {failure}", markup=False)


def machine():
    """Say what it ran on."""
    return f"{os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}"


def load():
    """Say how busy that is."""
    return f"{os.getloadavg()[0]:.1f}"


def _text(figure):
    if figure is None:
        return "-"
    if figure == 0 or abs(figure) >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.3g}"
