"""A module that takes a signal for itself when it is imported, as libraries do."""

import signal

from django.tasks import task

signal.signal(signal.SIGINT, signal.default_int_handler)


@task
def found_by_the_first_body():
    return repr(signal.getsignal(signal.SIGINT))
