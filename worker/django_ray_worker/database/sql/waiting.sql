-- Our part of what could be claimed from our queues, counted up to limit: each supervisor of the backend that lives has the same part, as
-- far as the table tells. What is overdue and what waits behind gates counts, too: nobody promotes or admits it where there is no slot. And
-- the seconds until the next one falls due.
WITH queue AS MATERIALIZED (
    SELECT name, next_due FROM django_ray_heads(%(backend)s, %(queues)s, NULL, 1000)
), ready AS MATERIALIZED (
    SELECT count(*) AS number FROM (
        SELECT FROM queue
        CROSS JOIN LATERAL (
            SELECT priority, task_id FROM django_ray_execution
            WHERE backend = %(backend)s AND queue_name = queue.name AND state = 'READY' AND due_at IS NULL
            ORDER BY priority DESC, task_id
            LIMIT %(limit)s
        ) AS head
        LIMIT %(limit)s
    ) AS claimable
), overdue AS MATERIALIZED (
    SELECT count(*) AS number FROM (
        SELECT FROM django_ray_execution
        WHERE backend = %(backend)s AND state = 'READY' AND due_at IS NOT NULL AND due_at <= statement_timestamp()
            AND (%(queues)s::text[] IS NULL OR queue_name = ANY (%(queues)s::text[]))
        ORDER BY backend, due_at NULLS FIRST
        LIMIT %(limit)s
    ) AS due
), gated AS MATERIALIZED (
    SELECT count(*) AS number FROM (
        SELECT FROM django_ray_execution
        WHERE backend = %(backend)s AND state = 'WAITING' AND gate IS NOT NULL AND gate > '"' COLLATE "C"  -- and no lane
            AND (%(queues)s::text[] IS NULL OR queue_name = ANY (%(queues)s::text[]))
        ORDER BY backend, priority DESC, queue_name, gate, task_id
        LIMIT %(limit)s
    ) AS behind
)
SELECT
    ceil(least(%(limit)s::int, ready.number + overdue.number + gated.number)::float8 / greatest(1, (
        SELECT count(*) FROM (
            SELECT FROM django_ray_worker
            WHERE backend = %(backend)s AND stopped_at IS NULL AND lost_at IS NULL LIMIT 1000
        ) AS living
    )))::int AS number,
    (
        SELECT (extract(epoch FROM min(next_due)) - extract(epoch FROM clock_timestamp()))::float8 FROM queue
        WHERE next_due > statement_timestamp() AND isfinite(next_due)
    ) AS next_due
FROM ready, overdue, gated
