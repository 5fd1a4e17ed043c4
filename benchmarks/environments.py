"""An environment for each peer, under .tools/peers, made when it is not there or its packages have changed."""

import subprocess

from benchmarks.peers import PEERS
from benchmarks.system import ROOT

UV = ROOT / ".tools" / "bin" / "uv"
FOLDER = ROOT / ".tools" / "peers"


def python_of(name):
    """Return the interpreter; CalledProcessError when it cannot be had."""
    packages = PEERS[name]
    environment = FOLDER / name
    python, stamp = environment / "bin" / "python", environment / ".installed"
    wanted = "\n".join(packages)
    if not stamp.is_file() or stamp.read_text() != wanted:
        base = subprocess.run(
            ["sh", "scripts/find-python"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()
        for command in (
            [UV, "venv", "--quiet", "--clear", "--python", base, environment],
            [UV, "pip", "install", "--quiet", "--python", python, *packages],
        ):
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        stamp.write_text(wanted)
    return python
