"""A project's Celery app, as its documentation has it."""

from datetime import timedelta

from celery import Celery
from celery.schedules import crontab, schedule

app = Celery("shop")
app.conf.beat_schedule = {
    "nightly": {"task": "tests.tasks.add", "schedule": crontab(minute=0, hour=3), "args": (1, 2)},
    "often": {"task": "tests.tasks.add", "schedule": 30.0},
    "hourly": {"task": "tests.tasks.add", "schedule": schedule(timedelta(hours=1)), "options": {"queue": "other"}},
}
