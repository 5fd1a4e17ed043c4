    -- Of one priority in turn: the next is of the queue that has the fewest here. And of a queue with a quota no more than its room.
    SELECT head.task_id, head.priority, head.turn, queue.name
    FROM queue
    CROSS JOIN LATERAL (
        SELECT
            task_id, priority,
            coalesce((%(held)s::jsonb ->> queue.name)::bigint, 0) + row_number() OVER (ORDER BY priority DESC, task_id) AS turn
        FROM (
            SELECT task_id, priority FROM django_ray_execution
            WHERE backend = %(backend)s AND queue_name = queue.name AND state = 'READY' AND due_at IS NULL
                AND (expires_at IS NULL OR expires_at > statement_timestamp() OR started_at IS NOT NULL)
            ORDER BY priority DESC, task_id
            LIMIT least(%(limit)s::bigint, coalesce((%(rooms)s::jsonb ->> queue.name)::bigint, %(limit)s::bigint))
            FOR UPDATE SKIP LOCKED
        ) AS first
    ) AS head
    LIMIT %(limit)s * greatest(%(limit)s, 32)::bigint
