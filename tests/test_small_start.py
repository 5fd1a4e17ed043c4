"""Starts that are not as planned: on a small host, in a thread, in a loop, a second time."""

import os
import subprocess
import sys

import pytest
from django.db import connection

from tests import tasks
from tests.supervisors import ROOT, database_url

pytestmark = pytest.mark.django_db(transaction=True)

SMALL = "tests.settings_small_host"
START = """
import asyncio, sys, threading
import django
from django.core.management import call_command

django.setup()
codes = []

def start(*arguments):
    try:
        call_command("django_ray_listen", *arguments, "--burst")
    except SystemExit as ended:
        codes.append(ended.code)

async def in_a_loop():
    start("--sync")

{}
print("codes", *codes)
"""


def run(code):
    return subprocess.run(
        [sys.executable, "-c", START.format(code)], cwd=ROOT, text=True, capture_output=True, check=False, timeout=120,
        env={
            **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "example")]),
            "DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": database_url(connection),
        },
    )  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        "thread = threading.Thread(target=start, args=['--sync'])\nthread.start()\nthread.join()",
        "asyncio.run(in_a_loop())",
    ],
)
def test_a_start_in_a_thread_or_in_a_loop_is_refused(code):
    """M3."""
    done = run(code)
    assert done.stdout.split()[-2:] == ["codes", "78"], done.stderr
    assert "django-ray-listen: It needs the main thread of a process, without an event loop that runs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", ["'--sync'", pytest.param("'--local', '--concurrency', '1'", marks=pytest.mark.slow)]
)
def test_one_after_the_other_in_a_process(arguments):
    """M3."""
    first = tasks.add.enqueue(1, 2)
    again = "from tests import tasks; later = tasks.add.enqueue(3, 4)"
    done = run(f"start({arguments})\n{again}\nstart({arguments})\nlater.refresh()\nprint(later.return_value)")
    assert done.stdout.split()[-4:] == ["7", "codes", "0", "0"], done.stdout + done.stderr
    first.refresh()
    assert first.return_value == 3


@pytest.mark.slow
def test_half_a_cpu_is_a_slot(listen, finished):
    """M3: Ray would count none, and wait for a node for ever."""
    supervisor = listen("--local", DJANGO_SETTINGS_MODULE=SMALL, MEMORY_LIMIT="8000000000")
    assert "1 slot" in supervisor.wait_for("is ready")
    assert finished(tasks.add.enqueue(1, 2)).return_value == 3


def test_a_host_without_the_memory_for_a_ray_is_told_so(listen):
    """M3."""
    supervisor = listen("--local", DJANGO_SETTINGS_MODULE=SMALL, MEMORY_LIMIT="256000000")
    assert supervisor.wait(60) == 78, supervisor.log
    assert "Ray cannot be started on this host: " in supervisor.log
    assert "memory" in supervisor.log
    assert "Traceback" not in supervisor.log
