"""Workers that stay and bodies that take several, for the tests: each tells a folder what it did."""

import os
import time
from pathlib import Path

from django_ray import task
from tests.tasks import FAST


def note(name, text=""):
    """Append a line to a file of the folder that the environment names, for the test to read."""
    with Path(os.environ["DJANGO_RAY_WARMING"], name).open("a") as file:
        file.write(f"{text or os.getpid()}\n")


class Doubler:
    def __init__(self):
        note("built")
        self.factor = 2


class Fragile:
    """Cannot be built as long as there is a file of that name."""

    def __init__(self):
        note("tried")
        if Path(os.environ["DJANGO_RAY_WARMING"], "broken").exists():
            raise RuntimeError("the model is not there yet")


class Nested:
    def __init__(self):
        self.double = double.call(1)[0]


@task(worker=Nested)
def nested(worker, number):
    return worker.double * number


@task(worker=Doubler, idle=2)
def double(doubler, number):
    return doubler.factor * number, os.getpid()


@task(worker=Doubler, takes_context=True)
def attempt_of(context, doubler):
    return context.attempt * doubler.factor


@task(worker=Doubler, batch=64, backoff=FAST)
def double_all(doubler, numbers, pause=0.0):
    note("batches", str(len(numbers)))
    time.sleep(max(pause))
    for number in numbers:
        if number == "raise":
            raise ValueError("one of them is poison")
        if number == "exit":
            os._exit(3)
    if "short" in numbers:
        return [0, 0, 0]
    return [
        {1, 2} if number == "set" else ValueError("mine alone") if number == "mine" else doubler.factor * number
        for number in numbers
    ]


@task(batch=50, batch_wait=0.5)
def lengths(words, *, extra=0):
    note("lengths", str(len(words)))
    return [len(word) + more for word, more in zip(words, extra, strict=True)]


@task(batch=10, batch_wait=0.3, batch_by="tenant")
def of_tenant(tenant, number):
    note("tenants", ",".join(sorted(set(tenant))))
    return list(number)


@task(worker=Fragile, batch=10)
def fragile(_, numbers):
    return numbers


@task(worker=Doubler, timeout=1, max_attempts=1)
def stuck(doubler):
    time.sleep(60)


class OnGpu:
    def __init__(self):
        note("turns", type(self).__name__)


class OnTheSameGpu(OnGpu): ...


@task(worker=OnGpu, num_gpus=1, idle=600)
def first_on_gpu(_):
    return "first"


@task(worker=OnTheSameGpu, num_gpus=1, idle=600)
def second_on_gpu(_):
    return "second"


@task(num_gpus=1, num_cpus=0, fresh_process=False)  # Ray would end the process of a GPU with each call
def on_gpu(seconds):
    note("gpu", f"+{time.time()}")
    time.sleep(seconds)
    note("gpu", f"-{time.time()}")


@task(worker=Doubler, replicas=2, memory=1)
def pid_of(doubler, seconds):
    time.sleep(seconds)
    return os.getpid()


@task(worker=Doubler)
def slow(doubler):
    note("slow")
    time.sleep(60)
