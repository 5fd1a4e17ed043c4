-- Rows whose time has come join the others: by priority, then age. The trigger rings for them. For a supervisor of any queue also
-- those of paused ones, which wait among the others then.
UPDATE django_ray_execution SET due_at = NULL
WHERE task_id = ANY (ARRAY(
    SELECT head.task_id
    FROM django_ray_queues(%(backend)s, coalesce(%(queues)s::text[], '{}')) AS queue(name)
    CROSS JOIN LATERAL (
        SELECT task_id FROM django_ray_execution
        WHERE backend = %(backend)s AND queue_name = queue.name AND state = 'READY' AND due_at IS NOT NULL
            AND due_at <= statement_timestamp()
        ORDER BY due_at
        LIMIT 1000
        FOR UPDATE SKIP LOCKED
    ) AS head
    UNION ALL
    SELECT head.task_id
    FROM (
        SELECT task_id FROM django_ray_execution
        WHERE %(queues)s::text[] IS NULL AND backend = %(backend)s AND state = 'READY' AND due_at IS NOT NULL
            AND due_at <= statement_timestamp()
        ORDER BY due_at NULLS FIRST
        LIMIT 1000
        FOR UPDATE SKIP LOCKED
    ) AS head
))
