"""The task of the node test. It notes in a table of the test's own when and where each attempt started and ended."""

import socket
import time

from django.db import connection
from django.tasks import task

__all__ = ["work"]


def note(key, attempt, event):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO nodes_note (key, attempt, event, node) VALUES (%s, %s, %s, %s)",
            [key, attempt, event, socket.gethostname()],
        )


@task(takes_context=True)
def work(context, key, seconds):
    note(key, context.attempt, "started")
    time.sleep(seconds)
    note(key, context.attempt, "ended")
    return key
