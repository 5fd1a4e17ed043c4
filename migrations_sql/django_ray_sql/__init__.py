"""The SQL that Django's migrations cannot express: one pair of files per migration, named like it.

NNNN_name.up.sql makes things, NNNN_name.down.sql takes exactly those away again. A file never changes once it is
released.
"""

from importlib.resources import files
from typing import NamedTuple

__all__ = ["MigrationSql", "load"]


class MigrationSql(NamedTuple):
    """The two directions of one migration."""

    up: str
    down: str


def load(name: str) -> MigrationSql:
    """Return the SQL of the migration called name; FileNotFoundError if it has none."""
    folder = files(__name__)
    return MigrationSql(
        up=folder.joinpath(f"{name}.up.sql").read_text("utf-8"),
        down=folder.joinpath(f"{name}.down.sql").read_text("utf-8"),
    )
