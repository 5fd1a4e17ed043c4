"""(S) The start: from the command to "is ready", beside a bare Python that imports Ray and calls ray.init()."""

import statistics
import subprocess
import sys
import time

from benchmarks.system import ROOT, START_SECONDS, STOP_SECONDS

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
    return {"until it is ready, s": own, "import ray and ray.init() alone, s": bare, "difference, s": own - bare}


def _until_ready(command, environment):
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as started:
        try:
            said = []
            for line in started.stdout:
                said.append(line)
                if "is ready" in line:
                    return time.monotonic() - began
                if time.monotonic() - began > START_SECONDS:
                    break
            raise RuntimeError(f"{command} did not become ready:\n{''.join(said)[-4000:]}")
        finally:
            started.terminate()
            started.communicate(timeout=STOP_SECONDS)
