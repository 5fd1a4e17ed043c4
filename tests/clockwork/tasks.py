from django.tasks import task

from django_ray import task_options


@task(priority=7)
@task_options(schedulable=True, max_attempts=2)
def strike(hour, *, loud=False):
    return "dong" * hour


@task
@task_options(schedulable=True)
def wind():
    pass


@task
def stop():
    pass


@task
@task_options(schedulable=True, unique=True, unique_by="hour", limit=2, limit_by="hour")
def chime(hour, *, loud=False):
    return "ding" * hour
