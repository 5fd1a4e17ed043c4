"""`make bench`: every part in one run, on the embedded PostgreSQL or that of DATABASE_URL; one table, and JSON.

Machines are noisy: compare the figures of one run with each other, not those of two runs.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import django
from rich.console import Console
from rich.table import Table

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django.db import connection  # noqa: E402
from django.test.utils import setup_test_environment  # noqa: E402

from benchmarks import enqueue  # noqa: E402

PARTS = {"A": enqueue.measure}


def main():
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--parts", default="".join(PARTS), help=f"which of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    console = Console(stderr=True)
    setup_test_environment(debug=False)
    connection.creation.create_test_db(verbosity=0, autoclobber=True)
    figures = {}
    try:
        for part in options.parts:
            figures[part] = PARTS[part](console)
    finally:
        connection.creation.destroy_test_db(connection.settings_dict["NAME"], verbosity=0)
    table = Table(title="django-ray", title_justify="left")
    for heading in ("part", "measured", "figure"):
        table.add_column(heading)
    for part, rows in figures.items():
        for name, figure in rows.items():
            table.add_row(part, name, figure)
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    sys.exit(main())
