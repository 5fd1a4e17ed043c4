DROP FUNCTION django_ray_heads(text, text[], text, int);

CREATE OR REPLACE FUNCTION django_ray_oldest(of_backend text, given text[]) RETURNS timestamptz LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT AS $$
BEGIN
    RETURN (
        WITH RECURSIVE queue(name) AS MATERIALIZED (
            SELECT * FROM django_ray_queues(of_backend, given)
        ), head(name, priority, since) AS (
            SELECT queue.name, first.* FROM queue CROSS JOIN LATERAL (
                SELECT priority, greatest(enqueued_at, run_after, last_attempted_at) FROM django_ray_execution
                WHERE backend = of_backend AND queue_name = queue.name AND state = 'READY' AND due_at IS NULL
                ORDER BY priority DESC, task_id LIMIT 1
            ) AS first
            UNION ALL
            SELECT head.name, next.* FROM head CROSS JOIN LATERAL (
                SELECT priority, greatest(enqueued_at, run_after, last_attempted_at) FROM django_ray_execution
                WHERE backend = of_backend AND queue_name = head.name AND state = 'READY' AND due_at IS NULL
                    AND priority < head.priority
                ORDER BY priority DESC, task_id LIMIT 1
            ) AS next
        ), due(since) AS (
            SELECT first.due_at FROM queue CROSS JOIN LATERAL (
                SELECT due_at FROM django_ray_execution
                WHERE backend = of_backend AND queue_name = queue.name AND state = 'READY' AND due_at IS NOT NULL
                    AND due_at <= statement_timestamp()
                ORDER BY due_at LIMIT 1
            ) AS first
        )
        SELECT min(since) FROM (SELECT since FROM head UNION ALL SELECT since FROM due) AS waiting
    );
END
$$;
