"""Tasks about the process that they run in."""

import atexit
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import ray
from django.tasks import task

CALLS = {"here": 0}


@task
def where():
    """Which process this is, and how many of these have been in it."""
    CALLS["here"] += 1
    return [os.getpid(), CALLS["here"]]


@task
def hold_the_gil(path):
    """Python code never runs again in this process: C code keeps its lock for years."""
    Path(path).write_text(str(os.getpid()))
    re.match(r"(a+)+$", "a" * 40 + "b")


@task
def leave_word(path):
    """Have something done at the end of the process, as those do that buffer what they send."""
    atexit.register(Path(path).write_text, "sent")
    return os.getpid()


@task
def start_children(path):
    """Start one in the session of the Ray worker and one in its own, through a shell, and go on."""
    commands = [subprocess.Popen(f"sleep 600 & echo $! >> {path}; wait", shell=True, start_new_session=alone)
                for alone in (False, True)]  # fmt: skip
    while not Path(path).exists() or len(Path(path).read_text().split()) < len(commands):
        time.sleep(0.005)
    Path(path).with_suffix(".started").touch()
    time.sleep(600)


@task
def end_child():
    """What a body starts can be told to end."""
    child = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"],
                             stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    child.terminate()
    return child.wait(30)


@task
def end_forked_child():
    """The same of one that it forks."""
    if not (child := os.fork()):
        time.sleep(600)
    time.sleep(0.1)
    os.kill(child, signal.SIGTERM)
    return os.waitpid(child, 0)[1] != 0


@task
def end_grandchild():
    """The same in a function of the body's own that Ray runs elsewhere."""
    return ray.get(ray.remote(end_child.func).remote())


@task
def exports():
    """How many functions Ray keeps at its head."""
    from ray.experimental import internal_kv

    return len(internal_kv._internal_kv_list("RemoteFunction", namespace="fun"))


@task
def write_much(lines):
    for number in range(lines):
        print(number, "x" * 90)
