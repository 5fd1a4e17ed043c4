"""What a wrong name may have been meant for: the end of a sentence that refuses it. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

__all__ = ["foreign", "foreign_method", "near"]

# What other task queues call an argument, and what says the same here.
_ARGUMENTS: Mapping[str, str] = {
    # Celery
    "autoretry_for": "retry_on=(...)",
    "countdown": "run_after=timedelta(seconds=...)",
    "default_retry_delay": "backoff={'base': seconds}",
    "dont_autoretry_for": "no_retry_on=(...)",
    "eta": "run_after=datetime",
    "max_retries": "max_attempts=N, which counts the first attempt too",
    "queue": "queue_name='...'",
    "retry_backoff": "backoff={'base': seconds}",
    "retry_backoff_max": "backoff={'cap': seconds}",
    "retry_jitter": "backoff={'jitter': fraction}",
    "retry_kwargs": "max_attempts=N",
    "soft_time_limit": "timeout=seconds",
    "task_time_limit": "timeout=seconds",
    "time_limit": "timeout=seconds",
    "bind": "takes_context=True, with a first parameter called context",
    # RQ, Huey, Dramatiq, Ray
    "job_timeout": "timeout=seconds",
    "retry": "max_attempts=N",
    "retries": "max_attempts=N, which counts the first attempt too",
    "retry_delay": "backoff={'base': seconds}",
    "min_backoff": "backoff={'base': milliseconds / 1000}",
    "max_backoff": "backoff={'cap': milliseconds / 1000}",
    "delay": "run_after=timedelta(...)",
    "headers": "metadata={...}, or take it along with a class in OPTIONS['CONTEXT']",
    "meta": "metadata={...}",
    "max_calls": "fresh_process=True",
    "num_retries": "max_attempts=N",
    # Once, at most so many, not too fast, not too late
    "once": "unique=True, with unique_by=... for the arguments that count",  # celery-once
    "singleton": "unique=True",  # celery-singleton
    "unique_on": "unique_by=...",
    "lock_expiry": "unique=True: a lock is a row here, and ends with it",
    "rate_limit": "rate=Rate(count, per=timedelta(...))",
    "limits_concurrency": "limit=N, with limit_by=...",  # Solid Queue
    "concurrency": "limit=N, with limit_by=...",
    "concurrency_key": "limit_by=...",
    "concurrency_limit": "limit=N",
    "max_concurrency": "limit=N, with limit_by=...",
    "max_concurrent": "limit=N, with limit_by=...",
    "max_instances": "limit=N",
    "on_conflict": 'when_full="cancel_new"',
    "unique_for": 'unique=True: while an equal one is unfinished; "queued" is until it starts',  # Sidekiq, Faktory
    "unique_until": 'unique=True, or unique="queued": until it starts',
    "unique_opts": "unique=True, with unique_by=...",  # River
    "unique_key": "unique=True, with unique_by=...",
    "debounce": 'unique="replace" and run_after=timedelta(...)',
    "throttle": "rate=Rate(count, per=timedelta(...))",
    "lock": "unique=True, or limit=1 with limit_by=...",
    "queueing_lock": 'unique="queued"',  # Procrastinate
    "expires_in": "expires=timedelta(...)",
    "expiration": "expires=timedelta(...)",
    "ttl": "expires=timedelta(...)",
    "max_age": "expires=timedelta(...)",
    # Bodies that take several, and instances that stay
    "batch_size": "batch=N",
    "max_batch_size": "batch=N",  # Ray Serve
    "flush_every": "batch=N",  # celery-batches
    "flush_interval": "batch_wait=seconds",
    "batch_wait_timeout_s": "batch_wait=seconds",
    "max_wait": "batch_wait=seconds",
    "actor": "worker=Class",
    "num_replicas": "replicas=N",
    "min_replicas": "replicas=(least, most)",
    "max_replicas": "replicas=N",
    "autoscaling_config": "replicas=(least, most)",
    "downscale_delay_s": "idle=seconds",
    "idle_timeout": "idle=seconds",
    # Temporal
    "heartbeat_timeout": "stall_timeout=seconds, and context.progress() in its body",
}
_METHODS: Mapping[str, str] = {
    "delay": "enqueue(...)",
    "delay_on_commit": "enqueue(...), which is part of the transaction",
    "apply_async": "enqueue(...), or using(...).enqueue(...)",
    "apply": "call(...)",
    "send": "enqueue(...)",
    "send_with_options": "using(...).enqueue(...)",
    "remote": "enqueue(...)",
    "schedule": "using(run_after=...).enqueue(...)",
    "s": "enqueue(...)",
    "si": "enqueue(...)",
    "signature": "enqueue(...)",
}


def near(wrong: str, right: Iterable[str]) -> str:
    """Return the end of a sentence about a wrong name: the right one that is like it, else all there are."""
    choices = {choice.lower(): choice for choice in sorted(right)}
    if close := difflib.get_close_matches(wrong.lower(), choices, n=1):
        return f": did you mean {choices[close[0]]}?"
    return f": there are {', '.join(choices.values())}." if choices else ": there are none."


def foreign(wrong: str, right: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown argument, which another task queue may know."""
    return f": say {_ARGUMENTS[wrong]}." if wrong in _ARGUMENTS else near(wrong, right)


def foreign_method(wrong: str) -> str:
    """Return the end of a sentence about a method that another task queue has; empty when none does."""
    return f": say {_METHODS[wrong]}." if wrong in _METHODS else ""
