"""Ray heads and nodes for tests: `ray start` for real, outside the project's folder and without its environment."""

import os
import re
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests import tasks
from tests.supervisors import until

TOKEN = "b" * 64
RAY = str(Path(sys.executable).parent / "ray")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def kill(node):
    """Kill a head or a node, and all that it has started."""
    for process in family(node):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    node.wait(30)


def family(node):
    """Return the processes of a head or a node."""
    return [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]


@contextmanager
def freezing(node):
    """Have a node stand still with all that runs on it; nobody is told."""
    processes = family(node)
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


class Held:
    """Bodies that say in a folder where they run, and end when they are told."""

    def __init__(self, folder, keys):
        self._folder = folder
        self.results = {key: tasks.hold.enqueue(str(folder), key) for key in keys}

    def pids(self, key):
        return [int(path.suffix[1:]) for path in self._folder.glob(f"{key}.*") if path.suffix != ".go"]

    @property
    def begun(self):
        """Those that have begun somewhere."""
        return [key for key in self.results if self.pids(key)]

    def on(self, node):
        """Return those that run in processes of the node."""
        pids = {process.pid for process in family(node)}
        return [key for key in self.results if pids.intersection(self.pids(key))]

    def let_end(self, *keys):
        for key in keys:
            (self._folder / f"{key}.go").touch()


class Rays:
    """Those of one test. What they print is kept, and shown by pytest when the test has failed."""

    def __init__(self, make_folder):
        self._make_folder = make_folder
        self._started = []

    def start_head(self, port, cpus=2, *more):
        """Return its address and its process."""
        folder = self._make_folder("h")
        head = self._start(
            folder, "--head", f"--port={port}", f"--num-cpus={cpus}", f"--temp-dir={folder}",
            "--include-dashboard=false", *more,
        )  # fmt: skip
        until(lambda: answers(port) or head.poll() is not None, 120, "the Ray head listening")
        return f"127.0.0.1:{port}", head

    def add_node(self, address, cpus):
        """Return the process of a node that has joined a head. Two that start at a time may want the same socket."""
        folder = self._make_folder("n")
        node = self._start(folder, f"--address={address}", f"--num-cpus={cpus}")
        until(lambda: "runtime started" in (folder / "output").read_text(errors="replace"), 120, "a Ray node")
        return node

    def drain(self, address, node):
        """Have the head give a node nothing more to run: it is to be taken away within a minute."""
        commands = " ".join(" ".join(process.cmdline()) for process in family(node))
        found = re.search(r"--node[-_]id=(\w{56})", commands)
        assert found, commands
        subprocess.run(
            [
                RAY, "drain-node", f"--address={address}", f"--node-id={found[1]}",
                "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=a test", "--deadline-remaining-seconds=60",
            ],
            env=_environment(), check=True, capture_output=True, timeout=120,
        )  # fmt: skip

    def end(self):
        for process, output in reversed(self._started):
            if process.poll() is None:
                kill(process)
            print(f"--- {' '.join(process.args[3:])}\n{output.read_text(errors='replace')}")

    def _start(self, folder, *arguments):
        output = folder / "output"
        command = [
            # As a service manager would: Ray gives its processes 30 s to start, and ends when they take longer.
            "sh", "-c", 'until "$0" "$@"; do echo "It is started again."; done',
            RAY, "start", *arguments, "--block", "--disable-usage-stats",
            "--node-ip-address=127.0.0.1",
        ]  # fmt: skip
        with output.open("w") as file:
            process = subprocess.Popen(command, cwd=folder, env=_environment(), stdout=file, stderr=subprocess.STDOUT)
        self._started.append((process, output))
        return process


def _environment():
    theirs = {
        key: value for key, value in os.environ.items()
        if key not in {"PYTHONPATH", "DJANGO_SETTINGS_MODULE"} and not key.startswith("RAY_")
    }  # fmt: skip
    return theirs | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
