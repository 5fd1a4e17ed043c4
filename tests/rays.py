"""Ray heads and nodes for tests: `ray start` for real, outside the project's folder and without its environment."""

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

import psutil

from tests import tasks
from tests.chaos.postgres import free_port  # noqa: F401 - for those who start a head
from tests.supervisors import until

TOKEN = "b" * 64
HEAD = "f" * 51 + "00000"  # As Ray's provider for tests calls the node of the head.
RAY = str(Path(sys.executable).parent / "ray")


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

    def __init__(self, folder):
        self._folder = folder
        self._started = []

    def start_head(self, port, cpus=2, *more, **environment):
        """Return its address and its process."""
        folder = Path(mkdtemp(prefix="h", dir=self._folder))
        head = self._start(
            folder, "--head", f"--port={port}", f"--num-cpus={cpus}", f"--temp-dir={folder}",
            "--include-dashboard=false", *more, **environment,
        )  # fmt: skip
        until(lambda: answers(port) or head.poll() is not None, 120, "the Ray head listening")
        return f"127.0.0.1:{port}", head

    def start_autoscaler(self, port, *, most, idle_seconds):
        """Start a head with Ray's own autoscaler, whose nodes have a CPU each and are processes of this host."""
        config = Path(mkdtemp(prefix="a", dir=self._folder)) / "config"
        config.write_text(json.dumps(_autoscaling(f"127.0.0.1:{port}", most, idle_seconds)))
        return self.start_head(
            port, 0, f"--autoscaling-config={config}",
            RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1", RAY_enable_autoscaler_v2="1",
            RAY_CLOUD_INSTANCE_ID=HEAD, RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD,
        )  # fmt: skip

    def demand(self, address):
        """Return how many calls wait for a place, as the autoscaler sees it."""
        said = subprocess.run(
            [RAY, "status", f"--address={address}"],
            env=_environment(), check=True, capture_output=True, text=True, timeout=120,
        ).stdout  # fmt: skip
        return sum(map(int, re.findall(r"(\d+)\+? pending tasks/actors", said)))

    def add_node(self, address, cpus):
        """Return the process of a node that has joined a head. Two that start at a time may want the same socket."""
        folder = Path(mkdtemp(prefix="n", dir=self._folder))
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

    def _start(self, folder, *arguments, **environment):
        output = folder / "output"
        command = [
            # As a service manager would: Ray gives its processes 30 s to start, and ends when they take longer.
            "sh", "-c", 'until "$0" "$@"; do echo "It is started again."; done',
            RAY, "start", *arguments, "--block", "--disable-usage-stats",
            "--node-ip-address=127.0.0.1",
        ]  # fmt: skip
        with output.open("w") as file:
            process = subprocess.Popen(
                command, cwd=folder, env=_environment() | environment, stdout=file, stderr=subprocess.STDOUT
            )
        self._started.append((process, output))
        return process


def raylets(head):
    """Return how many raylets a head and its autoscaler run: that of the head is one."""
    return sum("raylet/raylet" in " ".join(process.cmdline()[:1]) for process in living(head))


def living(head):
    for process in family(head):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _autoscaling(address, most, idle_seconds):
    """Return what `ray up` would be told; an example of it is no part of Ray's package."""
    nothing = ("auth", "docker", "file_mounts")
    none = (
        "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
        "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter",
    )  # fmt: skip
    return {
        **{name: {} for name in nothing},
        **{name: [] for name in none},
        "file_mounts_sync_continuously": False,
        "cluster_name": "test",
        "max_workers": most,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_seconds / 60,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address, "head_node_id": HEAD, "launch_multiple": True,
            "disable_node_updaters": True, "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "small": {
                "resources": {"CPU": 1, "object_store_memory": 80_000_000}, "node_config": {}, "min_workers": 0,
                "max_workers": most,
            },
        },
    }  # fmt: skip


def _environment():
    theirs = {
        key: value for key, value in os.environ.items()
        if key not in {"PYTHONPATH", "DJANGO_SETTINGS_MODULE"} and not key.startswith("RAY_")
    }  # fmt: skip
    return theirs | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
