"""The figures, for people."""

import os
import platform

from rich.console import Console
from rich.table import Table


def show(title, figures, ratios):
    """Print figures {system: {part: {name: figure}}}; ratios are ours / peer of the same form."""
    systems = list(figures)
    table = Table(title=title, title_justify="left")
    table.add_column("part")
    table.add_column("measured")
    for system in systems:
        table.add_column(system, justify="right")
    for system in ratios:
        table.add_column(f"ours / {system}", justify="right")
    for part, name in _rows(figures):
        cells = [figures[system].get(part, {}).get(name) for system in systems]
        cells += [ratios[system].get(part, {}).get(name) for system in ratios]
        table.add_row(part, name, *map(_text, cells))
    Console(width=None if os.isatty(1) else 200).print(table)


def machine():
    """Say what it ran on, and how busy that was."""
    return f"{os.cpu_count()} CPUs ({platform.machine()}), load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"


def _rows(figures):
    """Return every part and name once, in their order."""
    return list(
        dict.fromkeys((part, name) for of in sorted({p for f in figures.values() for p in f}) for part, name in _of(figures, of))
    )


def _of(figures, part):
    return [(part, name) for system in figures.values() for name in system.get(part, {})]


def _text(figure):
    if figure is None:
        return "-"
    if figure == 0 or abs(figure) >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.3g}"
