"""The links of the package, [project.urls]: to the repository that it is built from, as far as the builder says which.

The workflows set DJANGO_RAY_REPOSITORY. Without it there are no links rather than wrong ones.
"""

import os
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Links(MetadataHookInterface):
    """Adds them."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the links to the metadata."""
        repository = os.environ.get("DJANGO_RAY_REPOSITORY", "").rstrip("/")
        metadata["urls"] = links(repository) if repository else {}


def links(repository: str) -> dict[str, str]:
    """Return the links for a repository."""
    return {
        "Source": repository,
        "Documentation": f"{repository}/blob/main/docs/index.md",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Issues": f"{repository}/issues",
        "Security": f"{repository}/security/policy",
    }
