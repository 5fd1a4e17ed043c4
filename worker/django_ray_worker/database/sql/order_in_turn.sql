    -- As without turns; and of a queue with a quota no more than its room, also of what waits behind gates.
    SELECT task_id FROM (
        SELECT candidate.*, row_number() OVER (
            PARTITION BY execution.queue_name ORDER BY candidate.priority DESC, candidate.rank, candidate.turn, task_id
        ) AS place, coalesce((%(rooms)s::jsonb ->> execution.queue_name)::bigint, %(limit)s::bigint) AS room
        FROM (
            SELECT task_id, priority, %(share)s::int AS rank, turn FROM head
            UNION ALL
            SELECT task_id, priority, CASE WHEN rank <= %(share)s::int THEN rank - %(limit)s::int ELSE rank END, 0
            FROM gated WHERE task_id IS NOT NULL
        ) AS candidate
        JOIN django_ray_execution AS execution USING (task_id)
    ) AS placed
    WHERE place <= room
    ORDER BY priority DESC, rank, turn, task_id LIMIT %(limit)s
