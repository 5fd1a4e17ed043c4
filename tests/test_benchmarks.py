"""make bench, in its short form: that figures come out, not which."""

import json
import os
import subprocess
import sys

import pytest

from tests.supervisors import ROOT


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


def test_each_part_of_the_short_form_gives_figures(bench):
    figures = bench("ABCP")

    assert list(figures) == ["A", "B", "C", "P"]
    assert all(figure > 0 for part in figures.values() for figure in part.values()), figures
