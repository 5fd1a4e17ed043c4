"""--cluster: the supervisor as a driver on a Ray that exists."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tasks
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


TOKEN = "b" * 64


@pytest.fixture
def head(tmp_path_factory):
    """A Ray head of its own, started outside the project's folder and without its environment."""
    folder = tmp_path_factory.mktemp("h")
    port = free_port()
    environment = {
        key: value for key, value in os.environ.items()
        if key not in {"PYTHONPATH", "DJANGO_SETTINGS_MODULE"} and not key.startswith("RAY_")
    }  # fmt: skip
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    ray = subprocess.Popen(
        [
            Path(sys.executable).parent / "ray", "start", "--head", f"--port={port}", "--num-cpus=2", "--block",
            "--include-dashboard=false", "--disable-usage-stats", "--node-ip-address=127.0.0.1",
            f"--temp-dir={folder}",
        ],
        cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: answers(port) or ray.poll() is not None, 60, "the Ray head listening")
    yield f"127.0.0.1:{port}"
    ray.terminate()
    ray.wait(30)


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def test_a_cluster_runs_tasks_of_a_project_it_was_never_told_of(head, listen, finished):
    supervisor = listen("--cluster", head, RAY_AUTH_TOKEN=TOKEN)
    assert "2 slots" in supervisor.wait_for("is ready")
    assert finished(tasks.add.enqueue(40, 2)).return_value == 42
    assert [finished(tasks.add.enqueue(number, 0)).return_value for number in range(5)] == list(range(5))
