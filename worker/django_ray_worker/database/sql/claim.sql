-- Take up to limit rows of our queues, by priority and then age, and say when the next one falls due.
-- One index probe per queue: ANY over queues would sort the whole backlog.
WITH queue AS MATERIALIZED (
    SELECT name FROM django_ray_queues(%(backend)s, %(queues)s) AS name
), candidate AS MATERIALIZED (
    SELECT head.task_id, head.priority, queue.name
    FROM queue
    CROSS JOIN LATERAL (
        SELECT task_id, priority FROM django_ray_execution
        WHERE backend = %(backend)s AND queue_name = queue.name AND state = 'READY' AND due_at IS NULL
        ORDER BY priority DESC, task_id
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ) AS head
), chosen AS MATERIALIZED (
    SELECT task_id FROM candidate ORDER BY priority DESC, task_id LIMIT %(limit)s
), claimed AS (
    UPDATE django_ray_execution AS execution SET
        state = 'RUNNING',
        attempt_number = attempt_number + 1,
        claimed_by_id = %(worker)s,
        worker_ids = worker_ids || to_jsonb(%(worker)s::text),
        started_at = coalesce(started_at, statement_timestamp()),
        last_attempted_at = statement_timestamp()
    WHERE task_id = ANY (ARRAY(SELECT task_id FROM chosen))
    RETURNING
        task_id, priority, attempt_number, claimed_by_id, queue_name, callable_path, options, failures, losses,
        CASE WHEN attempt_number = 1
            THEN extract(epoch FROM statement_timestamp() - greatest(enqueued_at, run_after))::float8
        END AS waited,
        extract(epoch FROM statement_timestamp() - missing_since)::float8 AS missing_for,
        json_build_object(
            'task_id', task_id, 'state', state, 'backend', backend, 'queue_name', queue_name, 'priority', priority,
            'callable_path', callable_path, 'args', args, 'kwargs', kwargs, 'options', options,
            'run_after', run_after, 'enqueued_at', enqueued_at, 'started_at', started_at,
            'last_attempted_at', last_attempted_at, 'attempt_number', attempt_number, 'failures', failures,
            'worker_ids', worker_ids, 'errors', errors, 'carrier', carrier
        )::text AS payload
)
SELECT
    -- Locked by somebody else: a peer's claim, or a transaction that may yet leave it as it is and tell nobody.
    EXISTS (
        SELECT FROM queue
        CROSS JOIN LATERAL (
            SELECT task_id FROM django_ray_execution
            WHERE backend = %(backend)s AND queue_name = queue.name AND state = 'READY' AND due_at IS NULL
            ORDER BY priority DESC, task_id
            LIMIT %(limit)s
        ) AS visible
        WHERE visible.task_id NOT IN (SELECT task_id FROM candidate)
    ) AS has_skipped,
    (
        SELECT extract(epoch FROM min(due.due_at) - clock_timestamp())::float8
        FROM queue
        CROSS JOIN LATERAL (
            SELECT due_at FROM django_ray_execution
            WHERE backend = %(backend)s AND queue_name = queue.name AND state = 'READY' AND due_at IS NOT NULL
            ORDER BY due_at LIMIT 1
        ) AS due
    ) AS next_due,
    claimed.*
FROM (SELECT) AS always LEFT JOIN claimed ON true
ORDER BY claimed.priority DESC, claimed.task_id
