"""Virtual environments with the locked versions, for tests of what somebody else installs."""

import os
import shutil

from tests.supervisors import ROOT


def uv():
    """The path of uv."""
    path = shutil.which("uv", path=f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert path, "uv is missing: make setup installs it"
    return path


def constraints(folder):
    """The locked versions, without the hashes that a constraint may not have."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    path = folder / "constraints.txt"
    path.write_text("\n".join(line.rstrip(" \\") for line in lines if "==" in line and "--hash" not in line))
    return path
