"""What a number may be that somebody sets: more than anybody means, and so little that everything can count with it.

Python counts without end; floats, PostgreSQL's columns and moments, clocks and Ray do not. Pure.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "LONGEST",
    "LONGEST_IN_WORDS",
    "MOST",
    "MOST_FACTOR",
    "MOST_QUANTITY",
    "MOST_SLOTS",
    "is_number",
    "is_whole",
    "shown",
]

LONGEST = 36_500 * 86_400.0  # Seconds. In so many from now Python still has a date.
LONGEST_IN_WORDS = "3,153,600,000 (100 years)"
MOST = 2_147_483_647  # What a column of whole numbers holds.
MOST_QUANTITY = 100_000_000_000_000  # Of a resource: Ray counts ten-thousandths of it in 64 bits.
MOST_FACTOR = 1_000_000
MOST_SLOTS = 100_000  # Of one supervisor.
_MOST_SHOWN = 120  # Characters of a value that does not fit.


def is_number(value: Any, least: float, most: float) -> bool:
    """Tell whether that is a number between these two, which NaN is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def is_whole(value: Any, least: int, most: int = MOST) -> bool:
    """Tell whether that is a whole number between these two."""
    return isinstance(value, int) and is_number(value, least, most)


def shown(value: Any) -> str:
    """Return how a value looks in a sentence that refuses it: not longer than a line or two, whatever it is."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - Python prints no number of 5,000 digits, and a __repr__ is anybody's
        return f"a {type(value).__qualname__} that cannot be printed ({type(error).__qualname__})"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
