-- Our part of what is claimable in our queues, counted up to limit: each supervisor of the backend that lives has the same part, as
-- far as the table tells.
SELECT ceil(waiting.number::float8 / greatest(1, (
    SELECT count(*) FROM (
        SELECT FROM django_ray_worker
        WHERE backend = %(backend)s AND stopped_at IS NULL AND lost_at IS NULL LIMIT 1000
    ) AS living
)))::int AS number
FROM (
    SELECT count(*) AS number FROM (
        SELECT FROM django_ray_heads(%(backend)s, %(queues)s, NULL, 1000) AS queue
        CROSS JOIN LATERAL (
            SELECT priority, task_id FROM django_ray_execution
            WHERE backend = %(backend)s AND queue_name = queue.name AND state = 'READY' AND due_at IS NULL
            ORDER BY priority DESC, task_id
            LIMIT %(limit)s
        ) AS head
        LIMIT %(limit)s
    ) AS claimable
) AS waiting
