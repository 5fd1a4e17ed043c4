"""Metadata: what a caller says of an execution by using(metadata=...), and what its body saves.

It is kept in the carrier of the row, so all attempts find it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from django_ray.bounds import shown
from django_ray.serialization import encode, jsonable

__all__ = ["METADATA", "MOST_METADATA", "checked", "metadata_of", "with_metadata"]

METADATA = "metadata"  # The key of the carrier.
MOST_METADATA = 65_536  # Bytes of JSON: each claim carries it.


def checked(metadata: Any, where: str) -> dict[str, Any]:
    """Return it as it is stored, a copy. TypeError or ValueError says what does not fit."""
    if not isinstance(metadata, Mapping):
        raise TypeError(f"{where}: the metadata is {shown(metadata)}; it must be a dictionary.")
    plain = cast("dict[str, Any]", jsonable(metadata, f"{where}: the metadata"))
    if (size := len(encode(plain).encode())) > MOST_METADATA:
        raise ValueError(
            f"{where}: the metadata is {size:,} bytes of JSON; {MOST_METADATA:,} is the most. Store it elsewhere, and "
            "say where it is."
        )
    return plain


def metadata_of(carrier: Any) -> dict[str, Any]:
    """Return that of a row, by its carrier. Whoever writes SQL may have put anything there."""
    found: Any = cast("dict[str, Any]", carrier).get(METADATA) if isinstance(carrier, dict) else None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def with_metadata(carrier: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a carrier with this metadata."""
    return {**(cast("dict[str, Any]", carrier) if isinstance(carrier, dict) else {}), METADATA: metadata}
