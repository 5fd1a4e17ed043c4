"""make bench, in its short form: that figures come out, not which."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from benchmarks import environments
from tests.supervisors import ROOT, until


@pytest.fixture
def bench(tmp_path):
    """Run parts and return their figures."""

    def _bench(parts):
        path = tmp_path / "figures.json"
        environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "--quick", "--parts", parts, "--json", str(path)],
            cwd=ROOT,
            env={**environment, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'example'}"},
            check=False,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(path.read_text())
        assert not told["failures"]
        (figures,) = told["figures"]["ours"]
        return figures

    return _bench


def test_enqueueing_draining_and_latency_give_figures(bench):
    figures = bench("ABC")

    assert list(figures) == ["A", "B", "C"]
    assert all(figure > 0 for part in figures.values() for figure in part.values()), figures


@pytest.mark.slow
def test_pages_and_ticks_give_figures(bench):
    figures = bench("PT")

    assert list(figures) == ["P", "T"]
    assert all(figure > 0 for part in figures.values() for figure in part.values()), figures


@pytest.mark.slow
def test_workers_that_stay_and_batches_give_figures(bench):
    figures = bench("W")

    assert list(figures) == ["W"]
    assert len(figures["W"]) == 13
    assert all(figure > 0 for figure in figures["W"].values()), figures


def test_ctrl_c_ends_it_at_once_and_leaves_nothing(tmp_path):
    """Also for a user who has no idea what was started: the server, the client, the workers and what they started."""
    not_its = {"DJANGO_SETTINGS_MODULE", "DATABASE_URL"}
    environment = {name: value for name, value in os.environ.items() if name not in not_its}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'example'}", "OF_THIS_TEST": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "--quick", "--parts", "C"],
        cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True,
    ) as bench:  # fmt: skip
        until(lambda: "raylet" in names_of_ours(tmp_path), what="Ray")
        bench.send_signal(signal.SIGINT)
        said = bench.stderr.read()
        assert bench.wait(60) == 130, said
    assert "Interrupted: everything that was started has ended." in said
    assert "Traceback" not in said
    until(lambda: not names_of_ours(tmp_path), what="the end of all")


def names_of_ours(folder):
    """The names of the processes that come from there."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("OF_THIS_TEST") == str(folder):
                found.append(process.name())
    return found


def test_a_peer_that_cannot_run_is_left_out_with_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environments.lacking("celery") == (
        "celery is left out: it needs redis-server, which is not here (Debian's package redis-server)."
    )
    assert environments.lacking("pgqueuer") == ""
