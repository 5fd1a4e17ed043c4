    -- Of one priority, what waits behind gates has its share before the others, and gets what these leave.
    SELECT task_id FROM (
        SELECT task_id, priority, %(share)s::int AS rank, turn FROM head
        UNION ALL
        SELECT task_id, priority, CASE WHEN rank <= %(share)s::int THEN rank - %(limit)s::int ELSE rank END, 0
        FROM gated WHERE task_id IS NOT NULL
    ) AS candidate
    ORDER BY priority DESC, rank, turn, task_id LIMIT %(limit)s
