"""(S) The start: from the command to "is ready", beside a bare Python that imports Ray and calls ray.init(); and edits.

With --reload, from the saved file to the beginning of the next body that runs with the new code.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg

from benchmarks.system import ROOT, START_SECONDS, STOP_SECONDS

EDITED = """
from django.tasks import task
from benchmarks.marks import mark as mark_now

@task
def mark():
    mark_now({})
"""
BARE = "import ray; ray.init(address='local', num_cpus=2, include_dashboard=False); print('is ready', flush=True)"


def measure(system, size):
    system.reset()
    ((ours,), more) = system.ask("worker")
    seconds = {"ours": [], "ray": []}
    for turn in range(size.rounds):
        for name, command in (("ray", [sys.executable, "-c", BARE]), ("ours", ours)):
            with system.progress.step(f"S  start {turn + 1} of {name}"):
                seconds[name].append(_until_ready(command, system.environment() | more))
    own, bare = (statistics.median(seconds[name]) for name in ("ours", "ray"))
    edits = _edits(system, [*ours, "--reload", "--log-level", "debug"], system.environment() | more, size.edits)
    return {
        "until it is ready, s": own,
        "import ray and ray.init() alone, s": bare,
        "difference, s": own - bare,
        f"--reload: from the saved file to the next task with new code, median of {size.edits}, s": (
            statistics.median(edits)
        ),
        "the slowest of them, s": max(edits),
    }


def _edits(system, command, environment, count):
    """Return the seconds that each edit took; the body marks the number of its version."""
    numbers = system.numbers(count + 1)
    with (
        tempfile.TemporaryDirectory() as folder,
        psycopg.connect(system.url, autocommit=True) as session,
    ):
        code = Path(folder, "edited.py")
        code.write_text(EDITED.format(numbers[0]))
        with _started([*command, "--pythonpath", folder], environment) as wait_for:
            wait_for("is ready")
            return [_edit(system, session, wait_for, code, number) for number in numbers[1:]]


def _edit(system, session, wait_for, code, number):
    with system.progress.step(f"S  edit {number}"):
        _enqueue_until_marked(system, session, number - 1)  # the code before is in use
        wait_for("The next supervisor is prepared")
        began = time.time()
        code.write_text(EDITED.format(number))
        _enqueue_until_marked(system, session, number)
        return system.marks.at(number) - began


def _enqueue_until_marked(system, session, number):
    deadline = time.monotonic() + START_SECONDS
    while not system.marks.at(number):
        if time.monotonic() > deadline:
            raise TimeoutError("no task ran with the new code")
        session.execute("INSERT INTO django_ray_execution (callable_path) VALUES ('edited.mark')")
        time.sleep(0.05)


@contextmanager
def _started(command, environment):
    """Run it; yield what waits for a line of what it writes."""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as started:

        def wait_for(text):
            said, deadline = [], time.monotonic() + START_SECONDS
            for line in started.stdout:
                said.append(line)
                if text in line:
                    return
                if time.monotonic() > deadline:
                    break
            raise RuntimeError(f"{command} did not say {text!r}:\n{''.join(said)[-4000:]}")

        try:
            yield wait_for
        finally:
            started.terminate()
            started.communicate(timeout=STOP_SECONDS)


def _until_ready(command, environment):
    began = time.monotonic()
    with _started(command, environment) as wait_for:
        wait_for("is ready")
        return time.monotonic() - began
