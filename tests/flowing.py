"""Tasks of flows whose bodies write into a ledger outside of the database: a file with a word for each."""

import time
from pathlib import Path

from django.tasks import task

from django_ray import task_options


def note(path, line):
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


@task
def shelf(number, path):
    note(path, f"shelf{number}")
    return {"number": number, "titles": ["é" * 1000] * number}


@task
def merge(shelves, path):
    note(path, "merge")
    return [[one["number"], len(one["titles"]), set("".join(one["titles"])) <= {"é"}] for one in shelves]


@task(takes_context=True)
@task_options(needs="end", max_attempts=1)
def tell(context, path):
    note(path, "tell:" + ",".join(one.status.value for one in context.upstreams()))


@task(takes_context=True)
@task_options(needs="end", max_attempts=1)
def tell_slowly(context, path, folder):
    """As tell, but it goes on until there is a file."""
    note(path, "tell:" + ",".join(one.status.value for one in context.upstreams()))
    while not (Path(folder) / "told").exists():
        time.sleep(0.005)


@task
@task_options(max_attempts=1)
def spread(path, folder):
    """Enqueue more and more, until somebody says that it is enough."""
    note(path, "spread")
    number = 0
    while not (Path(folder) / "enough").exists():
        results = [leaf.enqueue(path, number) for _ in range(3)]
        gather.enqueue(results, path)
        number += 1
        time.sleep(0.05)


@task
def leaf(path, number):
    note(path, f"leaf{number}")
    return number


@task
def gather(numbers, path):
    note(path, "gather")


@task
def after(value, path):
    note(path, "after")
    return value
