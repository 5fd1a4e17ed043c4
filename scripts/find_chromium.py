"""Find a Chromium for the tests of the admin, or get one: Debian's package as root, else Playwright's own download."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

DOWNLOADS = Path(os.environ["PLAYWRIGHT_BROWSERS_PATH"])
PACKAGES = ("chromium", "fonts-dejavu-core")


def is_there() -> bool:
    """Tell whether tests/browser/conftest.py will find one."""
    return bool(shutil.which("chromium") or shutil.which("google-chrome") or any(DOWNLOADS.glob("chromium*")))


def install() -> None:
    """Try what may work here, one after the other."""
    ways = [[[sys.executable, "-m", "playwright", "install", "chromium"]]]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=60"]
        ways.insert(0, [[*apt, "update"], [*apt, "install", "-y", "--no-install-recommends", *PACKAGES]])
    for commands in ways:
        print(f"No Chromium here: {' '.join(commands[-1])} ...", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        if all(subprocess.run(command, check=False, env=environment).returncode == 0 for command in commands):
            return


if not is_there():
    install()
