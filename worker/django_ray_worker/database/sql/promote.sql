-- Rows whose time has come join the others: by priority, then age. The trigger rings for them.
UPDATE django_ray_execution SET due_at = NULL
WHERE task_id = ANY (ARRAY(
    SELECT head.task_id
    FROM django_ray_queues(%(backend)s, %(queues)s) AS queue(name)
    CROSS JOIN LATERAL (
        SELECT task_id FROM django_ray_execution
        WHERE backend = %(backend)s AND queue_name = queue.name AND state = 'READY' AND due_at IS NOT NULL
            AND due_at <= statement_timestamp()
        ORDER BY due_at
        LIMIT 1000
        FOR UPDATE SKIP LOCKED
    ) AS head
))
