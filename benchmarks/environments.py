"""An environment for each peer, under .tools/peers, made when it is not there or its packages have changed."""

import shutil
import subprocess

from benchmarks.peers import PEERS, PROGRAMS
from benchmarks.system import ROOT

UV = ROOT / ".tools" / "bin" / "uv"
FOLDER = ROOT / ".tools" / "peers"


def lacking(name):
    """Return a sentence that says why a peer cannot run on this machine; empty when it can."""
    for program, package in PROGRAMS.get(name, {}).items():
        if shutil.which(program) is None:
            return f"{name} is left out: it needs {program}, which is not here (Debian's package {package})."
    return ""


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
