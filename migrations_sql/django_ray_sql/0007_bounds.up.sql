-- A claim costs what it takes, however many queues hold rows.

-- The queues to look into for a claim, in the order of their first rows: the highest priority first, and the oldest within one.
-- Those given; or, for a supervisor of any queue, up to most of those that hold rows, by name from after on and around in a
-- circle. The paused ones are left out. Whoever was looked at last says so if there may be more: the next claim goes on after it.
-- And when the next row falls due, in that queue; for a supervisor of any queue in a row without a name, paused ones included.
-- A few index probes per queue, however deep the backlog.
CREATE FUNCTION django_ray_heads(of_backend text, given text[], after text, most int)
RETURNS TABLE (name text, next_due timestamptz, is_last boolean) LANGUAGE plpgsql STABLE ROWS 4
SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    IF cardinality(given) <= 32 THEN
        -- A claim looks into all of these anyway.
        RETURN QUERY
        SELECT queue, (
            SELECT due_at FROM django_ray_execution
            WHERE backend = of_backend AND queue_name = queue AND state = 'READY' AND due_at IS NOT NULL
            ORDER BY due_at LIMIT 1
        ), false
        FROM unnest(given) AS queue
        WHERE NOT EXISTS (
            SELECT FROM django_ray_queue WHERE backend = of_backend AND name = queue COLLATE "C" AND paused_at IS NOT NULL
        );
    ELSIF given IS NOT NULL THEN
        RETURN QUERY
        SELECT queue, (
            SELECT due_at FROM django_ray_execution
            WHERE backend = of_backend AND queue_name = queue AND state = 'READY' AND due_at IS NOT NULL
            ORDER BY due_at LIMIT 1
        ), false
        FROM unnest(given) AS queue LEFT JOIN LATERAL (
            SELECT priority, task_id FROM django_ray_execution
            WHERE backend = of_backend AND queue_name = queue AND state = 'READY' AND due_at IS NULL
            ORDER BY priority DESC, task_id LIMIT 1
        ) AS first ON true
        WHERE NOT EXISTS (
            SELECT FROM django_ray_queue WHERE backend = of_backend AND name = queue COLLATE "C" AND paused_at IS NOT NULL
        )
        ORDER BY priority DESC NULLS LAST, task_id;
    ELSE
        RETURN QUERY
        SELECT NULL::text, due_at, false FROM django_ray_execution
        WHERE backend = of_backend AND state = 'READY' AND due_at IS NOT NULL
        ORDER BY due_at NULLS FIRST LIMIT 1;
        RETURN QUERY
        -- From the next possible name on, then from the first one to where we began. Each is read as far as it is asked for.
        WITH RECURSIVE onward(queue, priority, task_id) AS (
            (SELECT queue_name::text, priority, task_id FROM django_ray_execution
             WHERE backend = of_backend AND state = 'READY' AND due_at IS NULL
                AND queue_name >= coalesce(after || E'\x01', '') COLLATE "C"
             ORDER BY queue_name, priority DESC, task_id LIMIT 1)
            UNION ALL
            SELECT next.* FROM onward CROSS JOIN LATERAL (
                SELECT queue_name::text, priority, task_id FROM django_ray_execution
                WHERE backend = of_backend AND state = 'READY' AND due_at IS NULL
                    AND queue_name > onward.queue COLLATE "C"
                ORDER BY queue_name, priority DESC, task_id LIMIT 1
            ) AS next
        ), around(queue, priority, task_id) AS (
            (SELECT queue_name::text, priority, task_id FROM django_ray_execution
             WHERE backend = of_backend AND state = 'READY' AND due_at IS NULL AND queue_name <= after COLLATE "C"
             ORDER BY queue_name, priority DESC, task_id LIMIT 1)
            UNION ALL
            SELECT next.* FROM around CROSS JOIN LATERAL (
                SELECT queue_name::text, priority, task_id FROM django_ray_execution
                WHERE backend = of_backend AND state = 'READY' AND due_at IS NULL
                    AND queue_name > around.queue COLLATE "C" AND queue_name <= after COLLATE "C"
                ORDER BY queue_name, priority DESC, task_id LIMIT 1
            ) AS next
        ), found AS (
            SELECT * FROM (SELECT * FROM onward UNION ALL SELECT * FROM around) AS circle
            WHERE NOT EXISTS (
                SELECT FROM django_ray_queue
                WHERE backend = of_backend AND name = circle.queue COLLATE "C" AND paused_at IS NOT NULL
            )
            LIMIT most
        ), numbered AS (
            SELECT queue, priority, task_id, row_number() OVER () AS place FROM found
        )
        SELECT queue, NULL::timestamptz, place = most FROM numbered ORDER BY priority DESC, task_id;
    END IF;
END
$$;

-- Since when the oldest claimable row of the queues has been waiting; for a supervisor of any queue, of the first thousand that
-- hold rows. One index probe per queue and priority, and one for what has fallen due.
CREATE OR REPLACE FUNCTION django_ray_oldest(of_backend text, given text[]) RETURNS timestamptz LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT AS $$
BEGIN
    RETURN (
        WITH RECURSIVE filled(name) AS (
            (SELECT queue_name::text FROM django_ray_execution
             WHERE given IS NULL AND backend = of_backend AND state = 'READY' AND due_at IS NULL
             ORDER BY queue_name LIMIT 1)
            UNION ALL
            SELECT next.* FROM filled CROSS JOIN LATERAL (
                SELECT queue_name::text FROM django_ray_execution
                WHERE backend = of_backend AND state = 'READY' AND due_at IS NULL AND queue_name > filled.name COLLATE "C"
                ORDER BY queue_name LIMIT 1
            ) AS next
        ), queue(name) AS MATERIALIZED (
            SELECT * FROM django_ray_queues(of_backend, coalesce(given, ARRAY(
                SELECT name FROM filled WHERE NOT EXISTS (
                    SELECT FROM django_ray_queue AS queue
                    WHERE queue.backend = of_backend AND queue.name = filled.name COLLATE "C" AND paused_at IS NOT NULL
                ) LIMIT 1000
            )))
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
                WHERE given IS NOT NULL AND backend = of_backend AND queue_name = queue.name
                    AND state = 'READY' AND due_at IS NOT NULL AND due_at <= statement_timestamp()
                ORDER BY due_at LIMIT 1
            ) AS first
            UNION ALL
            (SELECT due_at FROM django_ray_execution
             WHERE given IS NULL AND backend = of_backend AND state = 'READY' AND due_at IS NOT NULL
                AND due_at <= statement_timestamp()
             ORDER BY due_at NULLS FIRST LIMIT 1)
        )
        SELECT min(since) FROM (SELECT since FROM head UNION ALL SELECT since FROM due) AS waiting
    );
END
$$;
