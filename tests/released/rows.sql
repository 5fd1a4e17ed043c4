-- What a database of 0.1.0 may hold: an execution in every state, and everything else that has rows. The first argument of
-- an execution names it; tests/test_upgrade.py says what must become of each. A fresh database numbers the supervisors 1 to 3.
-- Times count from now, so that "a minute ago" stays true.

INSERT INTO django_migrations (app, name, applied) VALUES
    ('django_ray', '0001_initial', now() - interval '30 days'),
    ('django_ray', '0002_doorbell', now() - interval '30 days'),
    ('django_ray', '0003_enqueue', now() - interval '30 days'),
    ('django_ray', '0004_cancel', now() - interval '30 days');

-- Stopped; lost; and one that was killed a minute ago, which nobody has noticed yet.
INSERT INTO django_ray_worker
    (hostname, pid, backend, queues, concurrency, ray_address, version, started_at, pulse, pulse_at, stopped_at, lost_at)
VALUES
    ('tasks-1', 101, 'default', '["default", "reports"]', 4, '10.0.0.5:6379', '0.1.0',
        now() - interval '3 days', 60, now() - interval '2 days', now() - interval '2 days', NULL),
    ('tasks-1', 102, 'default', 'null', 4, '10.0.0.5:6379', '0.1.0',
        now() - interval '2 days', 0, now() - interval '2 days', NULL, now() - interval '1 day'),
    ('tasks-2', 103, 'default', '["default", "reports"]', 4, 'none: tasks run in this process', '0.1.0',
        now() - interval '1 day', 60, now() - interval '1 minute', NULL, NULL);

INSERT INTO django_ray_queue (backend, name, paused_at) VALUES
    ('default', 'reports', now() - interval '1 hour'),
    ('default', 'default', NULL);

INSERT INTO django_ray_minute
    (minute, backend, queue_name, worker_id, succeeded, failed, retried, cancelled, waited, longest_wait)
VALUES
    (date_trunc('minute', now()) - interval '10 minutes', 'default', 'default', 3, 40, 1, 2, 1, 12.5, 3.25),
    (date_trunc('minute', now()) - interval '9 minutes', 'default', 'reports', 3, 0, 0, 0, 0, 0, 0);

-- Waiting.
INSERT INTO django_ray_execution
    (callable_path, args, queue_name, priority, enqueued_at, run_after, due_at, awaited)
VALUES
    ('deployed_tasks.note', '["ready"]', 'default', 0, now() - interval '1 minute', NULL, NULL, false),
    ('deployed_tasks.note', '["awaited"]', 'default', 0, now() - interval '1 minute', NULL, NULL, true),
    ('deployed_tasks.note', '["in a paused queue"]', 'reports', 100, now() - interval '1 minute', NULL, NULL, false),
    ('deployed_tasks.note', '["due in an hour"]', 'default', 0, now(), now() + interval '1 hour', now() + interval '1 hour', false),
    ('deployed_tasks.note', '["due a minute ago"]', 'default', -100,
        now() - interval '1 hour', now() - interval '1 minute', now() - interval '1 minute', false);

-- Claimed by a supervisor that did not know its code.
INSERT INTO django_ray_execution (callable_path, args, enqueued_at, due_at, attempt_number, missing_since)
VALUES (
    'deployed_tasks.note', '["of unknown code"]',
    now() - interval '1 minute', now() - interval '1 second', 3, now() - interval '1 minute'
);

-- Failed twice, and waiting for its third attempt.
INSERT INTO django_ray_execution
    (callable_path, args, enqueued_at, due_at, attempt_number, failures, worker_ids, started_at, last_attempted_at, errors, output)
VALUES (
    'deployed_tasks.note', '["failed twice"]',
    now() - interval '1 hour', now() - interval '1 second', 2, 2, '["1", "3"]', now() - interval '59 minutes', now() - interval '1 minute',
    '[
        {"exception_class_path": "builtins.ValueError", "message": "first", "traceback": "ValueError: first\n", "attempt": 1,
         "worker_id": "1", "at": "2026-11-26T21:20:01.368711+00:00"},
        {"exception_class_path": "shop.errors.Closed", "message": "second", "traceback": "shop.errors.Closed: second\n",
         "attempt": 2, "worker_id": "3", "at": "2026-11-26T21:21:05.107816+00:00"}
    ]',
    'Trying for the second time'
);

-- With everything that can be said of it: interrupted by the end of its supervisor, and READY again.
INSERT INTO django_ray_execution
    (callable_path, args, kwargs, priority, options, carrier, enqueued_at, due_at, attempt_number, worker_ids, started_at,
     last_attempted_at, output)
VALUES (
    'deployed_tasks.note', '["with everything"]', '{"how": {"ünï": ["\"quoted\"", 1.5, null, true]}}', 50,
    '{
        "timeout": 30.0, "ray": {"num_cpus": 0.5},
        "retry": {"max_attempts": 5, "backoff": {"base": 2, "factor": 2.0, "cap": 3600.0, "jitter": 0.1}}
    }',
    '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}',
    now() - interval '1 hour', now() - interval '1 minute', 1, '["1"]', now() - interval '59 minutes',
    now() - interval '59 minutes', 'A line
and another one'
);

-- Running on the supervisor that was killed; one of them was to be cancelled.
INSERT INTO django_ray_execution
    (callable_path, args, state, claimed_by_id, enqueued_at, attempt_number, worker_ids, started_at, last_attempted_at,
     cancel_requested_at)
VALUES
    ('deployed_tasks.note', '["running"]', 'RUNNING', 3,
        now() - interval '1 hour', 1, '["3"]', now() - interval '1 minute', now() - interval '1 minute', NULL),
    ('deployed_tasks.note', '["to be cancelled"]', 'RUNNING', 3,
        now() - interval '1 hour', 1, '["3"]', now() - interval '1 minute', now() - interval '1 minute', now() - interval '1 minute');

-- Finished.
INSERT INTO django_ray_execution
    (callable_path, args, state, enqueued_at, attempt_number, failures, losses, worker_ids, started_at, last_attempted_at,
     finished_at, cancel_requested_at, result, errors, output)
VALUES
    ('deployed_tasks.note', '["successful"]', 'SUCCESSFUL',
        now() - interval '1 hour', 1, 0, 0, '["1"]', now() - interval '1 hour', now() - interval '1 hour', now() - interval '59 minutes',
        NULL, '{"total": 12.5, "ünï": [null]}', '[]', 'Done'),
    ('deployed_tasks.note', '["successful with null"]', 'SUCCESSFUL',
        now() - interval '1 hour', 1, 0, 0, '["1"]', now() - interval '1 hour', now() - interval '1 hour', now() - interval '59 minutes',
        NULL, 'null', '[]', NULL),
    ('deployed_tasks.note', '["failed"]', 'FAILED',
        now() - interval '1 hour', 2, 1, 1, '["2", "3"]', now() - interval '1 hour', now() - interval '1 minute', now() - interval '59 seconds',
        NULL, NULL,
        '[
            {"exception_class_path": "django_ray.exceptions.TaskLost", "message": "lost", "traceback": "lost\n", "attempt": 1,
             "worker_id": "2", "at": "2026-11-26T21:20:01.368711+00:00"},
            {"exception_class_path": "builtins.ValueError", "message": "bad", "traceback": "ValueError: bad\n", "attempt": 2,
             "worker_id": "3", "at": "2026-11-26T21:21:05.107816+00:00"}
        ]',
        NULL),
    ('deployed_tasks.note', '["cancelled"]', 'CANCELLED',
        now() - interval '1 hour', 0, 0, 0, '[]', NULL, NULL, now() - interval '30 minutes', now() - interval '30 minutes', NULL,
        '[
            {"exception_class_path": "django_ray.exceptions.TaskCancelled", "message": "The execution was cancelled.",
             "traceback": "django_ray.exceptions.TaskCancelled: The execution was cancelled.\n", "attempt": 0,
             "worker_id": null, "at": "2026-11-26T21:20:01.368711+00:00"}
        ]',
        NULL);
