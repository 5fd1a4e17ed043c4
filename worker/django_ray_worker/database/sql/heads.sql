    SELECT head.task_id, head.priority, 0::bigint AS turn
    FROM queue
    CROSS JOIN LATERAL (
        SELECT task_id, priority FROM django_ray_execution
        WHERE backend = %(backend)s AND queue_name = queue.name AND state = 'READY' AND due_at IS NULL
            AND (expires_at IS NULL OR expires_at > statement_timestamp() OR started_at IS NOT NULL)
        ORDER BY priority DESC, task_id
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ) AS head
    LIMIT %(limit)s * greatest(%(limit)s, 32)::bigint
