"""Find Prometheus's promtool for the tests of the alerts, or get it from Debian's package: without root, into .tools.

Where there is none to be had, it says so and ends well: the tests that want it are skipped then, or fail with CI.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOOL = Path(__file__).resolve().parent.parent / ".tools" / "promtool"
PACKAGE = "prometheus"


def download(folder: str) -> None:
    """Download the package there; root may have to get the lists of packages first."""
    apt = ["apt-get", "-qq"]
    try:
        subprocess.run([*apt, "download", PACKAGE], cwd=folder, check=True)
    except subprocess.CalledProcessError:
        if os.geteuid() != 0:
            raise
        subprocess.run([*apt, "update"], check=True)
        subprocess.run([*apt, "download", PACKAGE], cwd=folder, check=True)


def fetch() -> None:
    """Take the one program out of the package. OSError or CalledProcessError if that cannot be done."""
    TOOL.parent.mkdir(exist_ok=True)
    # Beside its place, so that it comes there whole or not at all.
    with tempfile.TemporaryDirectory(dir=TOOL.parent) as folder:
        download(folder)
        (package,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package.name, "unpacked"], cwd=folder, check=True)
        (Path(folder) / "unpacked" / "usr" / "bin" / "promtool").rename(TOOL)


if not (shutil.which("promtool") or TOOL.exists()):
    print("Fetching promtool ...", flush=True)
    try:
        fetch()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"promtool cannot be had here: {error}", file=sys.stderr)
